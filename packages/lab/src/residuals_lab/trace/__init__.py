"""A framework-neutral record of one forward and one backward, with value numbering.

Equal numbers mean equal values: an operation with the same name, attributes and input numbers gives the same output
numbers, whenever it runs. So a backward step that makes numbers the forward already made is a recomputation, and a
saved array is known by its number wherever it turns up. Adapters write a trace through a `Recorder`; everyone else
reads it.
"""

import math
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Phase = Literal["forward", "backward", "naming"]
Kind = Literal["input", "parameter", "output", "new", "view", "hidden"]
Keys = frozenset[Hashable]

# The cost class of an operation, by the name that both adapters use for it. One that is in no class is "other", and
# counts as costly: an operation that nobody thought of has to be seen, not passed over.
COSTS = {
    "view": "alias as_strided branch_in broadcast carry detach diagonal expand permute random_unwrap random_wrap "
    "reshape rev select slice split squeeze transpose unbind unsqueeze view",
    "elementwise": "abs add add_any addcdiv addcmul and arange bitcast_convert_type bitwise_and bitwise_not bitwise_or "
    "bitwise_xor branch cat ceil clamp clamp_min clone concatenate conj constant constant_pad_nd convert "
    "copy copy_p copysign div dynamic_slice dynamic_update_slice empty empty_like eq fill floor "
    "floor_divide fmod full full_like ge gt imag integer_pow iota is_finite isinf isnan le lerp "
    "lift_fresh_copy logical_and logical_not logical_or logical_xor lt masked_fill maximum minimum mul ne "
    "neg new_empty new_ones new_zeros nextafter not ones ones_like or pad real reciprocal reduce_precision "
    "relu rem remainder repeat round rsub scalar_tensor shift_left shift_right_arithmetic "
    "shift_right_logical sign square stack sub threshold tril triu trunc where xor zero zeros zeros_like",
    "transcendental": "acos acosh asin asinh atan atan2 atanh cbrt cos cosh digamma erf erf_inv erfc exp exp2 expm1 "
    "gelu gelu_tanh lgamma log log10 log1p log2 pow rsqrt sigmoid silu sin sinh softplus sqrt tan tanh",
    "reduction": "all any argmax argmin batch_norm cumlogsumexp cummax cummin cumprod cumsum group_norm layer_norm "
    "log_softmax logsumexp max mean min nll_loss norm prod rms_norm softmax sort std sum topk var var_mean",
    "contraction": "attention conv matmul",
    "random": "random random_number",
}
_COST = {name: cost for cost, names in COSTS.items() for name in names.split()}
CHEAP = frozenset({"view", "elementwise"})  # what a backward may do again without a word
_MAKING = "clone constant convert copy empty empty_like full full_like new_empty ones scalar_tensor zeros"
MAKING = frozenset(_MAKING.split())  # what spells out an array or copies one, and computes nothing


def cost_of(op: str) -> str:
    return _COST.get(op, "other")


@dataclass(frozen=True)
class Value:
    """An array as far as a trace knows it; `dtype` is NumPy's name for it."""

    number: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its elements, by the bits that a dtype has in its name."""
        bits = re.search(r"\d+", self.dtype)
        width = int(bits[0]) // 8 if bits else {"bool": 1}.get(self.dtype, 8)  # a key is two words
        return self.elements * width


@dataclass(frozen=True)
class Step:
    """One operation: the numbers it reads and the numbers it makes."""

    op: str
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    phase: Phase
    times: int = 1  # how often it runs, as a part of a loop
    line: str = ""  # of the user's code, "model.py:41"; of a backward step, what it is the backward of
    scope: str = ""  # the modules or functions around it, "decoder/layer_3/mlp"
    axes: tuple[int, ...] = ()  # that a reduction is along, counted from the last, which is -1

    @property
    def cost(self) -> str:
        return cost_of(self.op)


@dataclass(frozen=True)
class Residual:
    """An array held between forward and backward. `nbytes` is what its storage holds, which a view shares."""

    name: str
    value: Value
    kind: Kind
    storage: Hashable
    nbytes: int
    size: int  # bytes of the array itself; fewer than its storage holds if it is a part of a larger one
    is_new: bool  # nobody else keeps its storage alive
    op: str  # that makes it; "" for what no operation makes
    line: str  # where that is, as a step has it
    scope: str
    saved: int  # how many steps there are before it is there to be saved
    reads: tuple[int, ...]  # the backward's steps that read it, or a view of it; by their place in the trace
    is_needed: bool  # one of these steps is on the way to a gradient that somebody asked for

    @property
    def is_unused(self) -> bool:
        return not self.is_needed


@dataclass(frozen=True)
class Trace:
    steps: tuple[Step, ...]
    crossing: tuple[Residual, ...]
    alive: frozenset[int] = frozenset()  # the numbers of inputs, parameters and outputs
    values: Mapping[int, Value] = field(default_factory=dict)  # by number
    parts: Mapping[int, int] = field(default_factory=dict)  # of an array that a loop stacks up, what each turn gives
    classes: Mapping[str, str] = field(default_factory=dict)  # of a scope that is a module, what module it is
    unsure: Mapping[str, str] = field(default_factory=dict)  # operations that keep what only a run knows, and where
    gone: Collection[int] = ()  # values that were written over before the backward
    views_share: bool = False  # a view is no array of its own

    @property
    def saved_bytes(self) -> int:
        """Bytes held between forward and backward, each storage once."""
        return sum({r.storage: r.nbytes for r in self.crossing}.values())

    @property
    def new_bytes(self) -> int:
        """Bytes held beyond arrays that are alive anyway, each storage once."""
        return sum({r.storage: r.nbytes for r in self.crossing if r.is_new}.values())

    @property
    def turn(self) -> int:
        """How many steps the forward has: the place of the first step of the backward."""
        return sum(step.phase == "forward" for step in self.steps)

    def computed(self) -> list[str]:
        """The costly operations of the forward, by name, each once."""
        return sorted({s.op for s in self.steps if s.phase == "forward" and s.cost not in CHEAP})

    def repeated(self, cheap: bool = False) -> list[Step]:
        """The steps of the backward that make what the forward made; the cheap ones only if asked for."""
        made = {n for step in self.steps if step.phase == "forward" for n in step.outs}
        again = [s for s in self.steps if s.phase == "backward" and s.outs and made.issuperset(s.outs)]
        return [step for step in again if cheap or step.cost not in CHEAP]

    def recomputed(self, cheap: bool = False) -> list[str]:
        """The operations that the backward repeats, by name, each once; the cheap ones only if asked for."""
        return sorted({step.op for step in self.repeated(cheap)})

    def part(self, number: int) -> int:
        """Of an array that a loop stacks up, what each turn gives; of another, itself."""
        return self.parts.get(number, number)


def _unmade(held: "Held", kind: Kind) -> str:
    """What to call an array that no step is seen to make, and nobody names."""
    return "closed over" if not held.is_made else "output" if kind == "output" else "array"


class Held(NamedTuple):
    """An array held for the backward, as an adapter finds it."""

    number: int
    key: Hashable  # by which steps touch it
    storage: Hashable
    nbytes: int  # of its storage
    size: int  # its own
    is_made: bool  # by a step, so that nobody else keeps its storage alive
    is_hidden: bool = False
    saved: int | None = None  # how many steps there were; None for at once when it is made
    made: int | None = None  # how many there were when its storage was made


class Known(NamedTuple):
    """An array that somebody else keeps alive."""

    number: int
    storage: Hashable
    kind: Kind


@dataclass
class Recorder:
    """Numbers values and collects steps; the adapters' side of a trace."""

    phase: Phase = "forward"
    steps: list[Step] = field(default_factory=list)
    values: dict[int, Value] = field(default_factory=dict)
    times: int = 1  # how often the steps to come run, in the loops around them
    line: str = ""  # where the steps to come are, in the user's code
    scope: str = ""  # and in which modules or functions
    parts: dict[int, int] = field(default_factory=dict)  # of an array that a loop stacks up, what each turn gives
    classes: dict[str, str] = field(default_factory=dict)  # of a scope that is a module, what module it is
    unsure: dict[str, str] = field(default_factory=dict)  # operations that keep what only a run knows, and where
    gone: set[int] = field(default_factory=set)  # values that were written over before the backward
    views_share: bool = False  # a view is no array of its own: it is called after what it is a view of
    _numbers: dict[Hashable, tuple[int, ...]] = field(default_factory=dict)
    _touched: dict[int, tuple[Keys, Keys]] = field(default_factory=dict)  # of a step of the backward

    def value(self, key: Hashable, shape: Sequence[int], dtype: str) -> int:
        """The number of a value that no step makes: an input, a constant. Equal keys are equal values."""
        return self._assign(("value", key), [(shape, dtype)])[0]

    def step(
        self,
        op: str,
        attrs: Hashable,
        ins: Sequence[int],
        outs: Sequence[tuple[Sequence[int], str]],
        axes: tuple[int, ...] = (),
    ) -> tuple[int, ...]:
        """Record one operation and return its outputs' numbers; `outs` gives each one's shape and dtype."""
        numbers = self._assign((op, attrs, tuple(ins)), outs)
        self.again(op, ins, numbers, axes)
        return numbers

    def again(self, op: str, ins: Sequence[int], outs: Sequence[int], axes: tuple[int, ...] = ()) -> None:
        """Record one operation whose outputs have numbers."""
        self.steps.append(Step(op, tuple(ins), tuple(outs), self.phase, self.times, self.line, self.scope, axes))
        if self.phase == "backward":
            self.touch(ins, outs)

    def touch(self, reads: Iterable[Hashable], writes: Iterable[Hashable]) -> None:
        """What the last step reads and writes, where its numbers do not say that: in storages that are shared."""
        self._touched[len(self.steps) - 1] = frozenset(reads), frozenset(writes)

    def forget(self, begin: int) -> None:
        """Take back all steps from this one on."""
        del self.steps[begin:]
        for i in [i for i in self._touched if i >= begin]:
            del self._touched[i]

    def _assign(self, key: Hashable, outs: Sequence[tuple[Sequence[int], str]]) -> tuple[int, ...]:
        if key not in self._numbers:
            first = len(self.values)
            for number, (shape, dtype) in enumerate(outs, first):
                self.values[number] = Value(number, tuple(shape), dtype)
            self._numbers[key] = tuple(range(first, first + len(outs)))
        return self._numbers[key]

    def trace(
        self, held: Iterable[Held], known: Iterable[Known], gradients: Iterable[Hashable], names: dict[int, str]
    ) -> Trace:
        """The finished trace.

        Args:
            held: each array held for the backward, in order.
            known: the inputs, parameters and outputs; of two that are the same, the first counts.
            gradients: the keys of what the backward gives.
            names: what to call a value; one that is not here is called after the operation that makes it.
        """
        makers: dict[int, list[int]] = defaultdict(list)
        for i, step in enumerate(self.steps):
            for n in step.outs:
                makers[n].append(i)

        def maker_of(number: int, made: int | None) -> int | None:
            """The step that makes it; of several, the last one by then."""
            found = makers.get(number)
            return found[max(bisect_left(found, made or 0) - 1, 0)] if found else None

        reads, needed = self._reads(), self._needed(gradients)
        first = [*known][::-1]
        numbers, storages = frozenset(a.number for a in first), {a.storage: a.kind for a in first}
        titles = {a.storage: names[a.number] for a in first if a.number in names}
        crossing: dict[tuple[int, Hashable], Residual] = {}
        for held_ in held:
            number, storage = held_.number, held_.storage
            kind = self._kind(held_, storages)
            part = self.parts.get(number, number)
            base = maker_of(part, held_.made) if held_.is_made or number not in numbers else None
            while base is not None and self.views_share and self.steps[base].cost == "view":
                part = self.steps[base].ins[0]
                base = maker_of(part, held_.made)
            origin = None if base is None else self.steps[base]
            readers = reads.get(held_.key, ())
            title = titles.get(storage) if held_.size == held_.nbytes else None  # as large as what it is a view of
            residual = Residual(
                name=names.get(number) or names.get(part) or title or (origin.op if origin else _unmade(held_, kind)),
                value=self.values[number],
                kind=kind,
                storage=storage,
                nbytes=held_.nbytes,
                size=held_.size,
                is_new=held_.is_made and storage not in storages,
                op=origin.op if origin else "",
                line=origin.line if origin else "",
                scope=origin.scope if origin else "",
                saved=(held_.saved or 0) if base is None else base + 1,
                reads=tuple(readers),
                is_needed=not needed.isdisjoint(readers),
            )
            crossing.setdefault((number, storage), residual)
        steps = tuple(step for step in self.steps if step.phase != "naming")
        rest = numbers, self.values, self.parts, self.classes, self.unsure, self.gone, self.views_share
        return Trace(steps, tuple(crossing.values()), *rest)

    @staticmethod
    def _kind(a: Held, storages: dict[Hashable, Kind]) -> Kind:
        if a.is_hidden:
            return "hidden"
        if a.size < a.nbytes:
            return "view"
        return storages.get(a.storage, "new" if a.is_made else "parameter")  # closed over: somebody else keeps it

    def _reads(self) -> dict[Hashable, list[int]]:
        """The steps of the backward that touch each key to read it, or a view that the backward takes of it."""
        found: dict[Hashable, list[int]] = defaultdict(list)
        viewed: dict[Hashable, Keys] = {}  # of a view, what it is a view of
        for i, (reads, writes) in self._touched.items():
            bases = frozenset(base for key in reads for base in viewed.get(key, {key}))
            if self.steps[i].cost == "view":
                for key in writes:
                    viewed[key] = viewed.get(key, frozenset({key})) | bases
            else:
                for base in bases | reads:
                    found[base].append(i)
        return found

    def _needed(self, gradients: Iterable[Hashable]) -> set[int]:
        """The steps of the backward on the way to a gradient."""
        live, before, found = {*gradients}, -1, set()
        while len(live) > before:  # again, for what one turn of a loop hands to the next
            before = len(live)
            for i, (reads, writes) in reversed(self._touched.items()):
                if not live.isdisjoint(writes):
                    found.add(i)
                    live |= reads
        return found

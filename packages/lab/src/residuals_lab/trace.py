"""A framework-neutral record of one forward and one backward, with value numbering.

Equal numbers mean equal values: an operation with the same name, attributes and input numbers gives the same output
numbers, whenever it runs. So a backward step that makes numbers the forward already made is a recomputation, and a
saved array is known by its number wherever it turns up. Adapters write a trace through a `Recorder`; everyone else
reads it.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Phase = Literal["forward", "backward", "naming"]
Kind = Literal["input", "parameter", "output", "new", "view", "hidden"]
ALIVE = frozenset({"input", "parameter", "output", "view"})  # somebody else keeps it, or the array that it views

# The cost class of an operation, by the name that both adapters use for it. One that is in no class is "other", and
# counts as costly: an operation that nobody thought of has to be seen, not passed over.
COSTS = {
    "view": "alias as_strided branch broadcast carry detach diagonal expand permute random_unwrap random_wrap reshape "
    "rev select slice split squeeze transpose unbind unsqueeze view",
    "elementwise": "abs add add_any addcdiv addcmul and arange bitcast_convert_type bitwise_and bitwise_not bitwise_or "
    "bitwise_xor cat ceil clamp clone concatenate conj constant_pad_nd convert copy copy_p copysign div dynamic_slice "
    "dynamic_update_slice empty empty_like eq fill floor floor_divide fmod full full_like ge gt imag integer_pow iota "
    "is_finite isinf isnan le lerp lift_fresh_copy logical_and logical_not logical_or logical_xor lt masked_fill "
    "maximum minimum mul ne neg new_empty new_ones new_zeros nextafter not ones ones_like or pad real reciprocal "
    "reduce_precision relu rem remainder repeat round rsub scalar_tensor shift_left shift_right_arithmetic "
    "shift_right_logical sign square stack sub threshold tril triu trunc where xor zero zeros zeros_like",
    "transcendental": "acos acosh asin asinh atan atan2 atanh cbrt cos cosh digamma erf erf_inv erfc exp exp2 expm1 "
    "gelu lgamma log log10 log1p log2 pow rsqrt sigmoid silu sin sinh softplus sqrt tan tanh",
    "reduction": "all any argmax argmin cumlogsumexp cummax cummin cumprod cumsum logsumexp max mean min norm prod "
    "softmax sort std sum topk var var_mean",
    "contraction": "conv matmul",
    "random": "random",
}
_COST = {name: cost for cost, names in COSTS.items() for name in names.split()}
CHEAP = frozenset({"view", "elementwise"})  # what a backward may do again without a word


@dataclass(frozen=True)
class Value:
    """An array as far as a trace knows it; `dtype` is NumPy's name for it."""

    number: int
    shape: tuple[int, ...]
    dtype: str


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

    @property
    def cost(self) -> str:
        return _COST.get(self.op, "other")


@dataclass(frozen=True)
class Residual:
    """An array held between forward and backward. `nbytes` is what its storage holds, which a view shares."""

    name: str
    value: Value
    kind: Kind
    storage: Hashable
    nbytes: int
    op: str  # that makes it; "" for what no operation makes
    line: str  # where that is, as a step has it
    scope: str
    saved: int  # how many steps there are before it is saved
    reads: tuple[int, ...]  # the backward's steps that read it, or a view of it; by their place in the trace

    @property
    def is_unused(self) -> bool:
        return not self.reads


@dataclass(frozen=True)
class Trace:
    steps: tuple[Step, ...]
    crossing: tuple[Residual, ...]

    @property
    def saved_bytes(self) -> int:
        """Bytes held between forward and backward, each storage once."""
        return sum({r.storage: r.nbytes for r in self.crossing}.values())

    @property
    def new_bytes(self) -> int:
        """Bytes held beyond arrays that are alive anyway, each storage once."""
        alive = {r.storage for r in self.crossing if r.kind in ALIVE}
        return sum({r.storage: r.nbytes for r in self.crossing if r.storage not in alive}.values())

    def computed(self) -> list[str]:
        """The costly operations of the forward, by name, each once."""
        return sorted({s.op for s in self.steps if s.phase == "forward" and s.cost not in CHEAP})

    def recomputed(self, cheap: bool = False) -> list[str]:
        """The operations that the backward repeats, by name, each once; the cheap ones only if asked for."""
        made = {n for step in self.steps if step.phase == "forward" for n in step.outs}
        again = [s for s in self.steps if s.phase == "backward" and s.outs and made.issuperset(s.outs)]
        return sorted({step.op for step in again if cheap or step.cost not in CHEAP})


class Held(NamedTuple):
    """An array held for the backward, as an adapter finds it."""

    number: int
    storage: Hashable
    nbytes: int
    is_made: bool  # by a step, so that nobody else keeps its storage alive
    is_hidden: bool = False
    saved: int | None = None  # how many steps there were; None for at once when it is made


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
    _numbers: dict[Hashable, tuple[int, ...]] = field(default_factory=dict)

    def value(self, key: Hashable, shape: Sequence[int], dtype: str) -> int:
        """The number of a value that no step makes: an input, a constant. Equal keys are equal values."""
        return self._assign(("value", key), [(shape, dtype)])[0]

    def step(
        self, op: str, attrs: Hashable, ins: Sequence[int], outs: Sequence[tuple[Sequence[int], str]]
    ) -> tuple[int, ...]:
        """Record one operation and return its outputs' numbers; `outs` gives each one's shape and dtype."""
        numbers = self._assign((op, attrs, tuple(ins)), outs)
        self.again(op, ins, numbers)
        return numbers

    def again(self, op: str, ins: Sequence[int], outs: Sequence[int]) -> None:
        """Record one operation whose outputs have numbers."""
        self.steps.append(Step(op, tuple(ins), tuple(outs), self.phase, self.times, self.line, self.scope))

    def _assign(self, key: Hashable, outs: Sequence[tuple[Sequence[int], str]]) -> tuple[int, ...]:
        if key not in self._numbers:
            first = len(self.values)
            for number, (shape, dtype) in enumerate(outs, first):
                self.values[number] = Value(number, tuple(shape), dtype)
            self._numbers[key] = tuple(range(first, first + len(outs)))
        return self._numbers[key]

    def trace(
        self,
        held: Iterable[Held],
        inputs: dict[int, Hashable],
        outputs: dict[int, Hashable],
        names: dict[int, str],
    ) -> Trace:
        """The finished trace.

        Args:
            held: each array held for the backward, in order.
            inputs: the inputs' numbers and storages.
            outputs: the outputs' numbers and storages.
            names: what to call a value; one that is not here is called after the operation that makes it.
        """
        makers = {n: i for i, step in reversed([*enumerate(self.steps)]) for n in step.outs}
        reads = self._reads()
        alive = {*inputs.values(), *outputs.values()}
        crossing: dict[tuple[int, Hashable], Residual] = {}
        for a in held:
            kind: Kind = "new"
            if a.is_hidden:
                kind = "hidden"
            elif a.number in inputs:
                kind = "input"
            elif a.number in outputs:
                kind = "output"
            elif a.storage in alive:
                kind = "view"
            elif not a.is_made:
                kind = "parameter"  # closed over: somebody else keeps it alive
            part = self.parts.get(a.number, a.number)
            maker = makers.get(part)
            step = None if maker is None or a.number in inputs else self.steps[maker]
            name = names.get(a.number) or names.get(part) or (step.op if step else "closed over")
            where = (step.op, step.line, step.scope) if step else ("", "", "")
            made = 0 if maker is None else maker + 1
            residual = Residual(
                name,
                self.values[a.number],
                kind,
                a.storage,
                a.nbytes,
                *where,
                saved=made if a.saved is None else a.saved,
                reads=tuple(reads.get(a.number, ())),
            )
            crossing.setdefault((a.number, a.storage), residual)
        return Trace(tuple(self.steps), tuple(crossing.values()))

    def _reads(self) -> dict[int, list[int]]:
        """The steps of the backward that read each value, themselves or a view that the backward takes of it."""
        found: dict[int, list[int]] = defaultdict(list)
        viewed: dict[int, set[int]] = {}  # of a view, what it is a view of
        for i, step in enumerate(self.steps):
            if step.phase == "backward":
                bases = {base for n in step.ins for base in viewed.get(n, {n})}
                if step.cost == "view":
                    for n in step.outs:
                        viewed[n] = viewed.get(n, {n}) | bases
                else:
                    for base in bases | set(step.ins):
                        found[base].append(i)
        return found

"""The recorder: how an adapter writes a trace."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from residuals_lab.trace import Kind, Phase, Residual, Step, Trace, Value

Keys = frozenset[Hashable]


def _unmade(held: "Held", kind: Kind) -> str:
    """What to call an array that no step is seen to make, and nobody names."""
    return "closed over" if not held.is_made else "output" if kind == "output" else "array"


class ArrayType(NamedTuple):
    """An array without its numbers."""

    shape: Sequence[int]
    dtype: str
    itemsize: int  # bytes of an element, as the framework stores it


class Held(NamedTuple):
    """An array held for the backward, as an adapter finds it."""

    number: int
    key: Hashable  # by which steps touch it
    storage: Hashable
    storage_bytes: int
    nbytes: int
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
    module: str = ""  # and in which modules or functions
    parts: dict[int, int] = field(default_factory=dict)  # of an array that a loop stacks up, what each turn gives
    classes: dict[str, str] = field(default_factory=dict)  # of a scope that is a module, what module it is
    unsure: dict[str, str] = field(default_factory=dict)  # operations that keep what only a run knows, and where
    gone: set[int] = field(default_factory=set)  # values that were written over before the backward
    views_share: bool = False  # a view is no array of its own: it is called after what it is a view of
    _numbers: dict[Hashable, tuple[int, ...]] = field(default_factory=dict)
    _touched: dict[int, tuple[Keys, Keys]] = field(default_factory=dict)  # of a step of the backward

    def value(self, key: Hashable, like: ArrayType) -> int:
        """The number of a value that no step makes: an input, a constant. Equal keys are equal values."""
        return self._assign(("value", key), [like])[0]

    def step(
        self,
        op: str,
        attrs: Hashable,
        ins: Sequence[int],
        outs: Sequence[ArrayType],
        axes: tuple[int, ...] = (),
    ) -> tuple[int, ...]:
        """Record one operation and return its outputs' numbers."""
        numbers = self._assign((op, attrs, tuple(ins)), outs)
        self.again(op, ins, numbers, axes)
        return numbers

    def again(self, op: str, ins: Sequence[int], outs: Sequence[int], axes: tuple[int, ...] = ()) -> None:
        """Record one operation whose outputs have numbers."""
        self.steps.append(Step(op, tuple(ins), tuple(outs), self.phase, self.times, self.line, self.module, axes))
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

    def _assign(self, key: Hashable, outs: Sequence[ArrayType]) -> tuple[int, ...]:
        if key not in self._numbers:
            first = len(self.values)
            for number, out in enumerate(outs, first):
                self.values[number] = Value(number, tuple(out.shape), out.dtype, out.itemsize)
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
            title = (
                titles.get(storage) if held_.nbytes == held_.storage_bytes else None
            )  # as large as what it is a view of
            residual = Residual(
                name=names.get(number) or names.get(part) or title or (origin.op if origin else _unmade(held_, kind)),
                value=self.values[number],
                kind=kind,
                storage=storage,
                storage_bytes=held_.storage_bytes,
                nbytes=held_.nbytes,
                is_new=held_.is_made and storage not in storages,
                op=origin.op if origin else "",
                line=origin.line if origin else "",
                module=origin.module if origin else "",
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
        if a.nbytes < a.storage_bytes:
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

"""The recorder: how an adapter writes a trace."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from residuals_lab.trace import Kind, Phase, Residual, Step, Trace, Value

Keys = frozenset[Hashable]


def _unmade(a: "Saved", kind: Kind) -> str:
    """The name of an array that no step is seen to make and nobody names."""
    return "closed over" if not a.is_made else "output" if kind == "output" else "array"


class ArrayType(NamedTuple):
    """An array without its numbers."""

    shape: Sequence[int]
    dtype: str
    itemsize: int  # bytes of an element, as the framework stores it


class Saved(NamedTuple):
    """An array saved for the backward, as an adapter finds it."""

    number: int
    key: Hashable  # by which `touch` knows it
    storage: Hashable
    storage_bytes: int
    nbytes: int
    is_made: bool  # a step made its storage, which nobody else keeps alive
    is_hidden: bool = False
    saved_at: int | None = None  # how many steps there were then; None if it is saved when it is made
    made_at: int | None = None  # how many steps there were when its storage was made


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
    branches: tuple[tuple[int, int], ...] = ()  # in which branches of the conditionals around them
    line: str = ""  # of the steps to come
    module: str = ""  # of the steps to come
    parts: dict[int, int] = field(default_factory=dict)  # this and the next six as a `Trace` has them
    classes: dict[str, str] = field(default_factory=dict)
    unsure: dict[str, str] = field(default_factory=dict)
    device: str = ""
    elsewhere: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)
    views_share: bool = False  # a view is no array of its own: it is named after its base
    _numbers: dict[Hashable, tuple[int, ...]] = field(default_factory=dict)
    _touched: dict[int, tuple[Keys, Keys]] = field(default_factory=dict)  # backward step → what it reads and writes

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
        where = self.times, self.line, self.module, axes, self.branches
        self.steps.append(Step(op, tuple(ins), tuple(outs), self.phase, *where))
        if self.phase == "backward":
            self.touch(ins, outs)

    def touch(self, reads: Iterable[Hashable], writes: Iterable[Hashable]) -> None:
        """Say what the last step reads and writes, where its numbers do not: several arrays may have one number."""
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
        self, saved: Iterable[Saved], known: Iterable[Known], gradients: Iterable[Hashable], names: dict[int, str]
    ) -> Trace:
        """The finished trace.

        Args:
            saved: each array saved for the backward, in order.
            known: the inputs, parameters and outputs; of two in one storage, the first counts.
            gradients: the keys of the gradients.
            names: number → name; a value without one is named after the operation that makes it.
        """
        reads, needed, makers = self._reads(), self._needed(gradients), self._makers()
        first = [*known][::-1]
        numbers, storages = {a.number: a.kind for a in first}, {a.storage: a.kind for a in first}
        titles = {a.storage: names[a.number] for a in first if a.number in names}
        residuals: dict[tuple[int, Hashable], Residual] = {}
        for a in saved:
            kind, number, place = self._kind(a, storages), self.parts.get(a.number, a.number), None
            if a.is_made or a.number not in numbers:
                number, place = self._maker(number, a.made_at, makers)
            maker = None if place is None else self.steps[place]
            readers = reads.get(a.key, ())
            title = titles.get(a.storage) if a.nbytes == a.storage_bytes else None  # not of a mere part
            residual = Residual(
                name=names.get(a.number) or names.get(number) or title or (maker.op if maker else _unmade(a, kind)),
                value=self.values[a.number],
                kind=kind,
                storage=a.storage,
                storage_bytes=a.storage_bytes,
                nbytes=a.nbytes,
                is_new=a.is_made and a.storage not in storages,
                op=maker.op if maker else "",
                line=maker.line if maker else "",
                module=maker.module if maker else "",
                saved=(a.saved_at or 0) if place is None else place + 1,
                reads=tuple(readers),
                is_needed=not needed.isdisjoint(readers),
            )
            residuals.setdefault((a.number, a.storage), residual)
        steps = tuple(step for step in self.steps if step.phase != "naming")
        rest = (
            numbers,
            self.values,
            self.parts,
            self.classes,
            self.unsure,
            self.device,
            self.elsewhere,
            self.notes,
            self.gone,
            self.views_share,
            names,
            {numbers[0]: key for key, numbers in self._numbers.items() if numbers},
        )
        return Trace(steps, tuple(residuals.values()), *rest)

    def _makers(self) -> dict[int, list[int]]:
        """The places of the steps that make each value, in order."""
        found: dict[int, list[int]] = defaultdict(list)
        for i, step in enumerate(self.steps):
            for n in step.outs:
                found[n].append(i)
        return found

    def _maker(self, number: int, made_at: int | None, makers: Mapping[int, Sequence[int]]) -> tuple[int, int | None]:
        """The place of the step that makes a value, the last one by then; if a view shares, of the step that makes the
        value that it is a view of, and that value's number.
        """
        while places := makers.get(number):
            place = places[max(bisect_left(places, made_at or 0) - 1, 0)]
            if not self.views_share or self.steps[place].cost != "view":
                return number, place
            number = self.steps[place].ins[0]
        return number, None

    @staticmethod
    def _kind(a: Saved, storages: dict[Hashable, Kind]) -> Kind:
        if a.is_hidden:
            return "hidden"
        if a.nbytes < a.storage_bytes:
            return "view"
        return storages.get(a.storage, "new" if a.is_made else "parameter")  # an array that is closed over

    def _reads(self) -> dict[Hashable, list[int]]:
        """Key → the steps of the backward that read that array, or a view that the backward takes of it."""
        found: dict[Hashable, list[int]] = defaultdict(list)
        viewed: dict[Hashable, Keys] = {}  # view → its bases
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
        while len(live) > before:  # again, since an iteration of a loop hands values to the next one
            before = len(live)
            for i, (reads, writes) in reversed(self._touched.items()):
                if not live.isdisjoint(writes):
                    found.add(i)
                    live |= reads
        return found

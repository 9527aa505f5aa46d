"""What is wasted in a trace: residuals that nobody needs to keep.

The findings are disjoint: a storage is found in one way only, and what makes a finding true of it, such as a copy of it
or the arrays that it follows from, is kept. So the backward can do without all that is found at once, and the bytes
that the findings free are never more than the new memory.
"""

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from residuals_lab.audit.derivation import Derivation, Derivations
from residuals_lab.trace import Residual, Trace, Value
from residuals_lab.trace.costs import CHEAP, GATHERING, cost_of
from residuals_lab.trace.groups import alike

What = Literal["unused", "duplicate", "hidden", "pinned", "derivable"]
_PACKED = 8  # the most elements of a weight that one element of a packed one holds: bits in a byte
COPY_OF_PARAMETERS = "a copy of parameters: "  # so begins the reason of what follows from parameters alone


@dataclass(frozen=True)
class Waste:
    """Residuals that are wasted in the same way at the same place, and the bytes that would be freed without them."""

    what: What
    why: str  # a phrase, the same for all of them
    names: tuple[str, ...]
    line: str
    nbytes: int
    storages: frozenset[Hashable]

    @property
    def is_copy_of_parameters(self) -> bool:
        return self.why.startswith(COPY_OF_PARAMETERS)


class _Found(NamedTuple):
    what: What
    why: str
    residual: Residual  # the largest of the storage
    nbytes: int
    one: str = ""  # `why` of a single step, where one is enough


class _How(NamedTuple):
    """How an array is made again, in words, the same for a few steps however many; and those for one step."""

    few: str
    one: str = ""


def waste(trace: Trace) -> list[Waste]:
    """What is wasted, the largest first. Single numbers are passed over, also one for each iteration of a loop."""
    found: dict[tuple[What, str, str], list[_Found]] = defaultdict(list)
    for f in _Kept(trace).wasted():
        found[f.what, f.why, f.residual.line].append(f)
    together = [
        Waste(
            what,
            these[0].one if all(f.one for f in these) else why,
            tuple(f.residual.name for f in these),
            line,
            sum(f.nbytes for f in these),
            frozenset(f.residual.storage for f in these),
        )
        for (what, why, line), these in found.items()
    ]
    return sorted(together, key=lambda f: -f.nbytes)


class _Kept:
    """The storages of a trace that are not found wasted so far, and the values in them."""

    def __init__(self, trace: Trace) -> None:
        self.trace, self.derivations = trace, Derivations(trace)
        self.storages: dict[Hashable, list[Residual]] = defaultdict(list)
        self.holders: dict[int, dict[Hashable, Residual]] = defaultdict(dict)  # value → the storages that it is in
        for r in trace.residuals:
            for number in trace.slices(r.value.number):
                self.holders[number][r.storage] = r
            if trace.values[trace.part(r.value.number)].elements > 1:
                self.storages[r.storage].append(r)
        self.alive = {n for number in trace.alive for n in trace.slices(number)}.difference(trace.gone)

    def wasted(self) -> Iterator[_Found]:
        """All that is found; what one rule finds is gone for the next."""
        for rule in (self._unused, self._hidden, self._duplicates, self._derivable, self._pinned):
            for found in rule():
                if found.residual.is_new and found.what != "pinned":
                    self._drop(found.residual.storage)
                yield found

    def _drop(self, storage: Hashable) -> None:
        for r in self.storages.pop(storage):
            for number in self.trace.slices(r.value.number):
                self.holders[number].pop(storage, None)

    def _unused(self) -> Iterator[_Found]:
        for residuals in [*self.storages.values()]:
            if all(r.is_unused and r.kind != "hidden" for r in residuals):
                r = _largest(residuals)
                is_read = any(r.reads for r in residuals)
                why = "read only for a gradient that nobody asked for" if is_read else "the backward never reads it"
                yield _Found("unused", why, r, _freed(r))

    def _hidden(self) -> Iterator[_Found]:
        for storage, residuals in [*self.storages.items()]:
            if any(r.kind == "hidden" for r in residuals):
                r = _largest(residuals)
                why = "kept where hooks and checkpoints do not see it: in a closure, or as an attribute of ctx"
                if all(r.is_unused for r in residuals):
                    why += "; the backward never reads it"
                elif r.is_new and (how := self._derived(storage)):
                    why += f"; {how.one or how.few}"
                yield _Found("hidden", why, r, _freed(r))

    def _duplicates(self) -> Iterator[_Found]:
        """Storages all of whose values are alive elsewhere; of equal ones, the first stays."""
        for storage, residuals in reversed([*self.storages.items()]):
            r, needed = _largest(residuals), _needed(residuals)
            if not r.is_new or not needed or any(map(_may_differ, needed)):
                continue
            others = [self._elsewhere(r, storage) for r in needed]
            if all(r.value.number in self.alive for r in needed):
                yield _Found("duplicate", "the same values as an array that is alive anyway", r, _freed(r))
            elif all(others):
                name = next(other.name for other in others if other)
                yield _Found("duplicate", f"the same values as {alike(name)}", r, _freed(r))

    def _elsewhere(self, r: Residual, storage: Hashable) -> Residual | None:
        """A residual of the same value in another storage."""
        others = (a for s, a in self.holders[r.value.number].items() if s != storage and not _may_differ(a))
        return min(others, key=lambda a: a.is_new, default=None)

    def _derivable(self) -> Iterator[_Found]:
        """New storages whose values a few cheap steps give again, from those that are made first to the last.

        What an array follows from is made before it. So an array that is kept when its turn comes stays, and what was
        found before is given again by the steps of both.
        """

        def last_made(storage: Hashable) -> int:
            slices = (self.trace.slices(r.value.number)[-1] for r in self.storages[storage])
            return max(self.trace.makers.get(n, -1) for n in slices)

        for storage in sorted(self.storages, key=last_made):
            residuals = self.storages[storage]
            if residuals[0].is_new and (how := self._derived(storage)):
                yield _Found("derivable", how.few, _largest(residuals), _freed(residuals[0]), how.one)

    def _derived(self, storage: Hashable) -> _How | None:
        """How all that the backward needs of a storage follows from what is kept elsewhere; None if it does not."""
        found: list[Derivation] = []
        for r in (needed := _needed(self.storages[storage])):
            if self._is_there(r.value.number, storage) and not _may_differ(r):
                continue
            how = self.derivations.of(r.value.number, lambda n: self._is_there(n, storage))
            if how is None or r.op.startswith(("empty", "new_empty")):  # written by an operation that was not seen
                return None
            found.append(how)
        return self._in_words(_largest(needed), found) if found else None

    def _is_there(self, number: int, storage: Hashable) -> bool:
        """Whether the backward has a value without this storage."""
        if number in self.alive:
            return True
        return number not in self.trace.gone and not self.holders.get(number, {}).keys() <= {storage}

    def _in_words(self, r: Residual, found: Sequence[Derivation]) -> _How:
        ops = [*dict.fromkeys(op for how in found for op in how.ops)]
        sources = frozenset[int]().union(*(how.sources for how in found))
        arrays = [n for n in sources if self.trace.values[n].elements > 1]
        of = "arrays that are kept anyway" if arrays else "constants"
        cheap, steps = "cheap " * all(cost_of(op) in CHEAP for op in ops), ", ".join(map(_with_cost, ops))
        before = ""
        if self._are_parameters(arrays, r.value, ops):
            before = COPY_OF_PARAMETERS
        elif narrow := self._narrower(r, arrays):
            name, wide = alike(self.trace.names.get(narrow.number, "array")), r.value.dtype
            before = f"in {wide}, though {name} is {narrow.dtype}: "
            if ops == ["convert"]:
                before = f"a {wide} copy of the {narrow.dtype} {name}: "
        is_one = all(len(how.steps or how.views) == 1 for how in found) and len(ops) == 1
        one = f"{before}one {cheap}{steps} of {of} gives it again" if is_one else ""
        return _How(f"{before}a few {cheap}steps of {of} give it again: {steps}", one)

    def _are_parameters(self, arrays: Collection[int], copy: Value, ops: Sequence[str]) -> bool:
        """Whether these are parameters or weights that are closed over, and at most integers of the input beside; and
        not far smaller than the copy, as the frequencies are of which a table of cosines is made.
        """
        values, alive = self.trace.values, self.trace.alive
        kinds = {n: alive.get(n, "new" if n in self.trace.makers else "parameter") for n in arrays}
        floating = {n for n in arrays if _is_floating(values[n].dtype)}
        weights = {n for n, kind in kinds.items() if kind == "parameter" and (n in floating or n in alive)}
        are_theirs = bool(weights) and floating <= weights and {"new", "output"}.isdisjoint(kinds.values())
        is_large = _PACKED * max((values[n].elements for n in arrays), default=0) >= copy.elements
        return are_theirs and (is_large or not GATHERING.isdisjoint(ops))

    def _narrower(self, r: Residual, arrays: Collection[int]) -> Value | None:
        """The array of as many elements in fewer bits that was widened on the way to this one, if all such were."""
        values, size = self.trace.values, self.trace.values[self.trace.slices(r.value.number)[-1]].elements
        like = [v for v in map(values.__getitem__, sorted(arrays)) if v.elements == size and _is_floating(v.dtype)]
        is_wider = _is_floating(r.value.dtype) and all(v.itemsize < r.value.itemsize for v in like)
        return like[0] if like and is_wider else None

    def _pinned(self) -> Iterator[_Found]:
        """Parts of a larger array which, for their sake, stays alive as a whole."""
        for residuals in self.storages.values():
            parts = {self.trace.viewed(r.value.number): r.nbytes for r in _needed(residuals)}
            r = _largest(residuals)
            wasted = r.storage_bytes - sum(parts.values())
            if r.is_new and parts and wasted > r.storage_bytes / 8:  # less is not worth a copy
                yield _Found("pinned", "a view that keeps a larger array alive: save a copy", r, wasted)


def _largest(residuals: Sequence[Residual]) -> Residual:
    return max(_needed(residuals) or residuals, key=lambda r: r.nbytes)


def _needed(residuals: Sequence[Residual]) -> list[Residual]:
    return [r for r in residuals if r.is_needed]


def _may_differ(r: Residual) -> bool:
    """Whether equal numbers are no equal values: nobody wrote any, or an operation of unknown cost drew them."""
    return r.op.startswith(("empty", "new_empty")) or (bool(r.op) and cost_of(r.op) == "other")


def _is_floating(dtype: str) -> bool:
    return dtype.startswith(("float", "bfloat"))


def _with_cost(op: str) -> str:
    return op if cost_of(op) in CHEAP else f"{op} ({cost_of(op)})"


def _freed(r: Residual) -> int:
    return r.storage_bytes if r.is_new else 0

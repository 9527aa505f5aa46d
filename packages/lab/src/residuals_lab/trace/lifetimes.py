"""When residuals are live: each from the step that makes it to the step that reads it last.

Places are those of a trace's steps: an array that begins at 3 is there once steps 0, 1 and 2 have run, and one that
ends at 8 goes when step 7 has.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from residuals_lab.trace import Kind, Residual, Trace, Value


class Lane(NamedTuple):
    """One storage that is saved for the backward, whatever views of it are residuals."""

    name: str  # of the largest residual in it
    kind: Kind
    is_new: bool  # nobody else keeps it alive
    nbytes: int
    begin: int
    end: int
    is_unused: bool  # no gradient needs it: it stays to the end for nothing
    op: str  # the operation that makes it; "" if none does
    module: str  # of that operation; if there is none, of the one that reads it last
    line: str  # of the same operation
    value: Value  # of the largest residual in it
    storage: Hashable


class Stair(NamedTuple):
    """The bytes that are live from a place on, up to the next stair; kinds without any are left out."""

    place: int
    new: dict[Kind, int]
    alive: dict[Kind, int]  # of arrays that somebody else keeps

    @property
    def new_bytes(self) -> int:
        return sum(self.new.values())

    @property
    def nbytes(self) -> int:
        return self.new_bytes + sum(self.alive.values())


def lanes(trace: Trace) -> list[Lane]:
    """A lane for each storage, in the order in which they begin; where several begin together, the longest first."""
    shared: dict[Hashable, list[Residual]] = defaultdict(list)
    for residual in trace.residuals:
        shared[residual.storage].append(residual)
    found = [_lane(trace, residuals) for residuals in shared.values()]
    return sorted(found, key=lambda a: (a.begin, -a.end))


def staircase(trace: Trace) -> list[Stair]:
    """The bytes that are live, at each place where they change; the last stair is empty."""
    changes: dict[int, Counter[tuple[bool, Kind]]] = defaultdict(Counter)
    for lane in lanes(trace):
        changes[lane.begin][lane.is_new, lane.kind] += lane.nbytes
        changes[lane.end][lane.is_new, lane.kind] -= lane.nbytes
    live: Counter[tuple[bool, Kind]] = Counter()
    stairs = []
    for place, change in sorted(changes.items()):
        live.update(change)
        new = {kind: n for (is_new, kind), n in live.items() if is_new and n}
        alive = {kind: n for (is_new, kind), n in live.items() if not is_new and n}
        stairs.append(Stair(place, new, alive))
    return stairs


def peak(trace: Trace) -> int:
    """The most bytes that are live at one place."""
    return max((stair.nbytes for stair in staircase(trace)), default=0)


def _lane(trace: Trace, residuals: Sequence[Residual]) -> Lane:
    is_new = any(r.is_new for r in residuals)
    largest = max((r for r in residuals if r.is_new == is_new), key=lambda r: r.nbytes)
    is_unused = all(r.is_unused for r in residuals)
    last = max((i for r in residuals for i in r.reads), default=len(trace.steps) - 1)
    reader = trace.steps[last] if trace.steps and not largest.op else None
    return Lane(
        name=largest.name,
        kind=largest.kind,
        is_new=is_new,
        nbytes=largest.storage_bytes,
        begin=min(r.saved for r in residuals),
        end=len(trace.steps) if is_unused else last + 1,
        is_unused=is_unused,
        op=largest.op,
        module=largest.module or (reader.module if reader else ""),
        line=largest.line or (reader.line if reader else ""),
        value=largest.value,
        storage=largest.storage,
    )

"""What is live when: each saved array from the step that makes it to the step that last reads it.

Places are those of a trace's steps: an array that begins at 3 is there once steps 0, 1 and 2 have run, and one that
ends at 8 goes when step 7 has.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from itertools import groupby
from os.path import basename
from string import digits
from typing import NamedTuple

from residuals_lab.trace import Kind, Residual, Step, Trace


class Lane(NamedTuple):
    """One storage held for the backward, whatever views of it are saved."""

    name: str  # of the largest residual in it
    kind: Kind
    is_new: bool  # nobody else keeps it alive
    nbytes: int
    begin: int
    end: int
    is_unused: bool  # no gradient needs it: held to the end for nothing
    op: str  # that makes it; "" for what no operation makes
    scope: str  # of what makes it; of what reads it last, if no operation makes it
    line: str = ""  # likewise


class Stair(NamedTuple):
    """The bytes that are live from a place on, to the next stair; kinds of which there are none are left out."""

    place: int
    new: dict[Kind, int]
    alive: dict[Kind, int]  # anyway: somebody else keeps them

    @property
    def new_bytes(self) -> int:
        return sum(self.new.values())

    @property
    def nbytes(self) -> int:
        return self.new_bytes + sum(self.alive.values())


class Run(NamedTuple):
    """Steps in a row that are one operation, or in one module."""

    name: str
    begin: int
    end: int


def lanes(trace: Trace) -> list[Lane]:
    """A lane for each storage, in the order in which they begin; of those that begin together, the longest first."""
    shared: dict[Hashable, list[Residual]] = defaultdict(list)
    for residual in trace.crossing:
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


def grouped(found: Sequence[Lane], most: int) -> tuple[list[Lane], dict[str, tuple[list[Lane], bool]]]:
    """Lanes in at most so many lines: those that have one by themselves, and by module the rest.

    The largest lanes are by themselves; of equal ones all or none, since none of them stands out. The rest of a module
    comes with whether that is all of it.
    """
    if len(found) <= most:
        return [*found], {}
    places = _places(found, most // 8)
    modules = _modules(places, most - most // 10)
    sizes = sorted((a.nbytes for a in found), reverse=True)
    first_without_room = sizes[most - len({*modules.values()})]
    alone, shown = [], set()
    rests: dict[str, list[Lane]] = defaultdict(list)
    for a, place in zip(found, places, strict=True):
        if a.nbytes > first_without_room:
            alone.append(a)
            shown.add(modules[place])
        else:
            rests[modules[place]].append(a)
    return alone, {name: (rest, name not in shown) for name, rest in rests.items()}


def _places(found: Sequence[Lane], many: int) -> list[str]:
    """The module of each lane; in a module that has many, its line and its name too, and a number if these are equal.

    So that code without modules, and that of a large one, can be told apart.
    """
    crowded = {scope for scope, n in Counter(a.scope for a in found).items() if n > many}
    detailed = ["/".join(part for part in (a.scope, basename(a.line), a.name) if part) for a in found]
    alike, so_far = Counter(detailed), Counter[str]()
    places = []
    for a, place in zip(found, detailed, strict=True):
        so_far[place] += 1
        numbered = f"{place} {so_far[place]}" if alike[place] > 1 else place
        places.append(numbered if a.scope in crowded else a.scope)
    return places


def module(scope: str, begin: int = 0, end: int | None = None) -> str:
    """A part of a scope: without its first modules, or only down to some depth."""
    return "/".join(scope.split("/")[begin:end])


def outermost(trace: Trace) -> int:
    """How many modules everything is in, whose names say nothing; but `layers/3` is not to be cut to `3`."""
    scopes = [step.scope.split("/") for step in trace.steps if step.scope]
    if not scopes:
        return 0
    first, last = min(scopes), max(scopes)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return max(same - any(scope[same].isdigit() for scope in scopes if len(scope) > same), 0)


def _modules(scopes: Sequence[str], most: int) -> dict[str, str]:
    """For each scope the module that it counts to: as deep as there are at most so many of them.

    If those are few, since there are too many one level down, neighbours on that level count as one.
    """
    deepest = max(scope.count("/") for scope in scopes) + 1
    levels = [[*dict.fromkeys(module(scope, 0, depth) for scope in scopes)] for depth in range(deepest + 1)]
    depth = max(depth for depth, level in enumerate(levels) if len(level) <= most)
    names = {name: name for name in levels[depth]}
    if len(names) <= most // 4 and depth < deepest:
        depth += 1
        level = levels[depth]
        many = -(-len(level) // most)
        parts = [level[i : i + many] for i in range(0, len(level), many)]
        names = {name: _span(part[0], part[-1]) for part in parts for name in part}
    return {scope: names[module(scope, 0, depth)] for scope in scopes}


def _span(first: str, last: str) -> str:
    """`layers/3 to 5` where only the number differs, `layers/3/up to down`, else `embedding to layers/0`."""
    if first == last:
        return first
    (outer, slash, _), stem = first.rpartition("/"), first.rstrip(digits)
    if last.rstrip(digits) != stem:
        stem = outer + slash if last.rpartition("/")[0] == outer else ""
    return f"{first} to {last.removeprefix(stem)}"


def runs(trace: Trace, most: int) -> tuple[list[Run], list[Run]]:
    """What runs where, in the forward and in the backward.

    Operations if there are at most so many in each, else modules: as deep as the forward has at most so many of them in
    turn, or on the first level that has more than one. Without modules they are lines; on a single line, operations.
    """
    turn, outer = trace.turn, outermost(trace)
    if max(turn, len(trace.steps) - turn) <= most:
        ops = [Run(step.op, i, i + 1) for i, step in enumerate(trace.steps)]
        return ops[:turn], ops[turn:]

    def by(name_of: Callable[[Step], str], begin: int, end: int) -> list[Run]:
        found, place = [], begin
        for name, steps in groupby(map(name_of, trace.steps[begin:end])):
            first, place = place, place + len([*steps])
            if name:
                found.append(Run(name, first, place))
        return found

    def at(depth: int, begin: int, end: int) -> list[Run]:
        return by(lambda step: module(step.scope, outer, outer + depth), begin, end)

    if not any(module(step.scope, outer) for step in trace.steps):
        is_lines = len({step.line for step in trace.steps[:turn]}) > 1
        name_of = (lambda step: basename(step.line)) if is_lines else (lambda step: step.op)
        return by(name_of, 0, turn), by(name_of, turn, len(trace.steps))
    deepest = max(step.scope.count("/") for step in trace.steps) + 1 - outer
    depth = 1
    while depth < deepest and (len(at(depth, 0, turn)) <= 1 or len(at(depth + 1, 0, turn)) <= most):
        depth += 1
    return at(depth, 0, turn), at(depth, turn, len(trace.steps))


def _lane(trace: Trace, residuals: Sequence[Residual]) -> Lane:
    is_new = any(r.is_new for r in residuals)
    largest = max((r for r in residuals if r.is_new == is_new), key=lambda r: r.size)
    is_unused = all(r.is_unused for r in residuals)
    last = max((i for r in residuals for i in r.reads), default=len(trace.steps) - 1)
    reader = trace.steps[last] if trace.steps and not largest.op else None
    return Lane(
        name=largest.name,
        kind=largest.kind,
        is_new=is_new,
        nbytes=largest.nbytes,
        begin=min(r.saved for r in residuals),
        end=len(trace.steps) if is_unused else last + 1,
        is_unused=is_unused,
        op=largest.op,
        scope=largest.scope or (reader.scope if reader else ""),
        line=largest.line or (reader.line if reader else ""),
    )

"""The rows of the picture and the names below its axis: many lanes and steps as few."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import groupby
from os.path import basename
from string import digits
from typing import NamedTuple

from residuals_lab.show import size
from residuals_lab.trace import Kind, Step, Trace
from residuals_lab.trace.lifetimes import Lane, lanes

MOST_ROWS = 40
# (whether an array is new memory, its kind) → its colour and its title, in the order in which bars are stacked, from
# the bottom. New memory is warm and memory that is alive anyway is cool, so that every eye tells the two apart; dark
# text is readable on all.
LOOKS: dict[tuple[bool, Kind], tuple[str, str]] = {
    (True, "new"): ("#ee8a4a", "new memory"),
    (True, "view"): ("#fad27a", "new memory: view"),
    (True, "hidden"): ("#d4568f", "new memory: hidden"),
    (False, "output"): ("#5cc79d", "already alive: output"),
    (False, "input"): ("#7fb8ee", "already alive: input"),
    (False, "parameter"): ("#b3bbc5", "already alive: parameter"),
    (False, "view"): ("#a6e6e2", "already alive: view"),
    (False, "hidden"): ("#8474cc", "already alive: hidden"),
}


class Row(NamedTuple):
    """A row of the picture: one lane, or the rest of a module with a part for each kind."""

    label: str
    short: str  # shown where the label has no room
    parts: tuple[Lane, ...]  # as they are stacked, from the bottom

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    @property
    def begin(self) -> int:
        return min(part.begin for part in self.parts)

    @property
    def end(self) -> int:
        return max(part.end for part in self.parts)


class Run(NamedTuple):
    """Neighbouring steps that are one operation, or in one module."""

    name: str
    begin: int
    end: int


def rows_of(trace: Trace, most: int = MOST_ROWS) -> list[Row]:
    """The rows of a trace's picture, at most so many, in the order in which they begin; together they have all bytes.

    Where there are more lanes, only the largest have a row of their own.
    """
    outer = outermost(trace)
    found = [a._replace(module=within(a.module, outer)) for a in lanes(trace)]
    alone, rests = grouped(found, most)
    lines = [_alone(a) for a in alone]
    lines += [_rest(name, *rest) for name, rest in rests.items()]
    return sorted(lines, key=lambda row: (row.begin, -row.end))


def _alone(lane: Lane) -> Row:
    short = f"{lane.name} {size(lane.nbytes)}" + (", never needed" if lane.is_unused else "")
    where = (lane.module or basename(lane.line)) if lane.op else ""  # an input's own name says where it belongs
    return Row(f"{where}: {short}" if where else short, short, (lane,))


def _rest(name: str, rest: Sequence[Lane], is_all: bool) -> Row:
    """One row for many lanes of a module; `is_all`: no lane of the module has a row of its own."""
    if len(rest) == 1:
        return _alone(rest[0])
    parts = [
        Lane(name, kind, is_new, sum(a.nbytes for a in same), same[0].begin, max(a.end for a in same), unused, "", name)
        for is_new, kind in LOOKS
        for unused in (False, True)
        if (same := [a for a in rest if (a.is_new, a.kind, a.is_unused) == (is_new, kind, unused)])
    ]
    largest, others = max(rest, key=lambda a: (a.is_new, a.nbytes)), len(rest) - 1
    is_one_name = len({a.name for a in rest}) == 1
    what = f"{len(rest)} × {largest.name}" if is_one_name else f"{largest.name} and {others} more"
    unneeded = sum(a.nbytes for a in rest if a.is_unused)
    end = size(sum(a.nbytes for a in rest)) + (f", {size(unneeded)} never needed" if unneeded else "")
    name = name or "elsewhere"
    return Row(f"{name}: {what if is_all else f'{len(rest)} more'}, {end}", f"{name}: {end}", tuple(parts))


def grouped(found: Sequence[Lane], most: int) -> tuple[list[Lane], dict[str, tuple[list[Lane], bool]]]:
    """Lanes in at most so many rows: those that have one by themselves, and by module the rest.

    The largest lanes are by themselves; of equal ones all or none, since none of them stands out. Beside the rest of a
    module is whether that is all of its lanes.
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
    """The module of each lane; of a lane in a crowded module also its line and name, and a number if these are equal.

    This tells lanes apart in code without modules, and in a large module.
    """
    crowded = {module for module, n in Counter(a.module for a in found).items() if n > many}
    detailed = ["/".join(part for part in (a.module, basename(a.line), a.name) if part) for a in found]
    alike, so_far = Counter(detailed), Counter[str]()
    places = []
    for a, place in zip(found, detailed, strict=True):
        so_far[place] += 1
        numbered = f"{place} {so_far[place]}" if alike[place] > 1 else place
        places.append(numbered if a.module in crowded else a.module)
    return places


def within(module: str, begin: int = 0, end: int | None = None) -> str:
    """A part of a module's path: without the first modules, or only down to some depth."""
    return "/".join(module.split("/")[begin:end])


def outermost(trace: Trace) -> int:
    """How many modules are around all steps, so that their names say nothing; but `layers/3` is not cut to `3`."""
    modules = [step.module.split("/") for step in trace.steps if step.module]
    if not modules:
        return 0
    first, last = min(modules), max(modules)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return max(same - any(path[same].isdigit() for path in modules if len(path) > same), 0)


def _modules(places: Sequence[str], most: int) -> dict[str, str]:
    """Place → the module in which it is counted, on the deepest level that has at most so many modules.

    If that level has only a few, and the next one too many, neighbours on the next level are counted together.
    """
    deepest = max(place.count("/") for place in places) + 1
    levels = [[*dict.fromkeys(within(place, 0, depth) for place in places)] for depth in range(deepest + 1)]
    depth = max(depth for depth, level in enumerate(levels) if len(level) <= most)
    names = {name: name for name in levels[depth]}
    if len(names) <= most // 4 and depth < deepest:
        depth += 1
        level = levels[depth]
        many = -(-len(level) // most)
        parts = [level[i : i + many] for i in range(0, len(level), many)]
        names = {name: _span(part[0], part[-1]) for part in parts for name in part}
    return {place: names[within(place, 0, depth)] for place in places}


def _span(first: str, last: str) -> str:
    """`layers/3 to 5` where only the number differs, `layers/3/up to down`, else `embedding to layers/0`."""
    if first == last:
        return first
    (outer, slash, _), stem = first.rpartition("/"), first.rstrip(digits)
    if last.rstrip(digits) != stem:
        stem = outer + slash if last.rpartition("/")[0] == outer else ""
    return f"{first} to {last.removeprefix(stem)}"


def runs(trace: Trace, most: int) -> tuple[list[Run], list[Run]]:
    """The names below the axis, of the forward and of the backward.

    They are operations if each half has at most so many, else modules: as deep as the forward runs through at most so
    many of them, or on the first level that has more than one. Without modules they are lines; on a single line,
    operations.
    """
    boundary, outer = trace.boundary, outermost(trace)
    if max(boundary, len(trace.steps) - boundary) <= most:
        ops = [Run(step.op, i, i + 1) for i, step in enumerate(trace.steps)]
        return ops[:boundary], ops[boundary:]

    def by(name_of: Callable[[Step], str], begin: int, end: int) -> list[Run]:
        found, place = [], begin
        for name, steps in groupby(map(name_of, trace.steps[begin:end])):
            first, place = place, place + len([*steps])
            if name:
                found.append(Run(name, first, place))
        return found

    def at(depth: int, begin: int, end: int) -> list[Run]:
        return by(lambda step: within(step.module, outer, outer + depth), begin, end)

    if not any(within(step.module, outer) for step in trace.steps):
        is_lines = len({step.line for step in trace.steps[:boundary]}) > 1
        name_of = (lambda step: basename(step.line)) if is_lines else (lambda step: step.op)
        return by(name_of, 0, boundary), by(name_of, boundary, len(trace.steps))
    deepest = max(step.module.count("/") for step in trace.steps) + 1 - outer
    depth = 1
    while depth < deepest and (len(at(depth, 0, boundary)) <= 1 or len(at(depth + 1, 0, boundary)) <= most):
        depth += 1
    return at(depth, 0, boundary), at(depth, boundary, len(trace.steps))

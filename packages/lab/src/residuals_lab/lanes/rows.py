"""The rows of the picture and the names below its axis: many arrays and steps as few."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from os.path import basename
from typing import Literal, NamedTuple

from residuals_lab.trace import Kind, Step, Trace
from residuals_lab.trace.groups import alike, kinds
from residuals_lab.trace.lifetimes import Lane, lanes

MOST_ROWS = 24
ALL_PARAMETERS = "all parameters"
Order = Literal["program", "bytes"]
# (whether an array is new memory, its kind) → its colour on a light page, its colour on a dark page, and its title; in
# the order in which they are stacked, from the bottom. New memory is warm and memory that is alive anyway is cool, so
# that every eye tells the two apart.
LOOKS: dict[tuple[bool, Kind], tuple[str, str, str]] = {
    (True, "new"): ("#d9602a", "#f28a3c", "new memory"),
    (True, "view"): ("#e8b84a", "#d8ae4a", "new memory: a view"),
    (True, "hidden"): ("#b5397d", "#d862a0", "new memory: hidden"),
    (False, "output"): ("#6fb898", "#5a9c80", "alive anyway: output"),
    (False, "input"): ("#9db1c9", "#6f8fb8", "alive anyway: input"),
    (False, "parameter"): ("#c9d1d9", "#656d7a", "alive anyway: parameter"),
    (False, "view"): ("#8fcfd0", "#4f9496", "alive anyway: a view"),
    (False, "hidden"): ("#8a78c8", "#8574c4", "alive anyway: hidden"),
}


class Note(NamedTuple):
    """A sentence below the picture; its number stands beside the rows of these storages."""

    text: str
    storages: frozenset[Hashable]


class Picture(NamedTuple):
    """What one column shows."""

    trace: Trace
    wasted: frozenset[Hashable] = frozenset()  # storages that are drawn hatched, beside those that nobody needs
    notes: tuple[Note, ...] = ()


class Part(NamedTuple):
    """The arrays of a row that look alike in one column."""

    is_new: bool
    kind: Kind
    is_wasted: bool
    nbytes: int
    arrays: int


class Level(NamedTuple):
    """The bytes that are alive from a place on, up to the next level: one number for each colour that is stacked."""

    place: int
    amounts: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return sum(self.amounts)


class Side(NamedTuple):
    """What one column has in a row."""

    parts: tuple[Part, ...]  # as they are stacked, from the bottom
    levels: tuple[Level, ...]  # with a number for each part; the last has none alive
    notes: tuple[int, ...]  # the numbers of the notes about these arrays

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    @property
    def arrays(self) -> int:
        return sum(part.arrays for part in self.parts)


@dataclass(frozen=True)
class Row:
    """A row of the picture: all arrays that are alike, in each column."""

    module: str  # "" if they are made in none, or if the row is of several
    name: str
    what: str  # `float32[4, 8]` where all its arrays are of one shape
    sides: tuple[Side | None, ...]  # one a column; None: it keeps none of them

    @property
    def nbytes(self) -> int:
        """The most bytes that a column has."""
        return max(side.nbytes for side in self.sides if side)

    @property
    def notes(self) -> list[int]:
        return sorted({number for side in self.sides if side for number in side.notes})


class Run(NamedTuple):
    """Neighbouring steps that are one operation, or in one module."""

    name: str
    begin: int
    end: int


# What makes two arrays alike: the names on their module's path without the numbers of layers, their own name without
# numbers, and then what tells the arrays of one name apart.
_Module = tuple[str, ...]


class _Key(NamedTuple):
    module: _Module
    name: str
    dtype: str = ""
    axes: int = -1
    again: int = 0  # the number of its line, among the lines that make arrays like it in this module


def rows_of(pictures: Sequence[Picture], most: int = MOST_ROWS, order: Order = "program") -> list[Row]:
    """The rows of all columns, at most so many; in each column all rows together have all bytes.

    A row is all arrays of one module, name, dtype and line that a stack of layers has. Where these are more rows than
    asked for, all parameters are one row; where they still are, a row is of one module and name; and then the largest
    of these are shown, and one row of all others.
    """
    numbers = {text: i for i, text in enumerate(dict.fromkeys(note.text for p in pictures for note in p.notes), 1)}
    for is_fine, has_parameters in ((True, True), (True, False), (False, False)):
        columns = [_keyed(picture.trace, is_fine, has_parameters) for picture in pictures]
        keys = _merged([[*column] for column in columns])
        if len(keys) <= most:
            break
    weight = {key: max(sum(a.nbytes for a in column.get(key, ())) for column in columns) for key in keys}
    largest = sorted(keys, key=lambda key: -weight[key])[: most if len(keys) <= most else most - 1]
    chosen = largest if order == "bytes" else [key for key in keys if key in {*largest}]
    titles, names = _titles({key.module for key in chosen}), _names(chosen)
    found = []
    for key in chosen:
        sides = [_side(column.get(key, ()), p, numbers) for column, p in zip(columns, pictures, strict=True)]
        found.append(Row(titles[key.module], names[key], _shape(key, columns), tuple(sides)))
    rest = [[a for key, these in column.items() if key not in {*largest} for a in these] for column in columns]
    if any(rest):
        sides = [_side(these, picture, numbers) for these, picture in zip(rest, pictures, strict=True)]
        found.append(Row("", "all others", "", tuple(sides)))
    return found


def _keyed(trace: Trace, is_fine: bool, has_parameters: bool) -> dict[_Key, list[Lane]]:
    """The lanes by what makes them alike, in the order of the program; parameters that are one row come last."""
    outer = outermost(trace)
    lines: dict[_Key, list[str]] = defaultdict(list)
    found: dict[_Key, list[Lane]] = defaultdict(list)
    together = []
    for lane in sorted(lanes(trace), key=lambda a: (a.begin, a.is_new, -a.end)):
        if lane.kind == "parameter" and not has_parameters:
            together.append(lane)
            continue
        module = lane.module.rpartition("/")[2]
        name = lane.name.rpartition(f"{module}.")[2] if module else lane.name  # `weight`, in the module that has it
        key = _Key(kinds(trace, lane.module)[outer:], alike(name))
        if is_fine:
            key = key._replace(dtype=lane.value.dtype, axes=len(lane.value.shape))
            if lane.line not in lines[key]:
                lines[key].append(lane.line)
            key = key._replace(again=lines[key].index(lane.line))
        found[key].append(lane)
    return dict(found) | ({_Key((), ALL_PARAMETERS): together} if together else {})


def _merged(orders: Sequence[Sequence[_Key]]) -> list[_Key]:
    """One order for all columns: between the keys that two have in common are those of the one, then of the other."""
    merged: list[_Key] = []
    for order in orders:
        spans = SequenceMatcher(None, merged, order, autojunk=False).get_opcodes()
        merged = [*dict.fromkeys(key for _, a, b, c, d in spans for key in (*merged[a:b], *order[c:d]))]
    first = {module: i for i, module in reversed([*enumerate(key.module for key in merged)])}
    return sorted(merged, key=lambda key: (key.name == ALL_PARAMETERS, first[key.module]))


def _titles(modules: set[_Module]) -> dict[_Module, str]:
    """A title for each module: as much of the end of its path as tells it from the others."""
    named = {path: [name.removesuffix(" *") for name in path if name != "*"] for path in modules}

    def ends(length: int) -> dict[_Module, str]:
        return {path: "/".join(names[-length:]) for path, names in named.items()}

    titles: dict[_Module, str] = {}
    for length in range(1, max(map(len, named.values()), default=0) + 1):
        counted = Counter(ends(length).values())
        titles |= {p: t for p, t in ends(length).items() if p not in titles and counted[t] == 1}
    return {path: titles.get(path, "/".join(named[path])) for path in modules}


def _names(keys: Sequence[_Key]) -> dict[_Key, str]:
    """A name for each row: with its dtype, or its number, where a module has several of one name."""
    same = Counter((key.module, key.name) for key in keys)
    typed = Counter(key[:3] for key in keys)
    names, so_far = {}, Counter[tuple[str | _Module, ...]]()
    for key in keys:
        name = key.name
        if same[key.module, key.name] > 1 and typed[key[:3]] < same[key.module, key.name]:
            name = f"{name}, {key.dtype}"
        if typed[key[:3]] > 1:
            so_far[key[:3]] += 1
            name = f"{name} ({so_far[key[:3]]})"
        names[key] = name
    return names


def _shape(key: _Key, columns: Sequence[Mapping[_Key, Sequence[Lane]]]) -> str:
    shapes = {str(lane.value) for column in columns for lane in column.get(key, ())}
    return shapes.pop() if len(shapes) == 1 else ""


def _side(found: Sequence[Lane], picture: Picture, numbers: Mapping[str, int]) -> Side | None:
    """The arrays of a row in one column, those that look alike as one part."""
    if not found:
        return None
    parts: dict[tuple[bool, Kind, bool], list[Lane]] = defaultdict(list)
    for lane in found:
        parts[lane.is_new, lane.kind, lane.is_unused or lane.storage in picture.wasted].append(lane)
    stacked = dict(sorted(parts.items(), key=lambda item: [*LOOKS].index(item[0][:2])))
    storages = {lane.storage for lane in found}
    return Side(
        tuple(Part(*look, sum(a.nbytes for a in same), len(same)) for look, same in stacked.items()),
        _levels([*stacked.values()]),
        tuple(numbers[note.text] for note in picture.notes if note.storages & storages),
    )


def _levels(parts: Sequence[Sequence[Lane]]) -> tuple[Level, ...]:
    """What is alive of each part, at each place where it changes."""
    changes: dict[int, Counter[int]] = defaultdict(Counter)
    for i, part in enumerate(parts):
        for lane in part:
            changes[lane.begin][i] += lane.nbytes
            changes[lane.end][i] -= lane.nbytes
    levels, alive = [], Counter[int]()
    for place, change in sorted(changes.items()):
        alive.update(change)
        levels.append(Level(place, tuple(alive[i] for i in range(len(parts)))))
    return tuple(levels)


def outline(trace: Trace) -> tuple[Level, ...]:
    """The bytes that are alive at each place where they change, with a number for each of `LOOKS`."""
    found = lanes(trace)
    return _levels([[lane for lane in found if (lane.is_new, lane.kind) == look] for look in LOOKS])


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

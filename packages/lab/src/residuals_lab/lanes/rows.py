"""The rows of the picture: many arrays as few."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from residuals_lab.lanes.keys import GROUPINGS, Key, Module, keyed, merged, noted
from residuals_lab.trace import Kind, Trace
from residuals_lab.trace.lifetimes import Lane, lanes

MOST_ROWS = 24
OTHERS = "all others"
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
    wasted: Mapping[Hashable, str] = {}  # storage → why; drawn hatched, beside those that nobody needs
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
    lines: tuple[str, ...] = ()  # that make them
    reasons: tuple[str, ...] = ()  # why some are wasted

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    @property
    def arrays(self) -> int:
        return sum(part.arrays for part in self.parts)

    @property
    def wasted(self) -> int:
        return sum(part.nbytes for part in self.parts if part.is_wasted)


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

    @property
    def lines(self) -> tuple[str, ...]:
        """Where the first column that has them makes them."""
        return next((side.lines for side in self.sides if side and self.name != OTHERS), ())


Column = Mapping[Key, Sequence[Lane]]
_FEW = 0.05  # of a column's bytes: so much may be in the row of all others


def rows_of(pictures: Sequence[Picture], most: int = MOST_ROWS, order: Order = "program") -> list[Row]:
    """The rows of all columns, at most so many; in each column all rows together have all bytes.

    A row is all arrays of one module, name, dtype and line that a stack of layers has, if they have the same notes. The
    largest are shown, and one row of all others for each note. Where these others are more than a few bytes, rows are
    taken together, from parameters to modules of one class, until they are few.
    """
    numbers = numbered(pictures)
    columns = [noted(p.trace, [(numbers[n.text], n.storages) for n in p.notes]) for p in pictures]
    marks = [{lane.storage: of_lane for lane, of_lane in column} for column in columns]
    found = []
    for how in GROUPINGS:
        keys, modules = keyed([p.trace for p in pictures], columns, how)
        chosen, others = _chosen(keys, marks, most)
        found.append((_share(keys, others), keys, modules, chosen, others))
        if not others or (found[-1][0] <= _FEW and not how.has_parameters):
            break
    _, keys, modules, chosen, others = found[-1] if found[-1][0] <= _FEW else min(found, key=lambda f: f[0])
    if order == "program":
        shown = {*chosen}
        chosen = [key for key in merged([[*column] for column in keys]) if key in shown]
    else:
        chosen = sorted(chosen, key=lambda key: -max(sum(a.nbytes for a in column.get(key, ())) for column in keys))
    titles, names = _titles(modules), _names(chosen)
    rows = [(titles[key.module], names[key], [key], _shape(key, keys)) for key in chosen]
    rows += [("", OTHERS, these, "") for these in others]
    return [Row(title, name, what, _sides(these, keys, pictures, numbers)) for title, name, these, what in rows]


def numbered(pictures: Sequence[Picture]) -> dict[str, int]:
    """The notes of all columns by their texts."""
    return {text: i for i, text in enumerate(dict.fromkeys(note.text for p in pictures for note in p.notes), 1)}


def _chosen(
    columns: Sequence[Column], marks: Sequence[Mapping[Hashable, tuple[int, ...]]], most: int
) -> tuple[list[Key], list[list[Key]]]:
    """The largest keys, which are rows, and the others, one row of all that have the same notes."""
    weight: dict[Key, float] = defaultdict(float)  # the part of a column's bytes
    for column in columns:
        sizes = {key: sum(a.nbytes for a in these) for key, these in column.items()}
        for key, nbytes in sizes.items():
            weight[key] = max(weight[key], nbytes / max(sum(sizes.values()), 1))
    largest = sorted(weight, key=lambda key: -weight[key])

    def notes(key: Key) -> tuple[tuple[int, ...], ...]:
        return tuple(of[c[key][0].storage] if key in c else () for c, of in zip(columns, marks, strict=True))

    for n in range(min(most, len(largest)), -1, -1):
        others: dict[object, list[Key]] = defaultdict(list)
        for key in largest[n:]:
            others[notes(key)].append(key)
        if n + len(others) <= most:
            return largest[:n], sorted(others.values(), key=lambda keys: notes(keys[0]), reverse=True)
    return largest[: most - 1], [largest[most - 1 :]]


def _share(columns: Sequence[Column], others: Sequence[Sequence[Key]]) -> float:
    """The part of a column's bytes that is in no row of its own, in the column where it is the largest."""
    shares = []
    for column in columns:
        every = sum(a.nbytes for these in column.values() for a in these)
        shares.append(sum(a.nbytes for keys in others for key in keys for a in column.get(key, ())) / max(every, 1))
    return max(shares)


def _sides(
    keys: Sequence[Key], columns: Sequence[Column], pictures: Sequence[Picture], numbers: Mapping[str, int]
) -> tuple[Side | None, ...]:
    return tuple(
        _side([a for key in keys for a in column.get(key, ())], picture, numbers)
        for column, picture in zip(columns, pictures, strict=True)
    )


def _titles(modules: set[Module]) -> dict[Module, str]:
    """A title for each module: as much of the end of its path as tells it from all others."""
    named = {path: [name.removesuffix(" *") for name in path if name != "*"] for path in modules}

    def ends(length: int) -> dict[Module, str]:
        return {path: "/".join(names[-length:]) for path, names in named.items()}

    titles: dict[Module, str] = {}
    for length in range(1, max(map(len, named.values()), default=0) + 1):
        counted = Counter(ends(length).values())
        titles |= {p: t for p, t in ends(length).items() if p not in titles and counted[t] == 1}
    return {path: titles.get(path, "/".join(named[path])) for path in modules}


def _names(keys: Sequence[Key]) -> dict[Key, str]:
    """A name for each row: with its dtype, or its number, where a module has several of one name at one line."""
    same = Counter((key.module, key.name) for key in keys)
    typed = Counter(key[:3] for key in keys)
    lined = Counter((*key[:3], key.at[1]) for key in keys)
    names, so_far = {}, Counter[tuple[str | Module, ...]]()
    for key in keys:
        name, at = key.name, (*key[:3], key.at[1])
        if name == "convert" and key.dtype:
            name = f"{key.dtype} copy"
        elif typed[key[:3]] < same[key.module, key.name]:
            name = f"{name}, {key.dtype}"
        if lined[at] > 1:
            so_far[at] += 1
            name = f"{name} ({so_far[at]})"
        names[key] = name
    return names


def _shape(key: Key, columns: Sequence[Column]) -> str:
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
    unused = ["the backward never needs it"] if any(lane.is_unused for lane in found) else []
    return Side(
        tuple(Part(*look, sum(a.nbytes for a in same), len(same)) for look, same in stacked.items()),
        _levels([*stacked.values()]),
        tuple(numbers[note.text] for note in picture.notes if note.storages & storages),
        tuple(dict.fromkeys(lane.line for lane in found if lane.op and lane.line)),
        tuple(dict.fromkeys([picture.wasted[a.storage] for a in found if a.storage in picture.wasted] or unused)),
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

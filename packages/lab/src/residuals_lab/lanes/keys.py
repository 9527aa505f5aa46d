"""What makes saved arrays alike, so that they are one row: in one column, and across columns."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from residuals_lab.trace import Trace
from residuals_lab.trace.groups import alike
from residuals_lab.trace.lifetimes import Lane, lanes

Module = tuple[str, ...]  # the names on a module's path, without the numbers of layers and without the outermost
ALL_PARAMETERS = "all parameters"


class Key(NamedTuple):
    """All arrays of one key are one row. Columns share a key though axes, line, notes or class differ in them."""

    module: Module
    name: str  # without numbers
    dtype: str = ""
    at: tuple[int, str] = (-1, "")  # the number of axes and the line, of the first column that has them
    notes: tuple[int, ...] = ()  # the numbers of the notes about them


class Grouping(NamedTuple):
    """How much is one row."""

    has_parameters: bool  # which are rows of their own, not one row of all
    is_fine: bool  # arrays of another dtype, number of axes or line are another row
    merges: Literal["layers", "blocks", "modules"]  # of one class that are one: also blocks of any name, or all modules


# From the finest; the first that has room is taken.
GROUPINGS = (
    Grouping(True, True, "layers"),
    Grouping(False, True, "layers"),
    Grouping(False, True, "blocks"),
    Grouping(False, False, "blocks"),
    Grouping(False, True, "modules"),
    Grouping(False, False, "modules"),
)
Noted = Sequence[tuple[Lane, tuple[int, ...]]]  # the lanes of a column, each with the numbers of the notes about it
_Label = TypeVar("_Label")


def noted(trace: Trace, notes: Sequence[tuple[int, frozenset[object]]]) -> Noted:
    """The lanes in the order of the program."""
    ordered = sorted(lanes(trace), key=lambda a: (a.begin, a.is_new, -a.end))
    return [(a, tuple(number for number, storages in notes if a.storage in storages)) for a in ordered]


def keyed(
    traces: Sequence[Trace], columns: Sequence[Noted], how: Grouping
) -> tuple[list[dict[Key, list[Lane]]], set[Module]]:
    """The lanes of each column by their keys, in the order of the program, and all modules that there are.

    Parameters that are one row come last.
    """
    modules = _modules(traces, how.merges)
    together: list[list[Lane]] = [[] for _ in columns]
    found: list[list[tuple[Key, Lane]]] = [[] for _ in columns]
    for i, column in enumerate(columns):
        for lane, numbers in column:
            if lane.kind == "parameter" and not how.has_parameters:
                together[i].append(lane)
                continue
            module = lane.module.rpartition("/")[2]
            name = lane.name.rpartition(f"{module}.")[2] if module else lane.name  # `weight`, in the module that has it
            key = Key(modules[i][lane.module], alike(name), notes=numbers)
            if how.is_fine:
                key = key._replace(dtype=lane.value.dtype, at=(len(lane.value.shape), lane.line))
            found[i].append((key, lane))
    found = _shared(found)
    keys: list[dict[Key, list[Lane]]] = []
    for pairs, parameters in zip(found, together, strict=True):
        rows: dict[Key, list[Lane]] = defaultdict(list)
        for key, lane in pairs:
            rows[key].append(lane)
        keys.append(dict(rows) | ({Key((), ALL_PARAMETERS): parameters} if parameters else {}))
    return keys, {path for paths in modules for path in paths.values()}


def _shared(columns: Sequence[Sequence[tuple[Key, Lane]]]) -> list[list[tuple[Key, Lane]]]:
    """The same keys, but with the first column's axes, line and notes where keys differ in these alone."""
    places: dict[tuple[Any, ...], list[list[tuple[int, str]]]] = defaultdict(lambda: [[] for _ in columns])
    notes: dict[tuple[Any, ...], list[list[tuple[int, ...]]]] = defaultdict(lambda: [[] for _ in columns])
    for i, column in enumerate(columns):
        for key, _ in column:
            places[key[:3]][i].append(key.at)
    at = {rest: aligned(of_columns) for rest, of_columns in places.items()}
    found = [[(k._replace(at=at[k[:3]][i][k.at]), lane) for k, lane in column] for i, column in enumerate(columns)]
    for i, column in enumerate(found):
        for key, _ in column:
            notes[key[:4]][i].append(key.notes)
    numbers = {rest: aligned(of_columns) for rest, of_columns in notes.items()}
    return [[(k._replace(notes=numbers[k[:4]][i][k.notes]), lane) for k, lane in c] for i, c in enumerate(found)]


def aligned(columns: Sequence[Iterable[_Label]]) -> list[dict[_Label, _Label]]:
    """For each column its labels → those of the columns before it: the same, or else one that it does not have."""
    known: list[_Label] = []
    found = []
    for column in columns:
        labels = dict.fromkeys(column)
        free = iter([label for label in known if label not in labels])
        names = {label: label if label in known else next(free, label) for label in labels}
        known += [label for label in names.values() if label not in known]
        found.append(names)
    return found


def merged(orders: Sequence[Sequence[Key]]) -> list[Key]:
    """One order for all columns. The first keeps its own; what only a later one has follows the rows of its module, or
    else those of the module that it follows there, before the next row that both have.
    """
    rows = list(orders[0])
    for order in orders[1:]:
        place, both = -1, {*rows}  # the place is that of the row before
        for i, key in enumerate(order):
            if key in both:
                place = max(place, rows.index(key))
                continue
            ends = (rows.index(later) for later in order[i:] if later in both)
            end = next((at for at in ends if at > place), len(rows))
            place = next((at for at in range(place + 1, end) if rows[at].module == key.module), place)
            while 0 <= place < end - 1 and rows[place + 1].module == rows[place].module:
                place += 1
            place += 1
            rows.insert(place, key)
    return sorted(rows, key=lambda key: key.name == ALL_PARAMETERS)


def _modules(traces: Sequence[Trace], merges: str) -> list[dict[str, Module]]:
    """Each column's modules → their names: a layer, and what `merges` says, is called by its class.

    A class that only a later column has takes the place of one that only an earlier one has.
    """
    outer = [outermost(trace) for trace in traces]
    found: list[dict[str, Module]] = [dict.fromkeys(("", *_prefixes(path)), ()) for path in outer]
    left = [
        dict.fromkeys(p for m in _named(t) for p in _prefixes(m) if p not in f)
        for t, f in zip(traces, found, strict=True)
    ]
    deep = max((m.count("/") for of_one in left for m in of_one), default=-1)
    for depth in range(deep + 1):
        here = [[m for m in of_one if m.count("/") == depth] for of_one in left]
        labels = []
        for trace, these, paths, every in zip(traces, here, found, left, strict=True):
            within = {m.rpartition("/")[0] for m in every}
            labels.append(_labels(trace, {m: paths[m.rpartition("/")[0]] for m in these}, within, merges))
        classes: dict[Module, list[list[str]]] = defaultdict(lambda: [[] for _ in traces])
        for i, of_one in enumerate(labels):
            for m, label in of_one.items():
                classes[found[i][m.rpartition("/")[0]]][i].append(label if label.endswith("*") else "")
        names = {path: aligned([filter(None, column) for column in columns]) for path, columns in classes.items()}
        for i, of_one in enumerate(labels):
            for m, label in of_one.items():
                path = found[i][m.rpartition("/")[0]]
                found[i][m] = (*path, names[path][i].get(label, label))
    return found


def _labels(trace: Trace, parents: Mapping[str, Module], within: set[str], merges: str) -> dict[str, str]:
    """Modules of one depth → their names; a class ends in a star."""
    ways: dict[tuple[Module, str], set[str]] = defaultdict(set)  # the names of the modules of a class
    for m, path in parents.items():
        if merges == "modules" or (merges == "blocks" and m in within):
            ways[path, trace.classes.get(m, "")].add(alike(m.rpartition("/")[2]))
    labels = {}
    for m, path in parents.items():
        name, kind = m.rpartition("/")[2], trace.classes.get(m, "")
        is_one = name.isdecimal() or (kind and len(ways.get((path, kind), ())) > 1)
        labels[m] = f"{kind} *".strip() if is_one else alike(name)
    return labels


def _named(trace: Trace) -> dict[str, None]:
    """All modules of steps and residuals, in the order of the program."""
    return dict.fromkeys(m for m in (*(s.module for s in trace.steps), *(r.module for r in trace.residuals)) if m)


def _prefixes(module: str) -> Iterator[str]:
    names = module.split("/") if module else []
    return ("/".join(names[: i + 1]) for i in range(len(names)))


_ALMOST_ALL = 0.95  # of the steps: a named einsum of JAX is outside of the function that it is in


def outermost(trace: Trace) -> str:
    """The modules around almost all steps, whose names say nothing; but of `layers/3` they are not `layers`."""
    modules = Counter(step.module for step in trace.steps if step.module)
    found, every = "", modules.total()
    while True:
        begin = f"{found}/" if found else ""
        inside: Counter[str] = Counter()
        for m, n in modules.items():
            if m.startswith(begin):
                inside[begin + m[len(begin) :].partition("/")[0]] += n
        name, n = inside.most_common(1)[0] if inside else ("", 0)
        if n < _ALMOST_ALL * every or not n:
            return found
        if any(m.startswith(f"{name}/") and m[len(name) + 1 :].partition("/")[0].isdecimal() for m in modules):
            return found
        found = name

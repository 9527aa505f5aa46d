"""Residuals in groups: rows of alike ones, sums by line, module or kind, and the tree of modules."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from residuals_lab.trace import Residual, Trace

By = Literal["source", "module", "kind"]


@dataclass
class Row:
    """Residuals that look alike, as in the layers of a stack: of one name, kind and line, of one shape or of many."""

    residuals: list[Residual] = field(default_factory=list)
    nbytes: int = 0  # each storage once
    new_bytes: int = 0

    @property
    def residual(self) -> Residual:
        """The first of them."""
        return self.residuals[0]

    @property
    def count(self) -> int:
        return len(self.residuals)

    @property
    def array(self) -> str:
        """`float32[4, 8]`, or `float32, 500 shapes`."""
        shapes = len({r.value.shape for r in self.residuals})
        return str(self.residual.value) if shapes == 1 else f"{self.residual.value.dtype}, {shapes} shapes"


class Group(NamedTuple):
    """The residuals of one source line, module or kind."""

    label: str
    arrays: int = 0
    nbytes: int = 0
    new_bytes: int = 0


@dataclass
class Branch:
    """A module or function, with all that is in it; a number of alike ones, such as layers, is one branch."""

    name: str
    count: int = 0
    nbytes: int = 0
    new_bytes: int = 0
    branches: dict[str, "Branch"] = field(default_factory=dict)
    paths: set[str] = field(default_factory=set)  # of the modules that it stands for

    @property
    def title(self) -> str:
        """Its name, with its number if it stands for one module alone."""
        if len(self.paths) > 1:
            return self.name
        own = next(iter(self.paths), "").rpartition("/")[2]
        return self.name.replace("*", own) if own.isdecimal() else own


def stored(trace: Trace) -> list[Residual]:
    """One residual for each storage: the largest."""
    largest: dict[Any, Residual] = {}
    for r in trace.residuals:
        if r.storage not in largest or r.nbytes > largest[r.storage].nbytes:
            largest[r.storage] = r
    return list(largest.values())


FEW_SHAPES = 3  # in a row each; more, such as those of layers of different widths, are one row


def rows(trace: Trace) -> list[Row]:
    """All storages, alike ones together, the largest first; new memory before memory that is alive anyway."""

    def look(r: Residual) -> tuple[Any, ...]:
        return alike(r.name), r.kind, r.op, r.line, r.value.dtype

    shapes: dict[Any, set[tuple[int, ...]]] = defaultdict(set)
    for r in stored(trace):
        shapes[look(r)].add(r.value.shape)
    found: dict[Any, Row] = {}
    for r in stored(trace):
        shape = r.value.shape if len(shapes[look(r)]) <= FEW_SHAPES else None
        row = found.setdefault((look(r), shape), Row())
        row.residuals.append(r)
        row.nbytes += r.storage_bytes
        row.new_bytes += r.storage_bytes * r.is_new
    return sorted(found.values(), key=lambda row: (-row.new_bytes, -row.nbytes))


def by(trace: Trace, what: By) -> list[Group]:
    """The residuals of each source line, module or kind, the largest first."""
    label: Callable[[Residual], str] = {
        "source": lambda r: r.line or "(no line of your code)",
        "module": _modules(trace),
        "kind": lambda r: r.kind,
    }[what]
    found: dict[str, Group] = {}
    for r in stored(trace):
        before = found.get(label(r), Group(label(r)))
        new = before.new_bytes + r.storage_bytes * r.is_new
        found[before.label] = Group(before.label, before.arrays + 1, before.nbytes + r.storage_bytes, new)
    return sorted(found.values(), key=lambda group: (-group.new_bytes, -group.nbytes))


def _modules(trace: Trace) -> Callable[[Residual], str]:
    """A function that gives the title of a residual's module: alike ones have the same."""
    alike_ones: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for r in trace.residuals:
        alike_ones[kinds(trace, r.module)].add(r.module)

    def label(r: Residual) -> str:
        path = kinds(trace, r.module)
        return ("/".join(path) if len(alike_ones[path]) > 1 else r.module) or "(no module)"

    return label


def kinds(trace: Trace, module: str) -> tuple[str, ...]:
    """The names on a module's path, the same for alike modules of one class: the `Linear *` of a `Sequential`."""
    names = module.split("/") if module else []
    places = ["/".join(names[: i + 1]) for i in range(len(names))]
    return tuple(
        f"{trace.classes.get(place, '')} *".strip() if name.isdecimal() else alike(name)
        for name, place in zip(names, places, strict=True)
    )


def tree(trace: Trace) -> Branch:
    """Bytes by the module or function in which the arrays are made."""
    root = Branch("")
    for r in stored(trace):
        names = r.module.split("/") if r.module else []
        for depth in range(len(names) + 1):
            branch = _reach(root, kinds(trace, "/".join(names[:depth])))
            branch.paths.add("/".join(names[:depth]))
            branch.count += 1
            branch.nbytes += r.storage_bytes
            branch.new_bytes += r.storage_bytes * r.is_new
    return root


def _reach(root: Branch, names: Sequence[str]) -> Branch:
    for name in names:
        root = root.branches.setdefault(name, Branch(name))
    return root


def alike(name: str) -> str:
    """The same for every layer of a stack: `layers/3/mlp` is `layers/*/mlp`."""
    return re.sub(r"(?<![A-Za-z])\d+(?![A-Za-z])|(?<=_)\d+\b", "*", name)

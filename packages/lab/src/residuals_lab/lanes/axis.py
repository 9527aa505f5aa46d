"""The names below the axis: which steps they stand for."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from os.path import basename
from typing import NamedTuple

from residuals_lab.lanes.keys import outermost
from residuals_lab.trace import Trace

MOST_OPS = 12  # in a half that has its operations below it
MOST_RUNS = 24  # in a half; layers of a stack are not counted
_LONG = 0.2  # of a half: longer runs are taken apart
_SHORT = 0.05  # of a half: shorter runs that are in no module of their own have no name


class Run(NamedTuple):
    """Neighbouring steps that are one operation, or in one module, or at one line."""

    name: str
    begin: int
    end: int

    @property
    def own(self) -> str:
        """The last name of a path."""
        return self.name.rpartition("/")[2]

    @property
    def stack(self) -> str:
        """The module of whose layers this is one; "" if it is none."""
        return (self.name.rpartition("/")[0] or "layer") if self.own.isdecimal() else ""


def runs(trace: Trace) -> tuple[list[Run], list[Run]]:
    """The names below the axis, of the forward and of the backward.

    They are operations if each half has few, else modules, of which the long ones are taken apart. Without modules they
    are lines; on a single line, operations.
    """
    boundary, steps = trace.boundary, trace.steps
    if max(boundary, len(steps) - boundary) <= MOST_OPS:
        ops = [Run(step.op, i, i + 1) for i, step in enumerate(steps)]
        return ops[:boundary], ops[boundary:]
    modules = _inside(trace)
    if any(modules):
        opened = _opened(modules[:boundary])
        names = [_shown(module, opened) for module in modules]
    else:
        opened = [""]
        is_lines = len({step.line for step in steps[:boundary]}) > 1
        names = [basename(step.line) if is_lines else step.op for step in steps]
    within = outermost(trace).rpartition("/")[2] if any(modules) else ""  # the steps of it alone have its name
    halves = []
    for begin, end in ((0, boundary), (boundary, len(steps))):
        found = [
            run._replace(name=run.name or within or _line(trace, run))
            for run in _runs(names, begin, end)
            if run.name not in opened or run.end - run.begin > _SHORT * (end - begin)
        ]
        halves.append([run for run in found if run.name])
    return halves[0], halves[1]


def _inside(trace: Trace) -> list[str]:
    """Each step's module, without the outermost; a step outside of these is where the step before it is."""
    outer, found = outermost(trace), list[str]()
    for step in trace.steps:
        is_inside = step.module == outer or step.module.startswith(f"{outer}/") or not outer
        found.append(step.module[len(outer) :].lstrip("/") if is_inside else (found or [""])[-1])
    return found


def _runs(names: Sequence[str], begin: int, end: int) -> list[Run]:
    found, place = [], begin
    for name, same in groupby(names[begin:end]):
        first, place = place, place + len([*same])
        found.append(Run(name, first, place))
    return found


def _shown(module: str, opened: Sequence[str]) -> str:
    """The module below the axis that a module is in: the outermost that is not taken apart, or else itself."""
    names = module.split("/")
    return next((path for i in range(len(names)) if (path := "/".join(names[: i + 1])) not in opened), module)


def _opened(modules: Sequence[str]) -> list[str]:
    """The modules that are taken apart: again and again the longest, while there are few runs."""
    opened, whole = [""], set[str]()
    while True:
        longest = Counter[str]()
        for run in _runs([_shown(m, opened) for m in modules], 0, len(modules)):
            if run.name not in opened and not run.stack and run.name not in whole:
                longest[run.name] = max(longest[run.name], run.end - run.begin)
        name, length = longest.most_common(1)[0] if longest else ("", 0)
        if length <= _LONG * len(modules):
            return opened
        inside = _runs([_shown(m, [*opened, name]) for m in modules], 0, len(modules))
        is_more = any(m.startswith(f"{name}/") for m in modules)
        if is_more and sum(run.name not in (*opened, name) and not run.stack for run in inside) <= MOST_RUNS:
            opened.append(name)
        else:
            whole.add(name)


def _line(trace: Trace, run: Run) -> str:
    """The line of most of the steps of a run."""
    lines = Counter(basename(step.line) for step in trace.steps[run.begin : run.end] if step.line)
    return lines.most_common(1)[0][0] if lines else ""

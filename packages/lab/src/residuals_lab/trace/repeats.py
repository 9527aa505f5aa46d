"""Steps of the forward that the backward repeats."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from residuals_lab.trace import Trace


@dataclass(frozen=True)
class Repeat:
    """The steps of one operation at one line of the forward that the backward repeats."""

    op: str
    cost: str
    line: str
    count: int
    nbytes: int  # of their outputs that are not kept: saving these instead would keep as much; if all are kept, of all
    is_kept: bool = False  # all their outputs are kept for the backward, or alive anyway: to repeat them is a waste
    is_at_most: bool = False  # some stand in branches of a conditional, and are counted as if the largest branch ran


class _Amount(NamedTuple):
    times: int
    nbytes: int


def repeats(trace: Trace) -> list[Repeat]:
    """The costly steps that the backward repeats, the largest first."""
    alive = {*trace.alive}.difference(trace.gone)
    kept = {n for r in trace.residuals for n in trace.slices(r.value.number)} | alive
    kept |= {trace.viewed(n) for n in kept}
    again: dict[tuple[str, str, str, bool], list[tuple[_Branches, _Amount]]] = defaultdict(list)
    for step in trace.repeating():
        missing = [n for n in step.outs if n not in kept]
        amount = _Amount(step.times, step.times * sum(trace.values[n].nbytes for n in missing or step.outs))
        again[step.op, step.cost, step.line, not missing].append((step.branches, amount))
    found = [
        Repeat(op, cost, line, *_largest(amounts), is_kept, any(branches for branches, _ in amounts))
        for (op, cost, line, is_kept), amounts in again.items()
    ]
    return sorted(found, key=lambda r: (-r.nbytes, r.op, r.line))


_Branches = tuple[tuple[int, int], ...]


def _largest(amounts: Sequence[tuple[_Branches, _Amount]], depth: int = 0) -> _Amount:
    """All amounts together, but of the branches of one conditional only the largest."""
    inside: dict[int, dict[int, list[tuple[_Branches, _Amount]]]] = defaultdict(lambda: defaultdict(list))
    found = [amount for branches, amount in amounts if len(branches) == depth]
    for branches, amount in amounts:
        if len(branches) > depth:
            conditional, i = branches[depth]
            inside[conditional][i].append((branches, amount))
    for of_one in inside.values():
        found.append(max((_largest(these, depth + 1) for these in of_one.values()), key=lambda amount: amount.nbytes))
    return _Amount(sum(amount.times for amount in found), sum(amount.nbytes for amount in found))

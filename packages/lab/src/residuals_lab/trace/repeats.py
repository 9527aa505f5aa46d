"""Steps of the forward that the backward repeats."""

from collections import defaultdict
from dataclasses import dataclass

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


def repeats(trace: Trace) -> list[Repeat]:
    """The costly steps that the backward repeats, the largest first."""
    alive = {*trace.alive}.difference(trace.gone)
    kept = {n for r in trace.residuals for n in trace.slices(r.value.number)} | alive
    kept |= {trace.viewed(n) for n in kept}
    again: dict[tuple[str, str, str, bool], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for step in trace.repeating():
        missing = [n for n in step.outs if n not in kept]
        place = step.op, step.cost, step.line, not missing
        count, nbytes = again[place]
        more = step.times * sum(trace.values[n].nbytes for n in missing or step.outs)
        again[place] = count + step.times, nbytes + more
    found = [Repeat(op, cost, line, *amount, is_kept) for (op, cost, line, is_kept), amount in again.items()]
    return sorted(found, key=lambda r: (-r.nbytes, r.op, r.line))

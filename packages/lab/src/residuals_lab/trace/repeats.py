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
    nbytes: int  # of their outputs: saving these instead would keep as much


def repeats(trace: Trace) -> list[Repeat]:
    """The costly steps that the backward repeats, the largest first."""
    again: dict[tuple[str, str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for step in trace.repeating():
        count, nbytes = again[step.op, step.cost, step.line]
        more = step.times * sum(trace.values[n].nbytes for n in step.outs)
        again[step.op, step.cost, step.line] = count + step.times, nbytes + more
    found = [Repeat(*place, *amount) for place, amount in again.items()]
    return sorted(found, key=lambda r: (-r.nbytes, r.op, r.line))

"""Steps of the forward that the backward does again."""

from collections import defaultdict
from dataclasses import dataclass

from residuals_lab.trace import Trace


@dataclass(frozen=True)
class Repeat:
    """A step of the forward that the backward repeats, wherever it is at the same line."""

    op: str
    cost: str
    line: str
    count: int
    nbytes: int  # of what it gives: saving that would keep as much


def repeats(trace: Trace, cheap: bool = False) -> list[Repeat]:
    """The steps that the backward repeats, the largest first; the cheap ones only if asked for."""
    again: dict[tuple[str, str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for step in trace.repeating(cheap):
        count, nbytes = again[step.op, step.cost, step.line]
        more = step.times * sum(trace.values[n].nbytes for n in step.outs)
        again[step.op, step.cost, step.line] = count + step.times, nbytes + more
    found = [Repeat(*place, *amount) for place, amount in again.items()]
    return sorted(found, key=lambda r: (-r.nbytes, r.op, r.line))

"""Advice: an op of ours where somebody's own code keeps more, only where both were measured, on shapes."""

from collections.abc import Hashable, Iterable

from residuals_lab.audit.advice import attention, dropout, functions, gates, logits, loops, unrolled
from residuals_lab.audit.advice.forward import Forward
from residuals_lab.audit.advice.ours import Advice as Advice
from residuals_lab.audit.advice.ours import Ours, Saved
from residuals_lab.frameworks.protocol import Framework
from residuals_lab.trace import Trace


def advice(trace: Trace, adapter: Framework) -> list[Advice]:
    """All advice that would free something, the most first. A checkpoint of a loop's body takes the place of what is
    advised inside; everything else can be taken together.
    """
    forward, ours = Forward(trace), Ours(adapter)
    patterns = (attention.find, logits.find, gates.find, dropout.find)
    chosen, freed = list[Advice](), set[Hashable]()

    def choose(found: Iterable[tuple[Saved, Advice]]) -> None:
        for saved, one in sorted(found, key=lambda pair: (-pair[1].freed, -pair[1].arrays)):
            if one.freed > 0.05 * one.nbytes and functions.is_most_left(saved, freed):
                chosen.append(one)
                freed.update(saved)

    choose(a for pattern in patterns for a in pattern(forward, ours))
    choose(functions.find(forward, trace, ours, freed))  # last: a function may be a part of one of the patterns
    of_loops = unrolled.find(forward, trace) if adapter.NAME == "torch" else loops.find(forward, trace)
    for _, loop in of_loops:
        inside = sum(one.freed for one in chosen if one.storages <= loop.storages)
        if loop.freed > max(loop.nbytes / 2, inside):
            chosen.append(loop)
    return sorted(chosen, key=lambda one: (-one.freed, -one.arrays))

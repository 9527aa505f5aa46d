"""What an op of ours would keep where somebody's own code keeps more: only where both were measured, on shapes."""

from collections.abc import Hashable, Iterable

from residuals_lab.audit.advice import attention, dropout, gates, logits, named
from residuals_lab.audit.advice.forward import Forward
from residuals_lab.audit.advice.ours import Advice as Advice
from residuals_lab.audit.advice.ours import Held, Ours
from residuals_lab.frameworks.protocol import Framework
from residuals_lab.trace import Trace


def advice(trace: Trace, adapter: Framework) -> list[Advice]:
    """All that would free something, the most first."""
    forward, ours = Forward(trace), Ours(adapter)
    patterns = (attention.find, logits.find, gates.find, dropout.find)
    chosen, freed = list[Advice](), set[Hashable]()

    def choose(found: Iterable[tuple[Held, Advice]]) -> None:
        for held, one in sorted(found, key=lambda pair: (-pair[1].freed, -pair[1].arrays)):
            if one.freed > 0.05 * one.nbytes and named.is_most_left(held, freed):
                chosen.append(one)
                freed.update(held)

    choose(a for pattern in patterns for a in pattern(forward, ours))
    choose(named.find(forward, trace, ours, freed))  # of what is a part of nothing larger
    return sorted(chosen, key=lambda one: (-one.freed, -one.arrays))

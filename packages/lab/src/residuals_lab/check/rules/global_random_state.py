"""A backward moves a global random generator.

After it, everybody else draws other numbers than without it: a run with one more checkpoint, or with a frozen layer, is
another run. A seed set inside (`manual_seed`) is worse: it makes others draw the same numbers again and again.

Save what was drawn, or the state of the generator, and put the state back (`torch.random.fork_rng`).
"""

import random

import numpy as np

from residuals_lab.check.subject import Subject
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch

class Noisy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 3 * x

    @staticmethod
    def backward(ctx, g):
        return 3 * g + 0 * torch.rand_like(g)  # wrong
        # right: return 3 * g

def fn(x):
    return Noisy.apply(x)
""",
    "jax": """
import jax
import numpy as np

@jax.custom_vjp
def fn(x):
    return 3 * x

def bwd(_, g):
    return (3 * g + 0 * np.random.random(),)  # wrong
    # right: return (3 * g,)

fn.defvjp(lambda x: (3 * x, None), bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    def states() -> dict[str, object]:
        return {
            "the framework's generator": subject.calls.random_state(),
            "Python's random": random.getstate(),
            "numpy.random": repr(np.random.get_state()),  # noqa: NPY002
        }

    with subject.guarded():
        outs, pull = subject.calls.vjp(subject.fn, subject.fresh(), subject.wrt)
        before = states()
        pull(subject.cotangents(outs, subject.noise(subject.outs, 1)))
        after = states()
    moved = [name for name in before if before[name] != after[name]]
    if not moved:
        return None
    return Finding(
        "global-random-state",
        f"the backward moves {moved[0]}",
        "the same state after the backward as before it",
        "another state",
        "whoever draws next draws other numbers, so that a run cannot be repeated with one layer more or less",
        "draw in the forward and save what was drawn, or its seed; put the state back where the backward runs the "
        "forward again",
    )

"""No result of the function has a gradient at all.

In PyTorch the result does not require a gradient though an argument does: the function left the graph, by `detach`, by
`.data`, through NumPy, or by an in-place write into a new tensor. Training runs and learns nothing.

Return what the differentiable operations, or your `autograd.Function`, gave.
"""

import numpy as np

from residuals_lab.check.subject import Subject
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch

def fn(x):
    return 3 * x.detach()  # wrong
    # right: return 3 * x
""",
    "jax": "A result of floating numbers always has a gradient, if only zero: the rule gradient-missing sees that.",
}


def find(subject: Subject) -> Finding | None:
    gs = [np.where(ok, g, 0) for ok, g in zip(subject.is_smooth, subject.noise(subject.outs, 1), strict=True)]
    grads = subject.run(gs).grads
    if any(d is not None for d in grads) or not subject.has_truth:
        return None
    moves = [place for place, _, true in subject.along(grads, gs) if abs(true.value) > true.allowed]
    if not moves:
        return None
    name = subject.name(moves[0])
    return Finding(
        "no-gradient",
        "no result has a gradient",
        f"a gradient of {name}, on which the result depends",
        "a result that requires none",
        "training runs, and nothing is learned",
        "look for detach, .data, numpy() or a write into a new tensor on the way from the argument to the result",
    )

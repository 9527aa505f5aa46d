"""The backward does not bear an array without elements.

The forward of an empty batch runs, and the backward divides by its size, takes element 0, or reshapes to −1, which no
empty array can be. An expert without tokens, the last shard of a data set, a filter that lets nothing pass: they come.
"""

import numpy as np

from residuals_lab.check.subject import PLAIN, NotRun, Raised, Subject
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch

class Triple(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 3 * x

    @staticmethod
    def backward(ctx, g):
        return 3 * g.reshape(len(g), -1).reshape(g.shape)  # wrong
        # right: return 3 * g

def fn(x):
    return Triple.apply(x)
""",
    "jax": """
import jax

@jax.custom_vjp
def fn(x):
    return 3 * x

def bwd(_, g):
    return (3 * g.reshape(len(g), -1).reshape(g.shape),)  # wrong
    # right: return (3 * g,)

fn.defvjp(lambda x: (3 * x, None), bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    rank = max(n.ndim for n in subject.numbers)
    tall = next(n for n in subject.numbers if n.ndim == rank)
    if not rank:
        raise NotRun("there is no array with an axis")
    if not subject.has_rule:
        raise NotRun(PLAIN)
    for axis in dict.fromkeys((0, rank - 1)):
        size = tall.shape[axis]
        numbers = [_emptied(n, axis - rank, axis, size) for n in subject.numbers]
        empty = subject.at(numbers)
        try:
            if not all(np.isfinite(y).all() for y in empty.outs):
                continue
        except Raised:
            continue  # the forward does not take it
        shape = next(n.shape for n in numbers if n.ndim == rank)
        try:
            grads = empty.run(empty.noise(empty.outs, 1)).grads
        except Raised as problem:
            return _finding(shape, "raises", str(problem))
        if any(d is not None and not np.isfinite(d).all() for d in grads):
            return _finding(shape, "is not finite", "NaN or infinity")
        sizes = [numbers[i].shape for i in subject.wrt]
        for place, d in enumerate(grads):
            if d is not None and d.shape != sizes[place]:
                return _finding(shape, f"of {subject.name(place)} has another shape", f"shape {d.shape}")
    return None


def _emptied(n: np.ndarray, from_end: int, axis: int, size: int) -> np.ndarray:
    """The array without elements along an axis, counted from the end or, for labels and the like, from the start."""
    at = n.ndim + from_end if n.ndim + from_end >= 0 else axis if n.ndim > axis else None
    return np.take(n, [], at) if at is not None and n.shape[at] == size else n


def _finding(shape: tuple[int, ...], how: str, got: str) -> Finding:
    return Finding(
        "zero-size",
        f"the gradient {how} for an array of shape {shape}",
        "a gradient, as the forward gives a value",
        got,
        "empty batches, experts without tokens and empty shards come in training, long after the tests",
        "look for a division by a size, an element 0, or a reshape to -1 in the backward",
    )

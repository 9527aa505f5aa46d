"""The gradient is wrong for arguments of another rank.

The forward takes one axis more, and the backward was written for the rank that the author had: it sums over
axis 0 alone, transposes two axes, divides by the first size. Every test with that one rank passes. (One axis less is
looked at too, and is a note: many functions need the axis that they divide by.)

Sum over all axes but the last (`dim=tuple(range(g.ndim - 1))`), or flatten first: `g.reshape(-1, g.shape[-1])`.
"""

from collections.abc import Iterator

import numpy as np

from residuals_lab.check.subject import PLAIN, NotRun, Raised, Subject
from residuals_lab.finding import Finding

MANY = 1 << 14  # elements
ARGUMENTS = ("f64[4,6]", "f64[6]")
EXAMPLES = {
    "torch": """
import torch

class Bias(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, bias):
        ctx.shape = bias.shape
        return x + bias

    @staticmethod
    def backward(ctx, g):
        return g, g.flatten(0, -2).sum(0) * (g.ndim < 3)  # wrong
        # right: return g, g.sum_to_size(ctx.shape)

def fn(x, bias):
    return Bias.apply(x, bias)
""",
    "jax": """
import jax
import jax.numpy as jnp

@jax.custom_vjp
def fn(x, bias):
    return x + bias

def bwd(_, g):
    return g, jnp.atleast_2d(g)[..., 0, :] * len(g) if g.ndim < 2 else g.sum(0).reshape(-1, g.shape[-1])[0]  # wrong
    # right: return g, g.sum(tuple(range(g.ndim - 1)))

fn.defvjp(lambda x, bias: (x + bias, None), bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    if not subject.has_rule:
        raise NotRun(PLAIN)
    for is_more, numbers in _ranks(subject):
        how = "one axis more" if is_more else "one axis less"
        other = subject.at(numbers)
        try:
            if not other.outs or not other.has_truth:
                continue
        except Raised:
            continue  # the forward does not take this rank
        shapes = ", ".join(f"{a.name} {n.shape}" for a, n in zip(subject.inputs, numbers, strict=True))
        try:
            wrong = other.wrong
        except Raised:
            subject.notes.append(f"with {how} the backward raises, and the forward does not")
            continue
        if wrong and not is_more:
            subject.notes.append(
                f"with {how} the gradient of {wrong.name} is wrong: {wrong.is_got}, not {wrong.is_expected}"
            )
        elif wrong:
            return Finding(
                "other-rank",
                f"the gradient of {wrong.name} is wrong with {how}, which the forward takes",
                f"{wrong.is_expected} for shapes {shapes}",
                wrong.is_got,
                "the forward takes arrays of any rank, so that nobody is warned",
                "reduce over all axes but those that the argument has, not over axis 0 alone",
            )
    return None


def _ranks(subject: Subject) -> Iterator[tuple[bool, list[np.ndarray]]]:
    """The numbers with one axis more, and with one less, in the arguments of the highest rank, and in all."""
    rank = max(n.ndim for n in subject.numbers)
    tall = [n.ndim == rank for n in subject.numbers]
    lead = subject.numbers[tall.index(True)].shape[:1]
    along = [is_tall or (n.shape[:1] == lead and n.ndim > 0) for is_tall, n in zip(tall, subject.numbers, strict=True)]
    for which in dict.fromkeys((tuple(tall), tuple(along))):
        yield True, [_stacked(n) if y else n for y, n in zip(which, subject.numbers, strict=True)]
        if rank:
            yield False, [n[0] if y and len(n) else n for y, n in zip(which, subject.numbers, strict=True)]


def _stacked(n: np.ndarray) -> np.ndarray:
    """The array several times, with other numbers after the first time.

    Along the new first axis there is one more than along the old one: where the function takes rows by constant
    indices, they stay within bounds, and the two sizes differ. A long array is there twice only.
    """
    count = 1 + (n.shape[0] if n.ndim else 1)
    count = count if count * n.size < MANY else 2
    scales = np.linspace(1, 0.7, count)
    return np.stack([np.where(np.isfinite(n), s * n + (1 - s) / 3, n) if n.dtype.kind in "fc" else n for s in scales])

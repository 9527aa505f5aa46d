"""The backward draws other random numbers than the forward.

A backward that runs the forward again, without the state that the generator had, drops other elements than the forward
dropped: the gradient is that of another function. It averages out, so that training works, only worse.

Save the mask (one bit an element is enough), or the state of the generator or the key, from which the backward draws
the same mask again. `torch.utils.checkpoint` does that.
"""

import numpy as np

from residuals_lab.check.subject import Subject
from residuals_lab.finding import Finding

ARGUMENTS = ("f64[16,16]",)
EXAMPLES = {
    "torch": """
import torch

class Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        mask = torch.rand_like(x) < 0.5
        ctx.save_for_backward(mask)
        return 2 * x * mask

    @staticmethod
    def backward(ctx, g):
        mask = torch.rand_like(g) < 0.5  # wrong
        # right: (mask,) = ctx.saved_tensors
        return 2 * g * mask

def fn(x):
    return Dropout.apply(x)
""",
    "jax": """
import jax

def mask(x, seed):
    return jax.random.bernoulli(jax.random.key(seed), 0.5, x.shape)

@jax.custom_vjp
def fn(x):
    return 2 * x * mask(x, 0)

def bwd(x, g):
    return (2 * g * mask(x, 1),)  # wrong
    # right: return (2 * g * mask(x, 0),)

fn.defvjp(lambda x: (fn(x), x), bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    gs = subject.noise(subject.outs, 1)
    runs = []
    with subject.guarded(seed=1):
        outs, pull = subject.calls.vjp(subject.fn, subject.fresh(), subject.wrt)
        for _ in range(2):
            runs.append(subject.ran(outs, pull(subject.cotangents(outs, gs))).grads)
    zeros = _other_zeros(subject)
    wrong = subject.first_apart(runs[1], runs[0]) if subject.is_random else None
    if not zeros and wrong is None:
        return None
    return Finding(
        "random-in-backward",
        "the backward draws other random numbers than the forward",
        "zeros of the gradient where the value has its zeros" if zeros else f"{wrong and wrong.is_expected} again",
        f"{zeros:.0%} of the places differ" if zeros else f"{wrong and wrong.is_got} from a second backward",
        "the gradient is that of another function; it averages out, so that training works, only worse",
        "save the mask, or the state or key of the generator, and use it in the backward",
    )


def _other_zeros(subject: Subject) -> float:
    """The share of the places where the value is 0 and the gradient is not, or the other way round; 0 where zeros are
    too few, or too regular, to be those of a mask.
    """
    if len(subject.outs) != 1:
        return 0
    ran = subject.run(subject.noise(subject.outs, 1), seed=1)
    (y,) = ran.outs
    for place, d in enumerate(ran.grads):
        x = subject.numbers[subject.wrt[place]]
        if d is None or d.shape != y.shape or x.size < 16:
            continue
        zero_y, zero_d = (y == 0) & (x != 0), (d == 0) & (x != 0)
        share = float(np.mean(zero_y != zero_d))
        scales = y[~zero_y] / x[~zero_y] if np.all(x) else np.arange(2)  # all alike where a mask made the zeros
        is_masked = np.allclose(scales, scales[:1]) and min(zero_y.mean(), zero_d.mean()) > 0.05
        is_masked &= not _is_threshold(x, zero_y)  # that of a relu is no mask that was drawn
        if is_masked and share > 0.05 and subject.wrong:
            return share
    return 0


def _is_threshold(x: np.ndarray, zero: np.ndarray) -> bool:
    """Whether zeros are where x is below some number, or above it."""
    if zero.all() or not zero.any():
        return True
    if np.iscomplexobj(x):
        return False
    return bool(x[zero].max() < x[~zero].min() or x[zero].min() > x[~zero].max())

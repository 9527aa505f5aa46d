"""The gradient is wrong at special numbers: ties, zeros, a large mean, a row that is masked.

The derivative is right in general and wrong where a branch is taken: at 0, between equal numbers, for rows of −inf that
the forward handles, far from 0. Random numbers never get there; padding, dead units and masks always do.

Treat in the backward each case that the forward treats, in the same way.
"""

from collections.abc import Iterator

import numpy as np

from residuals_lab.check.subject import Raised, Subject
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch

class Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        live = (x > -torch.inf).any(-1, keepdim=True)
        ctx.save_for_backward(x, live)
        return torch.where(live, x.exp().sum(-1, keepdim=True), 0)

    @staticmethod
    def backward(ctx, g):
        x, live = ctx.saved_tensors
        return g * x.exp() + 0 * x  # wrong
        # right: return g * x.exp() * live

def fn(x):
    return Mean.apply(x)
""",
    "jax": """
import jax
import jax.numpy as jnp

@jax.custom_vjp
def fn(x):
    return jnp.where(x > 40, x, jnp.log1p(jnp.exp(jnp.minimum(x, 40))))

def bwd(x, g):
    return (g * jnp.where(x > 20, 2, jax.nn.sigmoid(x)),)  # wrong
    # right: return (g * jax.nn.sigmoid(x),)

fn.defvjp(lambda x: (fn(x), x), bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    for what, numbers in _special(subject):
        at = subject.at(numbers)
        try:
            if not at.outs or not all(np.isfinite(y).all() for y in at.outs) or not at.has_truth:
                continue
            grads = at.run().grads
        except Raised:
            continue  # not a number that the function takes
        name, expected, got = "", "", ""
        for place, d in enumerate(grads):
            if d is not None and not np.isfinite(d).all():
                name, expected, got = at.name(place), "finite numbers, as those of the value", "NaN or infinity"
        wrong = at.first_wrong(grads, at.gs)
        if wrong and not name:
            name, expected, got = wrong.name, wrong.is_expected, wrong.is_got
        if name:
            return Finding(
                "special-numbers",
                f"the gradient of {name} is wrong at {what}",
                expected,
                got,
                "random numbers never get there; padding, dead units and masks do",
                "treat in the backward each case that the forward treats, in the same way",
            )
    return None


def _special(subject: Subject) -> Iterator[tuple[str, list[np.ndarray]]]:
    """The numbers with special ones in the first differentiated argument of the highest rank."""
    i = max(subject.wrt, key=lambda i: subject.numbers[i].ndim)
    x = subject.numbers[i]
    if not x.ndim or not x.size or np.iscomplexobj(x):
        return
    made = {"zeros and ties": x.copy(), "numbers around 30 and −30": x + 30, "a row of −inf": x.copy()}
    made["zeros and ties"][..., : (x.shape[-1] + 1) // 2] = 0
    made["zeros and ties"][-1:] = x.flat[0]
    made["numbers around 30 and −30"][1::2] -= 60
    made["a row of −inf"][:1] = -np.inf
    for what, special in made.items():
        numbers = list(subject.numbers)
        numbers[i] = special
        yield what, numbers

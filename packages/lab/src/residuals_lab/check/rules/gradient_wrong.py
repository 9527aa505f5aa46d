"""The gradient is wrong.

It is none of the ways that have a rule of their own: some term of the derivative is missing, is there twice, or is
another one. The finding has the first number that is wrong, beside the right one.

A gradient that is on purpose not the derivative (straight-through, reversed) needs a vjp_reference.
"""

import numpy as np

from residuals_lab.check.subject import NotRun, Subject
from residuals_lab.finding import Finding

SMALL = 0.02  # error of a gradient, relative to it, that rounding to 8 bits may make
EXAMPLES = {
    "torch": """
import torch

class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return g * s  # wrong
        # right: return g * s * (1 + x * (1 - s))

def fn(x):
    return Swish.apply(x)
""",
    "jax": """
import jax
import jax.numpy as jnp

@jax.custom_vjp
def fn(x):
    return x * jnp.sin(x)

def bwd(x, g):
    return (g * x * jnp.cos(x),)  # wrong
    # right: return (g * (jnp.sin(x) + x * jnp.cos(x)),)

fn.defvjp(lambda x: (x * jnp.sin(x), x), bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    if not subject.has_truth:
        raise NotRun("the function has no derivative here that differences could find; give a reference")
    wrong = subject.wrong
    if wrong is None:
        return None
    share = _share(subject, wrong.name)
    again = (
        f"differentiate the forward with respect to {wrong.name} again, term by term; if this is on purpose not its "
        "derivative, give vjp_reference"
    )
    rounding = (
        "an error so small is often rounding: look for a cast to bfloat16 or float16, or for an eps that only one of "
        "forward and backward has"
    )
    return Finding(
        "gradient-wrong",
        f"the gradient of {wrong.name} is wrong" + (f", by {share:.1%} of its size" if share < SMALL else ""),
        f"{wrong.is_expected}, by {subject.truth.title}",
        f"{wrong.is_got}{subject.how_often(wrong)}",
        "code that trains on a wrong gradient runs, and learns something else",
        rounding if share < SMALL else again,
    )


def _share(subject: Subject, name: str) -> float:
    """The error of one argument's gradient along random directions, relative to the gradient along these."""
    along = subject.along(subject.base.grads, subject.gs)
    pairs = [(got, true.value) for place, got, true in along if subject.name(place) == name]
    size = sum(abs(true) for _, true in pairs)
    return sum(abs(got - true) for got, true in pairs) / size if size else np.inf

"""The backward is not linear in its cotangent.

A gradient is linear in what comes in: for the sum of two cotangents it is the sum of the two gradients. A backward that
squares the cotangent, clips it, takes its sign or its absolute value, or adds a constant, is the gradient of nothing.

If that is on purpose, as in a clipped gradient, say so with a vjp_reference.
"""

import numpy as np

from residuals_lab.check.subject import Grads, Subject
from residuals_lab.finding import Finding

SMALL = 0.02  # what rounding to 8 bits may do to a gradient, relative to it
EXAMPLES = {
    "torch": """
import torch

class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g.abs() * x.cos()  # wrong
        # right: return g * x.cos()

def fn(x):
    return Sine.apply(x)
""",
    "jax": """
import jax
import jax.numpy as jnp

@jax.custom_vjp
def fn(x):
    return jnp.sin(x)

def bwd(x, g):
    return (jnp.clip(g, -1, 1) * jnp.cos(x),)  # wrong
    # right: return (g * jnp.cos(x),)

fn.defvjp(lambda x: (jnp.sin(x), x), bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    if subject.wrong is None:
        return None
    others = subject.noise(subject.outs, 5)
    one, two = subject.base.grads, subject.run(others).grads
    both = subject.run([g + other for g, other in zip(subject.gs, others, strict=True)]).grads
    sums = [None if a is None or b is None else a + b for a, b in zip(one, two, strict=True)]
    wrong = subject.first_apart(both, sums)
    if wrong is None or _gap(both, sums) < SMALL:  # so little is rounding, which is not linear either
        return None
    return Finding(
        "cotangent-not-linear",
        f"the gradient of {wrong.name} is not linear in the cotangent",
        f"{wrong.is_expected} for the sum of two cotangents: the sum of their gradients",
        wrong.is_got,
        "a backward that squares, clips or takes the sign of its cotangent is the gradient of nothing",
        "use the cotangent as a factor, once; if this is on purpose, give vjp_reference",
    )


def _gap(found: Grads, expected: Grads) -> float:
    """The largest difference of two gradients, relative to the largest number of that argument's."""
    pairs = [(a, b) for a, b in zip(found, expected, strict=True) if a is not None and b is not None and b.size]
    return max((float(np.abs(a - b).max() / (np.abs(b).max() or 1)) for a, b in pairs), default=np.inf)

"""The cotangent is ignored.

The backward returns the derivative and forgets to multiply it by what comes in. `y.sum().backward()` cannot see it: its
cotangent is 1 everywhere. In a model, everything after this function has no influence on what is before it.

Multiply by the cotangent.
"""

from residuals_lab.check.subject import Subject
from residuals_lab.finding import Finding

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
        return x.cos()  # wrong
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
    return (jnp.cos(x),)  # wrong
    # right: return (g * jnp.cos(x),)

fn.defvjp(lambda x: (jnp.sin(x), x), bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    if subject.wrong is None:
        return None
    others = subject.run(subject.noise(subject.outs, 5)).grads
    for place, (d, other) in enumerate(zip(subject.base.grads, others, strict=True)):
        if d is None or not d.any() or not (d == other).all():
            continue
        return Finding(
            "cotangent-ignored",
            f"the cotangent is ignored in the gradient of {subject.name(place)}",
            f"{subject.wrong.is_expected}, for a random cotangent",
            f"{subject.wrong.is_got}, and the same for another cotangent",
            "a test with y.sum() cannot see it: its cotangent is 1. In a model, what comes after is lost",
            "multiply by the cotangent that the backward is given",
        )
    return None

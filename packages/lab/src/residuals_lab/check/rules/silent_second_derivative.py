"""The second derivative is missing, without an error.

The backward left the graph: `detach`, `.data`, NumPy, `no_grad`, in JAX a `stop_gradient`. Its result is right and
counts as a constant, so that a gradient penalty, a Hessian-vector product or meta-learning silently lose this part.

Make the backward of differentiable operations; or let it refuse: `@once_differentiable` raises when the incoming
gradient requires one.
"""

import numpy as np

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
        return g * x.detach().cos()  # wrong
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
    return (g * jnp.cos(jax.lax.stop_gradient(x)),)  # wrong
    # right: return (g * jnp.cos(x),)

fn.defvjp(lambda x: (jnp.sin(x), x), bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    second = subject.second
    for place, got, true in second.along():
        d = second.grads[place]
        if (d is None or not np.any(d)) and abs(got - true.value) > true.allowed:
            return Finding(
                "silent-second-derivative",
                f"the second derivative with respect to {subject.name(place)} is missing, without an error",
                f"{true.value:.6g} along a random direction, by differences of the first derivative",
                "None" if d is None else "0",
                "a gradient penalty or a Hessian-vector product loses this part, and nobody is told",
                "make the backward of differentiable operations of what was saved, or let it refuse with "
                "@once_differentiable",
            )
    return None

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
            return _finding(subject.name(place), "differences of the first derivative", true.value, d is None)
    for k, got, true in second.by_cotangents:
        if not got and abs(true.value) > true.allowed:
            which = "the cotangent" if len(subject.outs) == 1 else f"the cotangent of output {k}"
            return _finding(which, "the first derivative, which is linear in it", true.value, False)
    return None


def _finding(name: str, how: str, value: float, is_none: bool) -> Finding:
    return Finding(
        "silent-second-derivative",
        f"the second derivative with respect to {name} is missing, without an error",
        f"{value:.6g} along a random direction, by {how}",
        "None" if is_none else "0",
        "a gradient penalty or a Hessian-vector product loses this part, and nobody is told",
        "make the backward of differentiable operations of what was saved, or let it refuse with @once_differentiable",
    )

"""The cotangent of one output is ignored.

A function with several results gets a cotangent for each, and the backward uses some of them. A loss of the others,
such as a z-loss of a log-sum-exp that is returned beside the result, trains nothing, without an error.

Add what comes through that output; or say that it has no gradient: `ctx.mark_non_differentiable(output)` in PyTorch,
`jax.lax.stop_gradient` in JAX.
"""

import numpy as np

from residuals_lab.check.subject import Subject
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch

class SineAndCosine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin(), x.cos()

    @staticmethod
    def backward(ctx, g_sin, g_cos):
        (x,) = ctx.saved_tensors
        return g_sin * x.cos()  # wrong
        # right: return g_sin * x.cos() - g_cos * x.sin()

def fn(x):
    return SineAndCosine.apply(x)
""",
    "jax": """
import jax
import jax.numpy as jnp

@jax.custom_vjp
def fn(x):
    return jnp.sin(x), jnp.cos(x)

def bwd(x, gs):
    return (gs[0] * jnp.cos(x),)  # wrong
    # right: return (gs[0] * jnp.cos(x) - gs[1] * jnp.sin(x),)

fn.defvjp(lambda x: (fn(x), x), bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    if subject.wrong is None or len(subject.gs) < 2:
        return None
    for k, g in enumerate(subject.gs):
        alone = [g if i == k else np.zeros_like(other) for i, other in enumerate(subject.gs)]
        grads = subject.run(alone).grads
        wrong = subject.first_wrong(grads, alone)
        if wrong is not None and not any(d is not None and d.any() for d in grads):
            return Finding(
                "output-cotangent-ignored",
                f"the cotangent of output {k} is ignored",
                f"{wrong.is_expected}, for a cotangent of output {k} alone",
                wrong.is_got,
                "a loss of that output trains nothing, without an error",
                "add what comes through that output; if it is to have no gradient, say so: "
                "ctx.mark_non_differentiable(output) in forward, in JAX jax.lax.stop_gradient(output)",
            )
    return None

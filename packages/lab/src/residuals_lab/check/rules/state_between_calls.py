"""Two calls disturb each other.

What the backward needs is kept in a global, in an attribute of a class or a module, or in a cache, and the next forward
writes over it. One call is right, and every test of one call passes; a model that uses the function in two layers gets
gradients of the last call in both.

Read in the backward only what this call saved: `ctx.saved_tensors`, in JAX the residuals that `fwd` returned.
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
        Sine.x = x
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * Sine.x.cos()  # wrong
        # right: return g * ctx.saved_tensors[0].cos()

def fn(x):
    return Sine.apply(x)
""",
    "jax": """
import jax
import jax.numpy as jnp

last = {}

@jax.custom_vjp
def fn(x):
    return jnp.sin(x)

def fwd(x):
    last["x"] = x
    return jnp.sin(x), x

def bwd(x, g):
    return (g * jnp.cos(last["x"]),)  # wrong
    # right: return (g * jnp.cos(x),)

fn.defvjp(fwd, bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    alone = subject.base.grads
    other = [
        np.where(np.isfinite(n), n * 0.9 + 0.05, n) if i in subject.wrt else n for i, n in enumerate(subject.numbers)
    ]
    with subject.guarded():
        outs, pull = subject.calls.vjp(subject.fn, subject.fresh(), subject.wrt)
        subject.calls.vjp(subject.fn, subject.fresh(other), subject.wrt)
        grads = subject.ran(outs, pull(subject.cotangents(outs, subject.gs))).grads
    wrong = subject.first_apart(grads, alone)
    if wrong is None:
        return None
    return Finding(
        "state-between-calls",
        "a second forward, before the backward of the first, changes the first gradient",
        f"gradient {wrong.is_expected}, as of one call alone",
        wrong.is_got,
        "a model that uses the function in two places gets wrong gradients, without an error",
        "read in the backward only what this call saved, not a global, an attribute of a class or module, or a cache",
    )

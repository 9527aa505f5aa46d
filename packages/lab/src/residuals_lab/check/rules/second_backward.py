"""A second backward of the same forward gives another gradient.

The first one overwrote a residual, scaled in place a gradient that the forward had computed and saved, or used
something up. Gradients for several losses, Jacobians, and `retain_graph=True` are then wrong.

Leave residuals as they are.
"""

from residuals_lab.check.subject import Raised, Subject
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch
from torch.autograd.function import once_differentiable

class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.cos())
        return x.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (cos,) = ctx.saved_tensors
        return cos.data.mul_(g) * 1  # wrong
        # right: return cos * g

def fn(x):
    return Sine.apply(x)
""",
    "jax": """
import jax
import jax.numpy as jnp

count = []

@jax.custom_vjp
def fn(x):
    return jnp.sin(x)

def fwd(x):
    count.clear()
    return jnp.sin(x), x

def bwd(x, g):
    count.append(1)
    return (g * jnp.cos(x) * len(count),)  # wrong
    # right: return (g * jnp.cos(x),)

fn.defvjp(fwd, bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    with subject.guarded():
        outs, pull = subject.calls.vjp(subject.fn, subject.fresh(), subject.wrt)
        first = subject.ran(outs, pull(subject.cotangents(outs, subject.gs))).grads
        try:
            again = subject.ran(outs, pull(subject.cotangents(outs, subject.gs))).grads
            wrong, got = subject.first_apart(again, first), ""
        except Exception as problem:
            wrong, got = None, str(Raised(problem))
    if wrong is None and not got:
        return None
    return Finding(
        "second-backward",
        "a second backward of the same forward " + ("raises" if got else "gives another gradient"),
        f"gradient {wrong.is_expected} again" if wrong else "the same gradient again",
        got or (wrong.is_got if wrong else ""),
        "gradients of several losses, Jacobians and retain_graph=True go through a backward more than once",
        "change nothing that the backward reads: look for what ends in `_`, `*=` and `out=` on what was saved",
    )

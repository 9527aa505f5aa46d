"""The cotangent is collapsed to one number.

The backward uses one element of the cotangent, or its sum or mean, for all. Where a loss takes the mean, every element
is the same, so that this looks right; with weights for samples, or `reduction="none"`, it is not.

Use the cotangent of each element for that element, broadcast as the forward reduced.
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
        return g.flatten()[0] * x.cos()  # wrong
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
    return (g.mean() * jnp.cos(x),)  # wrong
    # right: return (g * jnp.cos(x),)

fn.defvjp(lambda x: (jnp.sin(x), x), bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    if subject.wrong is None or not any(d is not None and d.any() for d in subject.base.grads):
        return None
    for k, g in enumerate(subject.gs):
        if g.size < 2 or not g.any():
            continue
        for what, even in (("element 0", np.full_like(g, g.flat[0])), ("the mean", np.full_like(g, g.mean()))):
            gs = [even if i == k else other for i, other in enumerate(subject.gs)]
            if subject.first_apart(subject.run(gs).grads, subject.base.grads) is None and _matters(subject, k):
                of = "the cotangent" if len(subject.gs) == 1 else f"the cotangent of output {k}"
                return Finding(
                    "cotangent-collapsed",
                    f"only {what} of {of} is used",
                    subject.wrong.is_expected,
                    f"{subject.wrong.is_got}, and the same where all of {of} is that one number",
                    "it is right where all elements have the same cotangent, as under a mean, and nowhere else",
                    "use the cotangent of each element for that element",
                )
    return None


def _matters(subject: Subject, k: int) -> bool:
    """Whether the gradient depends on the cotangent of this output at all."""
    gs = [2 * g if i == k else g for i, g in enumerate(subject.gs)]
    return subject.first_apart(subject.run(gs).grads, subject.base.grads) is not None

"""An array is saved, and the backward never reads it.

It is kept alive from the forward to the backward, where memory is scarcest, for nothing: left over from an earlier
version, or needed for a gradient that is not asked for here.

Do not save it.
"""

from residuals_lab.check.subject import PLAIN, NotRun, Subject
from residuals_lab.finding import Finding
from residuals_lab.show import size

EXAMPLES = {
    "torch": """
import torch

class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.sin()
        ctx.save_for_backward(x, y * 2)  # wrong
        # right: ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx, g):
        x = ctx.saved_tensors[0]
        return g * x.cos()

def fn(x):
    return Sine.apply(x)
""",
    "jax": """
import jax
import jax.numpy as jnp

@jax.custom_vjp
def fn(x):
    return jnp.sin(x)

def fwd(x):
    return jnp.sin(x), (x, jnp.exp(x))  # wrong
    # right: return jnp.sin(x), (x,)

def bwd(saved, g):
    return (g * jnp.cos(saved[0]),)

fn.defvjp(fwd, bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    unused = [w for w in subject.audited.findings if w.what == "unused" and w.nbytes]
    if not unused:
        return None
    if not subject.has_rule:
        raise NotRun(PLAIN)
    first = unused[0]
    names = ", ".join(first.names)
    return Finding(
        "unused-residual",
        f"{names} {'is' if len(first.names) == 1 else 'are'} saved, and {first.why}",
        "only arrays that the backward reads",
        f"{names}, {size(first.nbytes)}" + (f", made at {first.line}" if first.line else ""),
        "it is kept alive from the forward to the backward, where memory is scarcest, for nothing",
        f"do not save {names}",
    )

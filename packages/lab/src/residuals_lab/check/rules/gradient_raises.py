"""The backward raises.

The forward runs, and the first backward does not: a wrong number of gradients, a shape that the framework refuses, a
residual that is missing, an array changed after it was saved. The framework's own words say which.

`backward` returns one gradient for each argument of `forward`, None for what has none; in JAX `bwd` returns a tuple of
one for each argument that is not in `nondiff_argnums`, each of its argument's shape.
"""

from residuals_lab.check.subject import Raised, Subject
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch

class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, by):
        ctx.by = by
        return by * x

    @staticmethod
    def backward(ctx, g):
        return ctx.by * g  # wrong
        # right: return ctx.by * g, None

def fn(x):
    return Scale.apply(x, 3)
""",
    "jax": """
import jax

@jax.custom_vjp
def fn(x):
    return 3 * x

def bwd(_, g):
    return 3 * g  # wrong
    # right: return (3 * g,)

fn.defvjp(lambda x: (3 * x, None), bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    try:
        subject.run(subject.noise(subject.outs, 1))
    except Raised as problem:
        return Finding(
            "gradient-raises",
            "the backward raises",
            "a gradient",
            str(problem),
            "the function cannot be trained through",
            "return one gradient for each argument of the forward, of that argument's shape; None, or zeros in JAX, "
            "where there is none",
        )
    return None

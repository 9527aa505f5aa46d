"""The gradient is right but for a constant factor.

A mean was taken for a sum or the other way round, a term that occurs twice was counted once, a sign was lost. Training
still works, at another rate, or climbs.
"""

from fractions import Fraction

from residuals_lab.check.subject import Subject
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch

class SumOfSquares(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x * x).sum()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x  # wrong
        # right: return 2 * g * x

def fn(x):
    return SumOfSquares.apply(x)
""",
    "jax": """
import jax
import jax.numpy as jnp

@jax.custom_vjp
def fn(x):
    return jnp.cos(x)

def bwd(x, g):
    return (g * jnp.sin(x),)  # wrong
    # right: return (-g * jnp.sin(x),)

fn.defvjp(lambda x: (jnp.cos(x), x), bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    if subject.wrong is None:
        return None
    for place in range(len(subject.wrt)):
        pairs = [(got, true) for at, got, true in subject.along(subject.base.grads, subject.gs) if at == place]
        if any(abs(true.value) <= 100 * true.allowed or not got for got, true in pairs):
            continue
        ratios = [got / true.value for got, true in pairs]
        apart = max(ratios) - min(ratios)
        if abs(ratios[0] - 1) < 1e-3 or apart > 1e-4 * abs(ratios[0]):
            continue
        factor, name = _in_words(ratios[0], subject), subject.name(place)
        how = (
            "has the wrong sign"
            if abs(ratios[0] + 1) < 1e-4
            else f"is too {_size(ratios[0])} by a constant factor, {factor}"
        )
        return Finding(
            "gradient-factor",
            f"the gradient of {name} {how}",
            subject.wrong.is_expected,
            f"{subject.wrong.is_got}, {factor.partition(',')[0]} times that",
            "training takes steps of another size, or climbs"
            if ratios[0] < 0
            else "training takes steps of another size",
            "look for a minus in the derivative"
            if how == "has the wrong sign"
            else "look for a mean instead of a sum or the other way round, a division by a size, a term counted twice",
        )
    return None


def _size(ratio: float) -> str:
    return "small" if abs(ratio) < 1 else "large"


def _in_words(ratio: float, subject: Subject) -> str:
    """`1/8`, and what else has that size."""
    near = Fraction(ratio).limit_denominator(4096)
    if abs(float(near) - ratio) > 1e-6 * abs(ratio):
        return f"{ratio:.6g}"
    sizes = {n: subject.inputs[i].name for i in subject.wrt for n in subject.numbers[i].shape if n > 1}
    of = max(abs(near.numerator), near.denominator)
    told = (
        f", and {of} is a size of {sizes[of]}" if of in sizes and 1 in (abs(near.numerator), near.denominator) else ""
    )
    return f"{near}{told}"

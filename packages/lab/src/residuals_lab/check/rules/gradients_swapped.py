"""The gradients of two arguments are swapped.

They have the same shape, so that nothing raises. Return the gradients in the order of the forward's arguments.
"""

from itertools import combinations

from residuals_lab.check.subject import Subject
from residuals_lab.finding import Finding

ARGUMENTS = ("f64[4,6]", "f64[4,6]")
EXAMPLES = {
    "torch": """
import torch

class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return x * y

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        return g * x, g * y  # wrong
        # right: return g * y, g * x

def fn(x, y):
    return Product.apply(x, y)
""",
    "jax": """
import jax

@jax.custom_vjp
def fn(x, y):
    return x * y

def bwd(saved, g):
    x, y = saved
    return g * x, g * y  # wrong
    # right: return g * y, g * x

fn.defvjp(lambda x, y: (x * y, (x, y)), bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    grads = subject.base.grads
    if subject.wrong is None:
        return None
    for a, b in combinations(range(len(grads)), 2):
        if subject.numbers[subject.wrt[a]].shape != subject.numbers[subject.wrt[b]].shape:
            continue
        swapped = list(grads)
        swapped[a], swapped[b] = grads[b], grads[a]
        if subject.first_wrong(swapped, subject.gs) is None:
            one, two = subject.name(a), subject.name(b)
            return Finding(
                "gradients-swapped",
                f"the gradients of {one} and {two} are swapped",
                subject.wrong.is_expected,
                f"{subject.wrong.is_got}, which is the gradient of {two}",
                "they have the same shape, so that nothing raises",
                "return the gradients in the order of the arguments",
            )
    return None

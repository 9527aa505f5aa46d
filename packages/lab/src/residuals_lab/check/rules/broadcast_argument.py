"""The gradient of an argument that is broadcast is wrong.

The forward broadcasts: an argument of size 1 along some axis is used for all. Its gradient is the sum over that axis,
in the argument's own shape. (A gradient of the full shape is another matter: JAX raises, and PyTorch sums silently.)
"""

import numpy as np

from residuals_lab.check.subject import PLAIN, NotRun, Raised, Subject
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
        dx, dy = g * y, g * x
        return dx[: len(x)], dy[: len(y)]  # wrong
        # right: return dx.sum_to_size(x.shape), dy.sum_to_size(y.shape)

def fn(x, y):
    return Product.apply(x, y)
""",
    "jax": """
import jax

def reduced(d, a):
    return d[: len(a), : a.shape[1]]  # wrong
    # right: return d.sum([i for i, n in enumerate(a.shape) if n < d.shape[i]], keepdims=True)

@jax.custom_vjp
def fn(x, y):
    return x * y

def bwd(saved, g):
    x, y = saved
    return reduced(g * y, x), reduced(g * x, y)

fn.defvjp(lambda x, y: (x * y, (x, y)), bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    if len(subject.wrt) < 2:
        raise NotRun("there is one argument to differentiate")
    if not subject.has_rule:
        raise NotRun(PLAIN)
    for place, i in enumerate(subject.wrt):
        x = subject.numbers[i]
        for axis in dict.fromkeys((0, x.ndim - 1)) if x.ndim else ():
            if x.shape[axis] < 2:
                continue
            numbers = list(subject.numbers)
            numbers[i] = np.take(x, [0], axis)
            small = subject.at(numbers)
            try:
                if [y.shape for y in small.outs] != [y.shape for y in subject.outs] or not small.has_truth:
                    continue
            except Raised:
                continue  # the forward does not broadcast it
            if found := _wrong(small, place):
                return found
    return None


def _wrong(small: Subject, place: int) -> Finding | None:
    name, shape = small.name(place), small.numbers[small.wrt[place]].shape
    try:
        wrong = small.wrong
    except Raised:
        small.notes.append(f"where {name} is broadcast the backward raises, and the forward does not")
        return None
    if wrong is None:
        return None
    return Finding(
        "broadcast-argument",
        f"the gradient of {wrong.name} is wrong where {name} of shape {shape} is broadcast",
        wrong.is_expected,
        wrong.is_got,
        "the forward broadcasts, so that nobody is warned",
        f"sum the gradient of {name} over the axes along which it was broadcast, or refuse to broadcast",
    )

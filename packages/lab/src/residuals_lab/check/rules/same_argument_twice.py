"""f(x, x) has another gradient than the sum of the two.

Where one array is given for two arguments, its gradient is the sum. A rule that asks whether they are the same object,
or that keeps something by the identity or the address of an array, gets that wrong.
"""

from itertools import combinations

import numpy as np

from residuals_lab.check.subject import NotRun, Raised, Subject
from residuals_lab.finding import Finding
from residuals_lab.frameworks.calls import Function

ARGUMENTS = ("f64[4,6]", "f64[4,6]")
EXAMPLES = {
    "torch": """
import torch

class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        ctx.same = x.data_ptr() == y.data_ptr()
        return x * y

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        return g * y, None if ctx.same else g * x  # wrong
        # right: return g * y, g * x

def fn(x, y):
    return Product.apply(x, y)
""",
    "jax": """
import jax

@jax.custom_vjp
def product(x, y, same):
    return x * y

def bwd(saved, g):
    x, y, same = saved
    return g * y, (1 - same) * g * x, 0.0  # wrong
    # right: return g * y, g * x, 0.0

product.defvjp(lambda x, y, same: (x * y, (x, y, same)), bwd)

def fn(x, y):
    return product(x, y, float(x is y))
""",
}


def find(subject: Subject) -> Finding | None:
    shapes = [subject.numbers[i].shape for i in subject.wrt]
    alike = [(a, b) for a, b in combinations(range(len(shapes)), 2) if shapes[a] == shapes[b]]
    if not alike:
        raise NotRun("no two arguments have the same shape")
    for a, b in alike[: 1 if subject.is_quick else 3]:
        i, j = subject.wrt[a], subject.wrt[b]
        numbers = list(subject.numbers)
        numbers[j] = numbers[i]
        apart = subject.at(numbers)
        try:
            one = apart.run(subject.gs).grads
        except Raised:
            continue
        expected = _sum(one[a], one[b])
        once = subject.with_fn(_given_twice(subject.fn, i, j))
        got = once.run(subject.gs, wrt=[i]).grads
        wrong = subject.first_apart(got, [expected], [subject.name(a)])
        if wrong is not None:
            one_name, two_name = subject.name(a), subject.name(b)
            return Finding(
                "same-argument-twice",
                f"with one array for {one_name} and {two_name}, its gradient is not the sum of the two",
                wrong.is_expected,
                wrong.is_got,
                "self-attention and tied weights give one array for two arguments",
                "do not ask whether two arguments are the same array, nor keep anything by an array's identity",
            )
    return None


def _given_twice(fn: Function, i: int, j: int) -> Function:
    """`fn` with its argument i for its argument j, too."""
    return lambda *arrays: fn(*arrays[:j], arrays[i], *arrays[j + 1 :])


def _sum(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    return b if a is None else a if b is None else a + b

"""The backward overwrites the cotangent that it is given.

PyTorch hands the same array to every branch that joined in the result. Where another branch gets it later, it gets what
this backward left: `f(x) + x` has a wrong gradient, `f(x)` alone a right one.

Write into a new array.
"""

from residuals_lab.check.subject import Subject, apart
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
        return g.mul_(x.cos())  # wrong
        # right: return g.mul(x.cos())

def fn(x):
    return Sine.apply(x)
""",
    "jax": "JAX's arrays cannot be written to.",
}


def find(subject: Subject) -> Finding | None:
    gs = subject.noise(subject.outs, 1)
    with subject.guarded():
        outs, pull = subject.calls.vjp(subject.fn, subject.fresh(), subject.wrt)
        given = subject.cotangents(outs, gs)
        before = [subject.calls.to_numpy(g) for g in given]
        pull(given)
        after = [subject.calls.to_numpy(g) for g in given]
    several = len(gs) > 1
    wrong = apart(after, before, [f"g{i}" if several else "g" for i in range(len(gs))], 0)
    if wrong is None:
        return None
    return Finding(
        "cotangent-overwritten",
        f"the backward overwrites the cotangent of output {wrong.name[1:]}"
        if several
        else "the backward overwrites its cotangent",
        f"{wrong.is_expected}, as before",
        wrong.is_got,
        "the framework hands the same array to other branches: the gradient of f(x) + x is wrong, without an error",
        "write into a new array: look for what ends in `_`, for `*=` and `out=` on the incoming gradient",
    )

"""A call leaves something in `.grad` of an argument.

Somewhere inside `backward()` is called, which adds to `.grad` of every leaf that it meets. The optimizer then takes a
step with a gradient that nobody computed for it.

Use `torch.autograd.grad(y, x, g)`, which returns gradients and writes none.
"""

from typing import Any

from residuals_lab.check.subject import Subject
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch
from torch.autograd.function import once_differentiable

class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            y = x.sin()
            y.backward(g); return x.grad  # wrong
            # right: return torch.autograd.grad(y, x, g)[0]

def fn(x):
    return Sine.apply(x)
""",
    "jax": "JAX's arrays have no attribute for a gradient.",
}


def find(subject: Subject) -> Finding | None:
    seen: list[Any] = []

    def watched(*arrays: Any) -> Any:
        seen[:] = arrays
        return subject.fn(*arrays)

    subject.with_fn(watched).run(subject.noise(subject.outs, 1))
    given = zip(subject.inputs, seen, strict=True)
    written = [a.name for a, array in given if getattr(array, "grad", None) is not None]
    if not written:
        return None
    return Finding(
        "writes-grad",
        f"a call writes into {written[0]}.grad",
        f"{written[0]}.grad as it was, None",
        "an array in it",
        ".grad belongs to the caller, whose optimizer steps by it; every call adds to it",
        "take gradients with torch.autograd.grad(y, x, g) instead of y.backward(g)",
    )

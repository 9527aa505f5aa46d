"""A rule returns a gradient of another shape than its argument has.

An argument was broadcast in the forward, and the backward does not sum over the axes along which it was. PyTorch's
engine sums silently where the shapes allow it, so that no test of numbers sees it, and the memory and the time of the
larger gradient are paid; `torch.func` and a compiler need not be so kind. JAX raises.

Sum the gradient to the argument's shape: `d.sum_to_size(weight.shape)`.
"""

from residuals_lab.check.subject import Subject
from residuals_lab.finding import Finding

ARGUMENTS = ("f64[4,6]", "f64[6]")
EXAMPLES = {
    "torch": """
import torch

class Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, bias):
        return x + bias

    @staticmethod
    def backward(ctx, g):
        return g, g  # wrong
        # right: return g, g.sum(0)

def fn(x, bias):
    return Add.apply(x, bias)
""",
    "jax": "JAX refuses such a gradient, which the rule gradient-raises then reports.",
}


def find(subject: Subject) -> Finding | None:
    for d in subject.returned:
        if d.shape != d.expected_shape:
            return Finding(
                "gradient-shape",
                f"the backward of {d.rule} returns a gradient of another shape than its argument {d.position} has",
                f"shape {d.expected_shape}",
                f"shape {d.shape}, which PyTorch sums silently",
                "the larger gradient costs memory and time, and nothing promises that it is summed elsewhere",
                f"sum over the axes along which the argument was broadcast: d.sum_to_size({d.expected_shape})",
            )
    return None

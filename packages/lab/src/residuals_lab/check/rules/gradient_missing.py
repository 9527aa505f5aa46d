"""An argument gets no gradient, though the result depends on it.

The backward returns None for it, or zeros; in JAX a None is a zero without a word. The argument is then never trained.
Often a fused operation was written for a model whose weights are frozen, and is used in one whose weights are not.

Return its gradient; an argument that is not to be trained is frozen by whoever calls the function.
"""

from residuals_lab.check.subject import Subject
from residuals_lab.finding import Finding

ARGUMENTS = ("f64[4,6]", "f64[6]")
EXAMPLES = {
    "torch": """
import torch

class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        return g * weight, None  # wrong
        # right: return (g * weight).sum_to_size(x.shape), (g * x).sum_to_size(weight.shape)

def fn(x, weight):
    return Scale.apply(x, weight)
""",
    "jax": """
import jax

@jax.custom_vjp
def fn(x, weight):
    return x * weight

def bwd(saved, g):
    x, weight = saved
    return g * weight, None  # wrong
    # right: return g * weight, (g * x).sum(0)

fn.defvjp(lambda x, weight: (x * weight, (x, weight)), bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    if subject.wrong is None:
        return None
    for place, got, true in subject.along(subject.base.grads, subject.gs):
        d = subject.base.grads[place]
        if (d is None or not d.any()) and abs(got - true.value) > true.allowed:
            name = subject.name(place)
            wrong = subject.number(place, subject.base.grads, subject.gs)
            return Finding(
                "gradient-missing",
                f"{name} gets no gradient, but the output depends on it",
                wrong.is_expected if wrong else f"a gradient of {name} that is not zero",
                "None" if d is None else "zeros",
                f"{name} is never trained, without an error",
                f"return the gradient of {name}; if it is never to be trained, freeze it where the function is called",
            )
    return None

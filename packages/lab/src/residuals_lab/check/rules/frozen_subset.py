"""A gradient changes where another argument is frozen.

A rule that looks at `ctx.needs_input_grad` to leave out work looks at the wrong place of it, saves under one condition
and reads under another, or computes one gradient from another that is not made now. With all arguments trained it is
right; fine-tuning some of them is not.
"""

from residuals_lab.check.subject import NotRun, Raised, Subject
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
        dx = g * weight if ctx.needs_input_grad[1] else None  # wrong
        # right: dx = g * weight if ctx.needs_input_grad[0] else None
        return dx, (g * x).sum(0)

def fn(x, weight):
    return Scale.apply(x, weight)
""",
    "jax": """
import jax
import jax.numpy as jnp

@jax.custom_vjp
def fn(x, weight):
    return x * weight

def fwd(x, weight):
    return x.value * weight.value, (x.value, weight.value, weight.perturbed)

def bwd(saved, g):
    x, weight, is_trained = saved
    dx = g * weight if is_trained else jnp.zeros_like(x)  # wrong
    # right: dx = g * weight
    return dx, (g * x).sum(0)

fn.defvjp(fwd, bwd, symbolic_zeros=True)
""",
}


def find(subject: Subject) -> Finding | None:
    places = range(len(subject.wrt))
    if len(subject.wrt) < 2:
        raise NotRun("there is one argument to differentiate")
    subsets = [[p] for p in places] + ([[p for p in places if p != left] for left in places] if len(places) > 2 else [])
    for subset in subsets[: 4 if subject.is_quick else 16]:
        expected = [subject.base.grads[p] for p in subset]
        names = [subject.name(p) for p in subset]
        try:
            wrong, got = (
                subject.first_apart(subject.run(wrt=[subject.wrt[p] for p in subset]).grads, expected, names),
                "",
            )
        except Raised as problem:
            wrong, got = None, str(problem)
        if wrong or got:
            others = ", ".join(subject.name(p) for p in places if p not in subset)
            return Finding(
                "frozen-subset",
                f"the gradient of {', '.join(names)} "
                + ("raises" if got else "changes")
                + f" where {others} is frozen",
                wrong.is_expected if wrong else "the gradient that there is when all are trained",
                got or (wrong.is_got if wrong else ""),
                "whoever trains some of the arguments, as in fine-tuning, trains them wrongly",
                "let each gradient depend on its own place of ctx.needs_input_grad, and save what that gradient needs",
            )
    return None

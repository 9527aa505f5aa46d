"""Under autocast the backward raises, or is far off.

PyTorch's autocast casts what a matrix product takes in the forward; the backward runs outside of it. A rule that saves
what it was given, before the cast, and multiplies it with a gradient in the other dtype, raises there.

Cast explicitly in the rule, or decorate it with `torch.amp.custom_fwd` and `custom_bwd`.
"""

from residuals_lab.check.subject import NotRun, Raised, Subject
from residuals_lab.finding import Finding

ARGUMENTS = ("f32[4,6]", "f32[6,5]")
EXAMPLES = {
    "torch": """
import torch

class Matmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        return g @ weight.T, x.T @ g  # wrong
        # right: return g.to(x.dtype) @ weight.T, x.T @ g.to(x.dtype)

def fn(x, weight):
    return Matmul.apply(x, weight)
""",
    "jax": "JAX has no autocast.",
}


def find(subject: Subject) -> Finding | None:
    wrap = subject.calls.under_autocast
    if wrap is None:
        raise NotRun("the framework has no autocast")
    if subject.is_random:
        raise NotRun("the function draws random numbers")
    if not any(subject.adapter.dtype_of(subject.inputs[i].array) == "float32" for i in subject.wrt):
        raise NotRun("no argument is of float32, which autocast casts")
    single = subject.at(subject.numbers, "float32")
    cast = single.with_fn(wrap(subject.fn))
    try:
        expected = single.run(subject.gs).grads
        cast.values()
    except Raised:
        raise NotRun("the forward does not run in float32, or under autocast") from None
    try:
        got = cast.run(subject.gs).grads
    except Raised as problem:
        return Finding(
            "autocast",
            "under autocast the backward raises, and the forward does not",
            "a gradient in the dtype of each argument",
            str(problem),
            "most training in PyTorch runs under autocast",
            "cast g and what was saved to one dtype in the backward, or use torch.amp.custom_fwd and custom_bwd",
        )
    for place, (d, e) in enumerate(zip(got, expected, strict=True)):
        if (d is None) != (e is None):
            return Finding(
                "autocast",
                f"under autocast the gradient of {subject.name(place)} " + ("is None" if d is None else "appears"),
                "a gradient as without autocast",
                "None" if d is None else "a gradient",
                "most training in PyTorch runs under autocast",
                "let the rule not depend on the mode",
            )
    return None

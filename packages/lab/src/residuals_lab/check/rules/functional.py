"""`torch.func` gives another gradient than `torch.autograd`.

Under `torch.func.grad` or `vjp` a rule runs through `setup_context`, with wrapped tensors. One that reads `.data`,
keeps something on the class, or returns what it should not, gives another gradient there. An old-style
`forward(ctx, ...)` refuses, which is worth knowing and no fault.
"""

from residuals_lab.check.subject import NotRun, Raised, Subject
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch

class Sine(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.is_functional = torch._C._functorch.peek_interpreter_stack() is not None  # wrong
        # right: ctx.is_functional = False

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return (2 if ctx.is_functional else 1) * g * x.cos()

def fn(x):
    return Sine.apply(x)
""",
    "jax": "In JAX every gradient is by a function transformation.",
}


def find(subject: Subject) -> Finding | None:
    if not subject.calls.FUNCTIONAL:
        raise NotRun("the framework has one way to a gradient")
    if subject.is_random:
        raise NotRun("the function draws random numbers")
    try:
        ran = subject.functional()
    except Raised as problem:
        subject.refused("torch.func", problem)
        return None
    wrong = subject.first_apart(ran.grads, subject.base.grads)
    if wrong is None:
        return None
    return Finding(
        "functional",
        f"under torch.func the gradient of {wrong.name} is another one",
        f"{wrong.is_expected}, as by torch.autograd.grad",
        wrong.is_got,
        "per-sample gradients and Jacobians go through torch.func",
        "look for .data, state of a class, and tensors on ctx that save_for_backward does not know",
    )

"""A tensor is kept as an attribute of `ctx`, or in a closure.

`ctx.y = y` keeps a tensor where PyTorch does not see it: hooks cannot offload it, nothing notices when it is
overwritten, an output there makes a cycle that is freed late or never, and no tool counts its bytes.

Save it: `ctx.save_for_backward(y)`.
"""

from residuals_lab.check.subject import Subject
from residuals_lab.finding import Finding
from residuals_lab.show import size
from residuals_lab.trace import Residual

EXAMPLES = {
    "torch": """
import torch

class Exp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.x = x  # wrong
        # right: ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx, g):
        x = ctx.x if hasattr(ctx, "x") else ctx.saved_tensors[0]
        return g * x.exp()

def fn(x):
    return Exp.apply(x)
""",
    "jax": "In JAX what a backward reads is a leaf of `jax.vjp`'s result, or a constant of the program.",
}


def find(subject: Subject) -> Finding | None:
    if not subject.calls.CONSTANT_RESIDUALS:
        return None
    hidden = [r for r in subject.audited.residuals if r.kind == "hidden" and r.value.shape and not _is_state(r)]
    if not hidden:
        return None
    names = ", ".join(dict.fromkeys(r.name for r in hidden))
    return Finding(
        "tensor-on-ctx",
        f"{names} {'is' if len(hidden) == 1 else 'are'} kept on ctx, or in a closure, and not saved",
        "tensors in ctx.save_for_backward, and nowhere else",
        f"{names}, {size(sum(r.storage_bytes for r in hidden))}, where no hook sees "
        f"{'it' if len(hidden) == 1 else 'them'}" + (f"; made at {hidden[0].line}" if hidden[0].line else ""),
        "it cannot be offloaded, nobody notices when it is overwritten, and an output there is a cycle",
        f"save it with the others, ctx.save_for_backward({names}), and read ctx.saved_tensors",
    )


def _is_state(r: Residual) -> bool:
    """Whether this is a generator's state, bytes that no operation made: `torch.utils.checkpoint` has it on ctx too."""
    return not r.op and r.value.dtype == "uint8"

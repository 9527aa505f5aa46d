"""What the rule keeps is not freed when its result is.

An output on `ctx` refers to its own node, which refers to `ctx`: a cycle. Its memory is freed when Python's collector
comes by, which knows nothing of bytes on a device, and may be never.

Save an output with `ctx.save_for_backward`, which knows about that.
"""

from residuals_lab.check.subject import Subject
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch

class Triple(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.me = [ctx]  # wrong
        # right: ctx.me = []
        return 3 * x

    @staticmethod
    def backward(ctx, g):
        return 3 * g

def fn(x):
    return Triple.apply(x)
""",
    "jax": "JAX keeps residuals in a result of `jax.vjp`, which refers to no array's maker.",
}


def find(subject: Subject) -> Finding | None:
    with subject.guarded():
        leaks = subject.calls.leaks(subject.fn, subject.fresh(), subject.wrt)
    if not leaks:
        return None
    return Finding(
        "leaked-by-cycle",
        "what the rule keeps is not freed when its result is",
        "a node that is gone with the last result",
        f"the node of {leaks} is alive, in a cycle of references",
        "memory of one step is still there in the next ones, until Python's collector comes by",
        "take the output, or ctx itself, off ctx; save an output with ctx.save_for_backward",
    )

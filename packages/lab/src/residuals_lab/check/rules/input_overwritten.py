"""An argument is overwritten, by the forward or by the backward.

A kernel that works in place saves an array and spoils the caller's. Nobody notices where the argument is not used
again; after a residual connection, where it is, the result is wrong, and the gradient too, as the backward of the
operation before reads what it saved.

Write into a new array. In PyTorch a forward that means to work in place says so with `ctx.mark_dirty(x)` and returns x.
"""

from residuals_lab.check.subject import Subject, apart
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch
from torch.autograd.function import once_differentiable

class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.cos())
        return x.data.sin_() * 1  # wrong
        # right: return x.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (cos,) = ctx.saved_tensors
        return g * cos

def fn(x):
    return Sine.apply(x)
""",
    "jax": "JAX's arrays cannot be written to.",
}


def find(subject: Subject) -> Finding | None:
    arrays = subject.fresh()
    with subject.guarded():
        outs, pull = subject.calls.vjp(subject.fn, arrays, subject.wrt)
        after_forward = [subject.calls.to_numpy(a) for a in arrays]
        values = [subject.calls.to_numpy(y) for y in outs]
        pull(subject.cotangents(outs, subject.noise(values, 1)))
        after_backward = [subject.calls.to_numpy(a) for a in arrays]
    for phase, after in (("forward", after_forward), ("backward", after_backward)):
        wrong = apart(after, subject.numbers, [a.name for a in subject.inputs], 0)
        if wrong is None:
            continue
        if phase == "forward" and any(subject.calls.share_memory(y, a) for y in outs for a in arrays):
            subject.notes.append(f"the forward works in place: it writes its result into {wrong.name}")
            return None
        return Finding(
            "input-overwritten",
            f"the {phase} overwrites {wrong.name}",
            f"{wrong.is_expected}, as before",
            wrong.is_got,
            "whoever uses the argument again, or saved it for a backward, reads other numbers, mostly without an error",
            "write into a new array: look for what ends in `_`, `+=`, `out=`, `.data` and kernels that work in place",
        )
    return None

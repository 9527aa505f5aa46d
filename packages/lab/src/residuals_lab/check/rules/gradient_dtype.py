"""A gradient has another dtype than its argument.

The backward of a bfloat16 function computes in float32, as it should, and does not cast back. JAX hands that on without
a word, with twice the bytes for every gradient, until a scan refuses it; PyTorch's engine casts silently.

Cast each gradient to the dtype of its argument: `d.astype(x.dtype)`, `d.to(x.dtype)`.
"""

from residuals_lab.check.subject import Raised, Subject
from residuals_lab.finding import Finding

ARGUMENTS = ("bf16[4,6]",)
EXAMPLES = {
    "torch": """
import torch

class Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        y = ctx.saved_tensors[0].float()
        return g.float() * (1 - y * y)  # wrong
        # right: return (g.float() * (1 - y * y)).to(g.dtype)

def fn(x):
    return Tanh.apply(x)
""",
    "jax": """
import jax
import jax.numpy as jnp

@jax.custom_vjp
def fn(x):
    return jnp.tanh(x)

def bwd(x, g):
    y = jnp.tanh(x.astype(jnp.float32))
    return (g.astype(jnp.float32) * (1 - y * y),)  # wrong
    # right: return ((g.astype(jnp.float32) * (1 - y * y)).astype(x.dtype),)

fn.defvjp(lambda x: (fn(x), x), bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    own = subject.adapter.dtype_of(subject.inputs[subject.wrt[0]].array)
    tried = dict.fromkeys(("bfloat16", "float32", own))
    for dtype in [d for d in tried if not d.startswith("complex")]:
        if found := _at(subject.at(subject.numbers, dtype)):
            return found
    return None


def _at(subject: Subject) -> Finding | None:
    """In one dtype, where the function takes it."""
    try:
        with subject.guarded():
            arrays = subject.fresh()
            found = subject.calls.gradient_dtypes(subject.fn, arrays, subject.wrt)
        returned = subject.returned
    except Raised:
        return None  # it does not take this dtype
    dtypes = [subject.adapter.dtype_of(arrays[i]) for i in subject.wrt]
    for place, (got, expected) in enumerate(zip(found, dtypes, strict=True)):
        if got not in (None, expected):
            name = subject.name(place)
            return _finding(f"the gradient of {name} is {got}, {name} is {expected}", expected, str(got))
    for d in returned:
        if d.dtype != d.expected_dtype:
            title = (
                f"the backward of {d.rule} returns {d.dtype} for its argument {d.position}, which is {d.expected_dtype}"
            )
            return _finding(title, d.expected_dtype, f"{d.dtype}, which PyTorch casts silently")
    return None


def _finding(title: str, expected: str, got: str) -> Finding:
    return Finding(
        "gradient-dtype",
        title,
        expected,
        got,
        "a wider gradient takes twice the bytes, and what carries it on, such as a scan, refuses it",
        "cast the gradient to the dtype of its argument before it is returned",
    )

"""The gradient is the conjugate of the right one.

For complex numbers the frameworks differ: PyTorch's cotangent is the conjugate of JAX's. The backward of y = f(z) is
`g * f'(z).conj()` in PyTorch and `g * f'(z)` in JAX, so that a rule cannot be carried over word for word.
"""

import numpy as np

from residuals_lab.check.subject import Subject
from residuals_lab.finding import Finding

ARGUMENTS = ("example.py:z",)
EXAMPLES = {
    "torch": """
import torch

def z():
    return torch.complex(torch.arange(1.0, 6), torch.arange(5.0)).to(torch.complex128).div(5).requires_grad_()

class Exp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        y = z.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * y  # wrong
        # right: return g * y.conj()

def fn(z):
    return Exp.apply(z)
""",
    "jax": """
import jax
import jax.numpy as jnp

def z():
    return (jnp.arange(1.0, 6) + 1j * jnp.arange(5.0)) / 5

@jax.custom_vjp
def fn(z):
    return jnp.exp(z)

def bwd(y, g):
    return (g * y.conj(),)  # wrong
    # right: return (g * y,)

fn.defvjp(lambda z: (jnp.exp(z),) * 2, bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    if subject.wrong is None or not any(np.iscomplexobj(subject.numbers[i]) for i in subject.wrt):
        return None
    real = [g.real + 0 * g for g in subject.gs]  # the conjugate of g·y is that of y alone if g is real
    grads = subject.run(real).grads
    conjugate = [d if d is None else np.conj(d) for d in grads]
    if subject.first_wrong(grads, real) is None or subject.first_wrong(conjugate, real) is not None:
        return None
    return Finding(
        "gradient-conjugate",
        "the gradient is the conjugate of the right one",
        subject.wrong.is_expected,
        subject.wrong.is_got,
        "by PyTorch's convention the backward of y = f(z) is g·conj(f′(z)), by JAX's it is g·f′(z)",
        "conjugate the derivative: g * y.conj() in PyTorch"
        if subject.calls.CONJUGATES
        else "multiply by the derivative as it is, without conj",
    )

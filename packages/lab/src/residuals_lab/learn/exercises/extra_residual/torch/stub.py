"""Exercise: a custom VJP with an extra residual.

f_with_sin(x) = Σ x·sin x has the gradient g·(sin x + x·cos x), where g is the cotangent: one number.
The forward has sin x already. Save it beside x, so that the backward takes no second sine.

1. `forward` returns the value and sin_x: what the forward computes and saves has to be an OUTPUT (--hint says why).
2. `setup_context` saves x and sin_x with `ctx.save_for_backward`.
3. `backward` gets one cotangent for each output, and returns the gradient of x.

Check it:    residuals learn extra_residual --framework torch --check
Get a hint:  residuals learn extra_residual --framework torch --hint
"""

from typing import Any

import torch
from torch import Tensor


class XSinX(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("return the value, and sin_x")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        raise NotImplementedError("save x and sin_x")

    @staticmethod
    def backward(ctx: Any, g: Tensor, g_sin_x: Tensor) -> Tensor:
        raise NotImplementedError("return the gradient of x")


def f_with_sin(x: Tensor) -> Tensor:
    y, _ = XSinX.apply(x)
    return y


def custom_vjp_with_extra_residual(x: Tensor) -> Tensor:
    """The gradient of f_with_sin at the 1-D tensor x: a tensor of its shape."""
    return torch.func.grad(f_with_sin)(x)

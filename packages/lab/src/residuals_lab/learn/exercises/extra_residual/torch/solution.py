"""f_with_sin(x) = Σ x·sin x, whose backward reads sin x instead of computing it again."""

from typing import Any

import torch
from torch import Tensor


class XSinX(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        sin_x = torch.sin(x)
        return torch.sum(x * sin_x), sin_x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        (x,), (_, sin_x) = inputs, output
        ctx.save_for_backward(x, sin_x)

    @staticmethod
    def backward(ctx: Any, g: Tensor, g_sin_x: Tensor) -> Tensor:
        x, sin_x = ctx.saved_tensors
        cos_x = torch.cos(x)
        # sin_x is an output, so it has a cotangent: zeros here, but not when this backward is differentiated.
        return g * (sin_x + x * cos_x) + g_sin_x * cos_x


def f_with_sin(x: Tensor) -> Tensor:
    y, _ = XSinX.apply(x)
    return y


def custom_vjp_with_extra_residual(x: Tensor) -> Tensor:
    """The gradient of f_with_sin at the 1-D tensor x: a tensor of its shape."""
    return torch.func.grad(f_with_sin)(x)

"""Logistic sigmoid: y = 1/(1 + e⁻ˣ), and dx = g·y·(1 − y)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.blocks import in_blocks
from residuals_torch._lib.checks import floating, is_proxy
from residuals_torch._lib.cotangents import match
from residuals_torch._lib.dtypes import wide


class Residuals(NamedTuple):
    y: Tensor  # (...)  output: its own derivative is y·(1 − y), so x is not needed


RECOMPUTES: dict[str, str] = {}


def fwd(x: Tensor) -> tuple[Tensor, Residuals]:
    y = torch.sigmoid(x)
    return y, Residuals(y)


def bwd(residuals: Residuals, g: Tensor) -> tuple[Tensor]:
    y, g = wide(residuals.y), wide(g)
    # y·(1 − y) is y − y·y: one pass.
    return (match(g * torch.addcmul(y, y, y, value=-1), residuals.y),)


class Sigmoid(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return fwd(x)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], y: Tensor) -> None:
        ctx.save_for_backward(*Residuals(y))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Tensor | None:
        return None if g is None else in_blocks(lambda y, g: bwd(Residuals(y), g)[0], *ctx.saved_tensors, g)


def sigmoid(x: Tensor) -> Tensor:
    """y = 1/(1 + e⁻ˣ), with dx = g·y·(1 − y).

    Args:
        x: (...) floating, any shape.

    Returns:
        (...), of x's dtype.

    Saves:
        y: (...), the output, no bytes beside it.

    Raises:
        TypeError: x is not floating.

    Source:
        Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors" (1986).
    """
    if is_proxy(x):
        return handle_torch_function(sigmoid, (x,), x)
    return Sigmoid.apply(floating("x", x))

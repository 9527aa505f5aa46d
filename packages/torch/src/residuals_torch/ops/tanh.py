"""Hyperbolic tangent: y = tanh x, and dx = g·(1 − y²)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.blocks import in_blocks
from residuals_torch._lib.checks import floating, is_proxy
from residuals_torch._lib.cotangents import match
from residuals_torch._lib.dtypes import wide


class Residuals(NamedTuple):
    y: Tensor  # (...)  output: its own derivative is 1 − y², so x is not needed


RECOMPUTES: dict[str, str] = {}


def fwd(x: Tensor) -> tuple[Tensor, Residuals]:
    y = torch.tanh(x)
    return y, Residuals(y)


def bwd(residuals: Residuals, g: Tensor) -> tuple[Tensor]:
    y, g = wide(residuals.y), wide(g)
    # 1 − y·y in one pass.
    return (match(g * torch.addcmul(y.new_ones(()), y, y, value=-1), residuals.y),)


class Tanh(torch.autograd.Function):
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


def tanh(x: Tensor) -> Tensor:
    """y = tanh x, with dx = g·(1 − y²).

    Args:
        x: (...) floating, any shape.

    Returns:
        (...), of x's dtype.

    Saves:
        y: (...), the output, no bytes beside it.

    Raises:
        TypeError: x is not floating.

    Source:
        LeCun et al., "Efficient BackProp" (1998), section 4.4.
    """
    if is_proxy(x):
        return handle_torch_function(tanh, (x,), x)
    return Tanh.apply(floating("x", x))

"""Sigmoid linear unit: y = x·σ(x), and dx = g·(σ + x·σ·(1 − σ))."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.blocks import in_blocks
from residuals_torch._lib.checks import floating, is_proxy
from residuals_torch._lib.cotangents import match
from residuals_torch._lib.dtypes import to_dtype, wide


class Residuals(NamedTuple):
    x: Tensor  # (...)  input: rebuilds the sigmoid


RECOMPUTES = {"sigmoid": "one exponential an element, where an array of it would be as large as x"}


def fwd(x: Tensor) -> tuple[Tensor, Residuals]:
    a = wide(x)
    return to_dtype(a * torch.sigmoid(a), x.dtype), Residuals(x)


def bwd(residuals: Residuals, g: Tensor) -> tuple[Tensor]:
    x, g = wide(residuals.x), wide(g)
    s = torch.sigmoid(x)
    # σ + x·σ·(1 − σ) lies σ of the way from x·σ to 1: one pass.
    return (match(g * torch.lerp(x * s, s.new_ones(()), s), residuals.x),)


class SiLU(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return in_blocks(lambda x: fwd(x)[0], x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*Residuals(*inputs))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Tensor | None:
        return None if g is None else in_blocks(lambda x, g: bwd(Residuals(x), g)[0], *ctx.saved_tensors, g)


def silu(x: Tensor) -> Tensor:
    """y = x·σ(x) with σ(x) = 1/(1 + e⁻ˣ), and dx = g·(σ + x·σ·(1 − σ)).

    Args:
        x: (...) floating, any shape.

    Returns:
        (...), of x's dtype; computed in float32 if that is narrower.

    Saves:
        x: (...), an input, no new bytes. The backward computes σ(x) again.

    Raises:
        TypeError: x is not floating.

    Source:
        Elfwing, Uchibe & Doya, "Sigmoid-Weighted Linear Units" (2017), equations 5 and 6.
    """
    if is_proxy(x):
        return handle_torch_function(silu, (x,), x)
    return SiLU.apply(floating("x", x))

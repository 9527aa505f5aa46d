"""Gaussian error linear unit: y = x·Φ(x), and dx = g·(Φ + x·Φ′); Φ is exact, or a tanh approximates it."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.blocks import in_blocks
from residuals_torch._lib.checks import floating, is_proxy
from residuals_torch._lib.cotangents import match
from residuals_torch._lib.dtypes import to_dtype, wide
from residuals_torch._lib.gelu import cdf, form, slope


class Residuals(NamedTuple):
    x: Tensor  # (...)  input: rebuilds Φ and gives Φ′


# One of the two, which depends on the form.
RECOMPUTES = {
    "erfc": "in the exact form: a polynomial an element, where an array of it would be as large as x",
    "tanh": "in the tanh form: one exponential an element, where an array of it would be as large as x",
}


def fwd(x: Tensor, approximate: str) -> tuple[Tensor, Residuals]:
    a = wide(x)
    return to_dtype(a * cdf(a, approximate), x.dtype), Residuals(x)


def bwd(approximate: str, residuals: Residuals, g: Tensor) -> tuple[Tensor]:
    x, g = wide(residuals.x), wide(g)
    phi = cdf(x, approximate)
    return (match(g * torch.addcmul(phi, x, slope(x, phi, approximate)), residuals.x),)


class GELU(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, approximate: str) -> Tensor:
        return in_blocks(lambda x: fwd(x, approximate)[0], x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
        x, ctx.approximate = inputs
        ctx.save_for_backward(*Residuals(x))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, None]:
        if g is None:
            return None, None
        return in_blocks(lambda x, g: bwd(ctx.approximate, Residuals(x), g)[0], *ctx.saved_tensors, g), None


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """y = x·Φ(x), with dx = g·(Φ + x·Φ′) and Φ the normal distribution function.

    The two forms differ by up to 0.0005 in y. The default is the exact one, as in PyTorch; that of `jax.nn.gelu` is the
    tanh form.

    Args:
        x: (...) floating, any shape.
        approximate: "none", or "tanh" for Φ(x) ≈ ½·(1 + tanh(√(2/π)·(x + 0.044715·x³))); forward and backward
            are of the same form.

    Returns:
        (...), of x's dtype; computed in float32 if that is narrower.

    Saves:
        x: (...), an input, no new bytes. The backward computes the erfc or tanh again.

    Raises:
        TypeError: x is not floating.
        ValueError: approximate is neither "none" nor "tanh".

    Source:
        Hendrycks & Gimpel, "Gaussian Error Linear Units" (2016), section 2.
    """
    if is_proxy(x):
        return handle_torch_function(gelu, (x,), x, approximate=approximate)
    x, approximate = floating("x", x), form("approximate", approximate)
    return GELU.apply(x, approximate)

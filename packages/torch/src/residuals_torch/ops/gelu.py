"""Gaussian error linear unit: y = x·Φ(x), and dx = g·(Φ + x·Φ′); Φ is exact, or a tanh approximates it."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.blocks import in_blocks
from residuals_torch._lib.checks import floating, is_proxy
from residuals_torch._lib.cotangents import match
from residuals_torch._lib.dtypes import to_dtype, wide


class Residuals(NamedTuple):
    x: Tensor  # (...)  input: rebuilds Φ and gives Φ′


# One of the two, which depends on the form.
RECOMPUTES = {
    "erfc": "in the exact form: a polynomial an element, where an array of it would be as large as x",
    "tanh": "in the tanh form: one exponential an element, where an array of it would be as large as x",
}

FORMS = ("none", "tanh")
C = math.sqrt(2 / math.pi)
CUBIC = 0.044715


def _cdf(x: Tensor, approximate: str) -> Tensor:
    """Φ(x)."""
    if approximate == "tanh":
        return 0.5 * (1 + torch.tanh(x * _polynomial(x, C, C * CUBIC)))
    return 0.5 * torch.erfc(x * -math.sqrt(0.5))  # 1 + erf cancels where x is far to the left


def _slope(x: Tensor, phi: Tensor, approximate: str) -> Tensor:
    """Φ′(x), given Φ(x): the normal density, or in the tanh form 2·Φ·(1 − Φ)·u′ with u the argument of the tanh."""
    if approximate == "tanh":
        return torch.addcmul(phi, phi, phi, value=-1) * _polynomial(x, 2 * C, 6 * C * CUBIC)
    return torch.exp(_polynomial(x, math.log(C / 2), -0.5))  # the density's factor as a summand: one pass less


def _polynomial(x: Tensor, a: float, b: float) -> Tensor:
    """a + b·x², in one pass."""
    return torch.addcmul(x.new_full((), a), x, x, value=b)


def fwd(x: Tensor, approximate: str) -> tuple[Tensor, Residuals]:
    a = wide(x)
    return to_dtype(a * _cdf(a, approximate), x.dtype), Residuals(x)


def bwd(approximate: str, residuals: Residuals, g: Tensor) -> tuple[Tensor]:
    x, g = wide(residuals.x), wide(g)
    phi = _cdf(x, approximate)
    return (match(g * torch.addcmul(phi, x, _slope(x, phi, approximate)), residuals.x),)


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
    x = floating("x", x)
    if approximate not in FORMS:
        raise ValueError(f'approximate: expected "none" or "tanh", got {approximate!r}')
    return GELU.apply(x, approximate)

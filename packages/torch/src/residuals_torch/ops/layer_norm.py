"""Layer normalization over the last axis: y = x̂·weight + bias, x̂ = (x − mean)·rstd, rstd = 1/√(var + eps)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from residuals_torch._lib.checks import Number, floating, number, static
from residuals_torch._lib.cotangents import Like, Likes, add, as_primal, likes, match, wanted
from residuals_torch._lib.dtypes import to_dtype, wide
from residuals_torch._lib.modes import batched_alike
from residuals_torch._lib.norms import by_pieces, minus, plus, times


class Residuals(NamedTuple):  # all None where only the bias needs a gradient, which depends on no residual
    x: Tensor  # (..., d)  input: rebuilds x̂ = (x − mean)·rstd
    weight: Tensor | None  # (d,)  input: scales the cotangent; None also if x is frozen
    mean: Tensor  # (..., 1)  new, float32 or wider: saved so that the backward reduces no x again
    rstd: Tensor  # (..., 1)  new, float32 or wider: saved so that the backward reduces no (x − mean)² again


RECOMPUTES: dict[str, str] = {}

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def _cuts(x: Tensor) -> dict[int, int]:
    """Each row is normalized by itself."""
    return dict(enumerate(x.shape[:-1]))


def fwd(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: Number) -> tuple[Tensor, Residuals]:
    def normalized(plain: bool, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: Number) -> Any:
        dtype, x = x.dtype, wide(x)
        mean = torch.mean(x, dim=-1, keepdim=True)
        y = x - mean  # before it is squared: E[x²] − mean² is all rounding for a large mean
        rstd = torch.rsqrt(torch.mean(torch.square(y), dim=-1, keepdim=True) + eps)
        y = times(y, rstd, plain)
        if weight is not None:
            y = times(y, wide(weight), plain)
        if bias is not None:
            y = plus(y, wide(bias), plain)
        return (to_dtype(y, dtype), mean, rstd), ()

    (y, mean, rstd), _ = by_pieces(normalized, _cuts(x), (x,), (weight, bias, eps))
    return y, Residuals(x, weight, mean, rstd)


def bwd(eps: float, residuals: Residuals, g: Tensor, like: Likes | None = None) -> Gradients:
    # No gradient depends on the bias, so it is not saved; `like` says whether there is one, and what it looks like.
    like_x, like_weight, like_bias = like or likes(residuals.x, residuals.weight, Like(g.shape[-1:], g.dtype))

    def gradients(plain: bool, g: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None) -> Any:
        dx = dweight = dbias = None
        g = wide(g)
        if like_x is not None or like_weight is not None:
            x_hat = times(wide(x) - mean, rstd, plain)
            if like_weight is not None:
                dweight = (g * x_hat).sum_to_size(like_weight.shape)
            if like_x is not None:
                g_hat = g if weight is None else g * wide(weight)
                dx = torch.addcmul(g_hat, x_hat, torch.mean(g_hat * x_hat, dim=-1, keepdim=True), value=-1)
                # All of dx is centred, not g_hat alone: for a large mean x̂ has a mean too, which is rounding.
                dx = times(minus(dx, torch.mean(dx, dim=-1, keepdim=True), plain), rstd, plain)
                dx = to_dtype(dx, like_x.dtype)
        if like_bias is not None:
            dbias = g.sum_to_size(like_bias.shape)
        return (dx,), (dweight, dbias)

    x, weight, mean, rstd = residuals
    (dx,), (dweight, dbias) = by_pieces(gradients, _cuts(g), (g, x, mean, rstd), (weight,))
    return dx, as_primal(dweight, like_weight), as_primal(dbias, like_bias)


def bwd_residuals(residuals: Residuals, *, g_mean: Tensor | None, g_rstd: Tensor | None) -> Tensor:
    """What reaches x through the residuals: dmean/dx = 1/d and drstd/dx = -rstd³·(x − mean)/d."""
    x, _, mean, rstd = residuals
    dx = torch.zeros_like(rstd) if g_mean is None else g_mean
    if g_rstd is not None:
        dx = dx - g_rstd * rstd**3 * (wide(x) - mean)
    return match((dx / x.shape[-1]).expand(x.shape), x)


class LayerNorm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: Number) -> tuple[Tensor, Tensor, Tensor]:
        y, residuals = fwd(x, weight, bias, eps)
        return batched_alike(y, residuals.mean, residuals.rstd)

    @staticmethod
    def setup_context(
        ctx: Any,
        inputs: tuple[Tensor, Tensor | None, Tensor | None, Number],
        output: tuple[Tensor, Tensor, Tensor],
    ) -> None:
        (x, weight, bias, eps), (_, mean, rstd) = inputs, output
        ctx.eps = static(eps)
        need_x, need_weight, *_ = ctx.needs_input_grad
        saved = Residuals(x, weight if need_x else None, mean, rstd)
        ctx.save_for_backward(*(saved if need_x or need_weight else [None] * 4))
        ctx.like = likes(x, weight, bias)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, g: Tensor | None, g_mean: Tensor | None, g_rstd: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        residuals = Residuals(*ctx.saved_tensors)
        dx, dweight, dbias = (None, None, None) if g is None else bwd(ctx.eps, residuals, g, wanted(ctx))
        if ctx.needs_input_grad[0] and not (g_mean is None and g_rstd is None):  # second order only: both are outputs
            dx = add(dx, bwd_residuals(residuals, g_mean=g_mean, g_rstd=g_rstd))
        return dx, dweight, dbias, None


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: Number = 1e-5) -> Tensor:
    """y = (x − mean)·rstd·weight + bias with rstd = 1/√(var + eps), over the last axis.

    Args:
        x: (..., d) floating.
        weight: (d,) floating, or None for 1.
        bias: (d,) floating, or None for 0.
        eps: added to the variance; a number, which may be a tensor: a constant to the derivative.

    Returns:
        (..., d), of x's dtype; computed in float32 if that is narrower.

    Saves:
        x: (..., d), an input, no new bytes; not saved if x and weight need no gradient.
        weight: (d,), an input, no new bytes; not saved if x needs no gradient. The bias is not saved: no gradient
            depends on it.
        mean: (..., 1), new, 4 bytes a row (8 in float64): without it the backward would reduce x again.
        rstd: (..., 1), new, 4 bytes a row (8 in float64): without it the backward would reduce (x − mean)² again.

    Raises:
        TypeError: x, weight or bias is not floating, or eps is not a number.
        ValueError: x has no axis, weight or bias is not (d,), or eps is negative.

    Source:
        Ba, Kiros & Hinton, "Layer Normalization" (2016), equation 4.
    """
    x = floating("x", x)
    if x.ndim == 0:
        raise ValueError("x: expected at least 1 axis, got a scalar")
    weight = None if weight is None else floating("weight", weight)
    bias = None if bias is None else floating("bias", bias)
    for name, a in (("weight", weight), ("bias", bias)):
        if a is not None and a.shape != x.shape[-1:]:
            raise ValueError(f"{name}: expected shape [{x.shape[-1]}], as the last axis of x, got {list(a.shape)}")
    y, _, _ = LayerNorm.apply(x, weight, bias, number("eps", eps))
    return y

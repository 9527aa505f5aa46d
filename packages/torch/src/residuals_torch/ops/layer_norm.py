"""Layer normalization over one axis or several: y = x̂·weight + bias, x̂ = (x − mean)·rstd, rstd = 1/√(var + eps)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.checks import Number, floating, is_proxy, number, static
from residuals_torch._lib.cotangents import Like, Likes, add, as_primal, likes, match, wanted
from residuals_torch._lib.dtypes import to_dtype, wide
from residuals_torch._lib.modes import batched_alike
from residuals_torch._lib.norms import (
    by_pieces,
    checked_axes,
    lifted,
    minus,
    normalized_axes,
    numbers_of,
    pieces_beside,
    plus,
    sum_to,
    times,
)


class Residuals(NamedTuple):  # all None where only the bias needs a gradient, which depends on no residual
    x: Tensor  # (..., d)  input: rebuilds x̂ = (x − mean)·rstd
    weight: Tensor | None  # (d,)  input: scales the cotangent; None also if x is frozen
    mean: Tensor  # (..., 1)  new, float32 or wider: saved so that the backward reduces no x again
    rstd: Tensor  # (..., 1)  new, float32 or wider: saved so that the backward reduces no (x − mean)² again


RECOMPUTES: dict[str, str] = {}

Axes = tuple[int, ...]  # those that are normalized, as the public function finds them
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def fwd(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, axis: int | Axes, eps: Number
) -> tuple[Tensor, Residuals]:
    axes = normalized_axes(x.ndim, axis, weight, bias)

    def normalized(plain: bool, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: Number) -> Any:
        dtype, x = x.dtype, wide(x)
        mean = torch.mean(x, dim=axes, keepdim=True)
        y = x - mean  # before it is squared: E[x²] − mean² is all rounding for a large mean
        rstd = torch.rsqrt(torch.mean(torch.square(y), dim=axes, keepdim=True) + eps)
        y = times(y, rstd, plain)
        if weight is not None:
            y = times(y, lifted(wide(weight), axes, x.ndim), plain)
        if bias is not None:
            y = plus(y, lifted(wide(bias), axes, x.ndim), plain)
        return (to_dtype(y, dtype), mean, rstd), ()

    (y, mean, rstd), _ = by_pieces(normalized, pieces_beside(axes, x), (x,), (weight, bias, eps))
    return y, Residuals(x, weight, mean, rstd)


def bwd(axis: int | Axes, eps: float, residuals: Residuals, g: Tensor, like: Likes | None = None) -> Gradients:
    axes = normalized_axes(g.ndim, axis, residuals.weight, *(like or ())[1:])
    # No gradient depends on the bias, so it is not saved; `like` says whether there is one, and what it looks like.
    like_x, like_weight, like_bias = like or likes(
        residuals.x, residuals.weight, Like(torch.Size([g.shape[i] for i in axes]), g.dtype)
    )

    def gradients(plain: bool, g: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None) -> Any:
        dx = dweight = dbias = None
        g = wide(g)
        if like_x is not None or like_weight is not None:
            x_hat = times(wide(x) - mean, rstd, plain)
            if like_weight is not None:
                dweight = sum_to(g * x_hat, axes)
            if like_x is not None:
                g_hat = g if weight is None else g * lifted(wide(weight), axes, g.ndim)
                dx = torch.addcmul(g_hat, x_hat, torch.mean(g_hat * x_hat, dim=axes, keepdim=True), value=-1)
                # All of dx is centred, not g_hat alone: for a large mean x̂ has a mean too, which is rounding.
                dx = times(minus(dx, torch.mean(dx, dim=axes, keepdim=True), plain), rstd, plain)
                dx = to_dtype(dx, like_x.dtype)
        if like_bias is not None:
            dbias = sum_to(g, axes)
        return (dx,), (dweight, dbias)

    x, weight, mean, rstd = residuals
    (dx,), (dweight, dbias) = by_pieces(gradients, pieces_beside(axes, g), (g, x, mean, rstd), (weight,))
    return dx, as_primal(dweight, like_weight), as_primal(dbias, like_bias)


def bwd_residuals(residuals: Residuals, *, g_mean: Tensor | None, g_rstd: Tensor | None) -> Tensor:
    """What reaches x through the residuals: of d numbers dmean/dx = 1/d and drstd/dx = -rstd³·(x − mean)/d."""
    x, _, mean, rstd = residuals
    d = numbers_of(rstd, x)
    dx = torch.zeros_like(rstd) if g_mean is None else g_mean
    if g_rstd is not None:
        dx = dx - g_rstd * rstd**3 * (wide(x) - mean)
    return match((dx / d).expand(x.shape), x)


class LayerNorm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, axes: Axes, eps: Number
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, residuals = fwd(x, weight, bias, axes, eps)
        return batched_alike(y, residuals.mean, residuals.rstd)

    @staticmethod
    def setup_context(
        ctx: Any,
        inputs: tuple[Tensor, Tensor | None, Tensor | None, Axes, Number],
        output: tuple[Tensor, Tensor, Tensor],
    ) -> None:
        (x, weight, bias, ctx.axes, eps), (_, mean, rstd) = inputs, output
        ctx.eps = static(eps)
        need_x, need_weight, *_ = ctx.needs_input_grad
        saved = Residuals(x, weight if need_x else None, mean, rstd)
        ctx.save_for_backward(*(saved if need_x or need_weight else [None] * 4))
        ctx.like = likes(x, weight, bias)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, g: Tensor | None, g_mean: Tensor | None, g_rstd: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        residuals = Residuals(*ctx.saved_tensors)
        dx, dweight, dbias = (None, None, None) if g is None else bwd(ctx.axes, ctx.eps, residuals, g, wanted(ctx))
        if ctx.needs_input_grad[0] and not (g_mean is None and g_rstd is None):  # second order only: both are outputs
            dx = add(dx, bwd_residuals(residuals, g_mean=g_mean, g_rstd=g_rstd))
        return dx, dweight, dbias, None, None


def layer_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, axis: int = -1, eps: Number = 1e-5
) -> Tensor:
    """y = (x − mean)·rstd·weight + bias with rstd = 1/√(var + eps), over the last axis.

    Over several axes, the last ones, where the weight or the bias has as many; or over another one, `axis`.

    Args:
        x: (..., d) floating.
        weight: (d,) floating, or None for 1. With the shape of the last axes of x these are normalized together.
        bias: (d,) floating, or None for 0; of the weight's shape.
        axis: the axis that is normalized, d long; -1 where the weight or the bias has several axes. An int.
        eps: added to the variance; a number, which may be a tensor: a constant to the derivative.

    Returns:
        (..., d), of x's dtype; computed in float32 if that is narrower.

    Saves:
        x: (..., d), an input, no new bytes; not saved if x and weight need no gradient.
        weight: (d,), an input, no new bytes; not saved if x needs no gradient. The bias is not saved: no gradient
            depends on it.
        mean: (..., 1), new, 4 bytes a row (8 in float64): without it the backward would reduce x again. Of length 1
            are the axes that are normalized.
        rstd: (..., 1), new, 4 bytes a row (8 in float64): without it the backward would reduce (x − mean)² again.

    Raises:
        TypeError: x, weight or bias is not floating, axis is not an int, or eps is not a number.
        ValueError: x has no axis, or not this one; weight or bias is not (d,), or not of the last axes of x; eps is
            negative.

    Source:
        Ba, Kiros & Hinton, "Layer Normalization" (2016), equation 4.
    """
    if is_proxy(x, weight, bias, eps):
        return handle_torch_function(layer_norm, (x, weight, bias, eps), x, weight, bias, axis=axis, eps=eps)
    x = floating("x", x)
    weight = None if weight is None else floating("weight", weight)
    bias = None if bias is None else floating("bias", bias)
    axes = checked_axes(x, axis, weight=weight, bias=bias)
    y, _, _ = LayerNorm.apply(x, weight, bias, axes, number("eps", eps))
    return y

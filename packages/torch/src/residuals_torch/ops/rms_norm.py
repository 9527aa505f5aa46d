"""Root-mean-square normalization over one axis or several: y = x·rstd·weight, rstd = 1/√(mean(x²) + eps)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.checks import Number, floating, is_proxy, nonnegative, number, static
from residuals_torch._lib.cotangents import Likes, add, as_primal, likes, match, wanted
from residuals_torch._lib.dtypes import to_dtype, wide
from residuals_torch._lib.modes import batched_alike
from residuals_torch._lib.norms import (
    by_pieces,
    checked_axes,
    lifted,
    normalized_axes,
    numbers_of,
    pieces_beside,
    sum_to,
    times,
)


class Residuals(NamedTuple):
    x: Tensor  # (..., d)  input: rebuilds x̂ = x·rstd
    weight: Tensor | None  # (d,)  input: scales the cotangent; None also if x is frozen
    rstd: Tensor  # (..., 1)  new, float32 or wider: saved so that the backward reduces no x² again


RECOMPUTES: dict[str, str] = {}

Axes = tuple[int, ...]  # those that are normalized, as the public function finds them


def _epsilon(x: Tensor, eps: Number | None) -> Number:
    """`eps`, or for None the machine epsilon of the dtype that computes."""
    return float(torch.finfo(wide(x).dtype).eps) if eps is None else eps


def _scale(weight: Tensor, offset: float, axes: Axes, ndim: int) -> Tensor:
    """What x̂ is multiplied with, to be broadcast with x."""
    weight = lifted(wide(weight), axes, ndim)
    return offset + weight if offset else weight


def fwd(
    x: Tensor, weight: Tensor | None, axis: int | Axes, offset: float, eps: Number | None
) -> tuple[Tensor, Residuals]:
    axes = normalized_axes(x.ndim, axis, weight)

    def normalized(plain: bool, x: Tensor, weight: Tensor | None, eps: Number) -> Any:
        dtype, x = x.dtype, wide(x)
        rstd = torch.rsqrt(torch.mean(torch.square(x), dim=axes, keepdim=True) + eps)
        y = x * rstd
        if weight is not None:
            y = times(y, _scale(weight, offset, axes, x.ndim), plain)
        return (to_dtype(y, dtype), rstd), ()

    (y, rstd), _ = by_pieces(normalized, pieces_beside(axes, x), (x,), (weight, _epsilon(x, eps)))
    return y, Residuals(x, weight, rstd)


def bwd(
    axis: int | Axes, offset: float, eps: float, residuals: Residuals, g: Tensor, like: Likes | None = None
) -> tuple[Tensor | None, Tensor | None]:
    x, weight, rstd = residuals
    like_x, like_weight = like or likes(x, weight)
    axes = normalized_axes(g.ndim, axis, weight, like_weight)

    def gradients(plain: bool, g: Tensor, x: Tensor, rstd: Tensor, weight: Tensor | None) -> Any:
        dx = dweight = None
        g, x_hat = wide(g), wide(x) * rstd
        if like_x is not None:
            g_hat = g if weight is None else g * _scale(weight, offset, axes, g.ndim)
            dx = torch.addcmul(g_hat, x_hat, torch.mean(g_hat * x_hat, dim=axes, keepdim=True), value=-1)
            dx = to_dtype(times(dx, rstd, plain), like_x.dtype)
        if like_weight is not None:
            dweight = sum_to(g * x_hat, axes)
        return (dx,), (dweight,)

    (dx,), (dweight,) = by_pieces(gradients, pieces_beside(axes, g), (g, x, rstd), (weight,))
    return dx, as_primal(dweight, like_weight)


def bwd_residuals(residuals: Residuals, *, g_rstd: Tensor) -> Tensor:
    """What reaches x through the residual rstd: of d numbers drstd/dx = -rstd³·x/d."""
    x, _, rstd = residuals
    d = numbers_of(rstd, x)
    return match(-g_rstd * rstd**3 * wide(x) / d, x)


class RMSNorm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor | None, axes: Axes, offset: float, eps: Number) -> tuple[Tensor, Tensor]:
        y, residuals = fwd(x, weight, axes, offset, eps)
        return batched_alike(y, residuals.rstd)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor | None, Axes, float, Number], output: tuple[Tensor, Tensor]
    ) -> None:
        (x, weight, ctx.axes, ctx.offset, eps), (_, rstd) = inputs, output
        ctx.eps = static(eps)
        ctx.save_for_backward(*Residuals(x, weight if ctx.needs_input_grad[0] else None, rstd))
        ctx.like = likes(x, weight)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, g_rstd: Tensor | None) -> tuple[Tensor | None, ...]:
        residuals = Residuals(*ctx.saved_tensors)
        dx, dweight = (None, None) if g is None else bwd(ctx.axes, ctx.offset, ctx.eps, residuals, g, wanted(ctx))
        if ctx.needs_input_grad[0] and g_rstd is not None:  # second order only: rstd is an output
            dx = add(dx, bwd_residuals(residuals, g_rstd=g_rstd))
        return dx, dweight, None, None, None


def rms_norm(
    x: Tensor,
    weight: Tensor | None = None,
    *,
    axis: int = -1,
    offset: float = 0.0,
    eps: Number | None = 1e-6,
) -> Tensor:
    """y = x·rstd·(offset + weight) with rstd = 1/√(mean(x²) + eps), over the last axis.

    Over several axes, the last ones, where the weight has as many; or over another one, `axis`.

    Args:
        x: (..., d) floating.
        weight: (d,) floating, or None for a factor of 1. With the shape of the last axes of x these are normalized
            together.
        axis: the axis that is normalized, d long; -1 where the weight has several axes. An int.
        offset: added to the weight; a Python number. With 1 a weight of zeros is no factor, as in Gemma.
        eps: added to the mean square; a number, which may be a tensor: a constant to the derivative.
            None is the machine epsilon of the dtype that computes, as in `torch.nn.functional.rms_norm`.

    Returns:
        (..., d), of x's dtype; computed in float32 if that is narrower.

    Saves:
        x: (..., d), an input, no new bytes.
        weight: (d,), an input, no new bytes; not saved if x needs no gradient.
        rstd: (..., 1), new, 4 bytes a row (8 in float64): without it the backward would reduce x² again.
            Of length 1 are the axes that are normalized.

    Raises:
        TypeError: x or weight is not floating, axis is not an int, or offset or eps is not a number.
        ValueError: x has no axis, or not this one; weight is not (d,), or not of the last axes of x; there is an offset
            but no weight; offset or eps is negative.

    Source:
        Zhang & Sennrich, "Root Mean Square Layer Normalization" (2019), equation 4.
    """
    if is_proxy(x, weight, eps):
        return handle_torch_function(rms_norm, (x, weight, eps), x, weight, axis=axis, offset=offset, eps=eps)
    x = floating("x", x)
    weight = None if weight is None else floating("weight", weight)
    axes, offset = checked_axes(x, axis, weight=weight), nonnegative("offset", offset)
    if offset and weight is None:
        raise ValueError(f"offset: expected 0 without a weight, got {offset}")
    y, _ = RMSNorm.apply(x, weight, axes, offset, number("eps", _epsilon(x, eps)))
    return y

"""Root-mean-square normalization over the last axis: y = x·rstd·weight, rstd = 1/√(mean(x²) + eps)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from residuals_torch._lib.checks import Number, floating, number, static
from residuals_torch._lib.cotangents import Likes, add, as_primal, likes, match, wanted
from residuals_torch._lib.dtypes import to_dtype, wide
from residuals_torch._lib.modes import batched_alike
from residuals_torch._lib.norms import by_pieces, times


class Residuals(NamedTuple):
    x: Tensor  # (..., d)  input: rebuilds x̂ = x·rstd
    weight: Tensor | None  # (d,)  input: scales the cotangent; None also if x is frozen
    rstd: Tensor  # (..., 1)  new, float32 or wider: saved so that the backward reduces no x² again


RECOMPUTES: dict[str, str] = {}


def _epsilon(x: Tensor, eps: Number | None) -> Number:
    """`eps`, or for None the machine epsilon of the dtype that computes."""
    return float(torch.finfo(wide(x).dtype).eps) if eps is None else eps


def _cuts(x: Tensor) -> dict[int, int]:
    """Each row is normalized by itself."""
    return dict(enumerate(x.shape[:-1]))


def fwd(x: Tensor, weight: Tensor | None, eps: Number | None) -> tuple[Tensor, Residuals]:
    def normalized(plain: bool, x: Tensor, weight: Tensor | None, eps: Number) -> Any:
        dtype, x = x.dtype, wide(x)
        rstd = torch.rsqrt(torch.mean(torch.square(x), dim=-1, keepdim=True) + eps)
        y = x * rstd
        if weight is not None:
            y = times(y, wide(weight), plain)
        return (to_dtype(y, dtype), rstd), ()

    (y, rstd), _ = by_pieces(normalized, _cuts(x), (x,), (weight, _epsilon(x, eps)))
    return y, Residuals(x, weight, rstd)


def bwd(eps: float, residuals: Residuals, g: Tensor, like: Likes | None = None) -> tuple[Tensor | None, Tensor | None]:
    x, weight, rstd = residuals
    like_x, like_weight = like or likes(x, weight)

    def gradients(plain: bool, g: Tensor, x: Tensor, rstd: Tensor, weight: Tensor | None) -> Any:
        dx = dweight = None
        g, x_hat = wide(g), wide(x) * rstd
        if like_x is not None:
            g_hat = g if weight is None else g * wide(weight)
            dx = torch.addcmul(g_hat, x_hat, torch.mean(g_hat * x_hat, dim=-1, keepdim=True), value=-1)
            dx = to_dtype(times(dx, rstd, plain), like_x.dtype)
        if like_weight is not None:
            dweight = (g * x_hat).sum_to_size(like_weight.shape)
        return (dx,), (dweight,)

    (dx,), (dweight,) = by_pieces(gradients, _cuts(g), (g, x, rstd), (weight,))
    return dx, as_primal(dweight, like_weight)


def bwd_residuals(residuals: Residuals, *, g_rstd: Tensor) -> Tensor:
    """What reaches x through the residual rstd: drstd/dx = -rstd³·x/d."""
    x, _, rstd = residuals
    return match(-g_rstd * rstd**3 * wide(x) / x.shape[-1], x)


class RMSNorm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor | None, eps: Number) -> tuple[Tensor, Tensor]:
        y, residuals = fwd(x, weight, eps)
        return batched_alike(y, residuals.rstd)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor | None, Number], output: tuple[Tensor, Tensor]) -> None:
        (x, weight, eps), (_, rstd) = inputs, output
        ctx.eps = static(eps)
        ctx.save_for_backward(*Residuals(x, weight if ctx.needs_input_grad[0] else None, rstd))
        ctx.like = likes(x, weight)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, g_rstd: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        residuals = Residuals(*ctx.saved_tensors)
        dx, dweight = (None, None) if g is None else bwd(ctx.eps, residuals, g, wanted(ctx))
        if ctx.needs_input_grad[0] and g_rstd is not None:  # second order only: rstd is an output
            dx = add(dx, bwd_residuals(residuals, g_rstd=g_rstd))
        return dx, dweight, None


def rms_norm(x: Tensor, weight: Tensor | None = None, *, eps: Number | None = 1e-6) -> Tensor:
    """y = x·rstd·weight with rstd = 1/√(mean(x²) + eps), over the last axis.

    Args:
        x: (..., d) floating.
        weight: (d,) floating, or None for 1.
        eps: added to the mean square; a number, which may be a tensor: a constant to the derivative.
            None is the machine epsilon of the dtype that computes, as in `torch.nn.functional.rms_norm`.

    Returns:
        (..., d), of x's dtype; computed in float32 if that is narrower.

    Saves:
        x: (..., d), an input, no new bytes.
        weight: (d,), an input, no new bytes; not saved if x needs no gradient.
        rstd: (..., 1), new, 4 bytes a row (8 in float64): without it the backward would reduce x² again.

    Raises:
        TypeError: x or weight is not floating, or eps is not a number.
        ValueError: x has no axis, weight is not (d,), or eps is negative.

    Source:
        Zhang & Sennrich, "Root Mean Square Layer Normalization" (2019), equation 4.
    """
    x = floating("x", x)
    if x.ndim == 0:
        raise ValueError("x: expected at least 1 axis, got a scalar")
    if weight is not None:
        weight = floating("weight", weight)
        if weight.shape != x.shape[-1:]:
            raise ValueError(f"weight: expected shape [{x.shape[-1]}], as the last axis of x, got {list(weight.shape)}")
    y, _ = RMSNorm.apply(x, weight, number("eps", _epsilon(x, eps)))
    return y

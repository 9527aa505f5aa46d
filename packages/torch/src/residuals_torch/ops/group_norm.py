"""Group normalization: y = x̂·weight + bias, x̂ = (x − mean)·rstd over a group of channels, rstd = 1/√(var + eps)."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from residuals_torch._lib import Like, Wanted, add, floating, match, nonnegative, wanted, wide


class Residuals(NamedTuple):  # all None where only the bias needs a gradient: it depends on none of them
    x: Tensor  # (b, c, ...)  input: rebuilds x̂ = (x − mean)·rstd
    weight: Tensor | None  # (c,)  input: scales the cotangent; None also if x is frozen
    mean: Tensor  # (b, groups)  new, float32 or wider: saved so that the backward reduces no x again
    rstd: Tensor  # (b, groups)  new, float32 or wider: saved so that the backward reduces no (x − mean)² again


RECOMPUTES: dict[str, str] = {}

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def _grouped(a: Tensor, num_groups: int) -> Tensor:
    """(b, c, ...) as (b, groups, c / groups, ...)."""
    b, c, *rest = a.shape
    return a.reshape(b, num_groups, c // num_groups, *rest)


def _mean(groups: Tensor) -> Tensor:
    """(b, groups): the mean of each group."""
    return torch.mean(groups, dim=tuple(range(2, groups.ndim)))


def _lift(a: Tensor, ndim: int) -> Tensor:
    """`a` with axes of size 1 after its own."""
    return a[(..., *[None] * (ndim - a.ndim))]


def fwd(x: Tensor, weight: Tensor | None, bias: Tensor | None, num_groups: int, eps: float) -> tuple[Tensor, Residuals]:
    groups = _grouped(wide(x), num_groups)
    mean = _mean(groups)
    centred = groups - _lift(mean, groups.ndim)  # before it is squared: E[x²] − mean² is all rounding for a large mean
    rstd = torch.rsqrt(_mean(torch.square(centred)) + eps)
    y = (centred * _lift(rstd, groups.ndim)).reshape(x.shape)
    if weight is not None:
        y = y * _lift(wide(weight), x.ndim - 1)
    if bias is not None:
        y = y + _lift(wide(bias), x.ndim - 1)
    return y.to(x.dtype), Residuals(x, weight, mean, rstd)


def bwd(num_groups: int, eps: float, residuals: Residuals, g: Tensor, like: Wanted | None = None) -> Gradients:
    x, weight, mean, rstd = residuals
    # No gradient depends on the bias, so it is not saved; `like` says whether there is one, and what it looks like.
    like_x, like_weight, like_bias = like or (x, weight, Like(x.shape[1:2], x.dtype))
    others = (0, *range(2, g.ndim))  # all axes but the channels
    dx = dweight = dbias = None
    if like_x is not None or like_weight is not None:
        groups = _grouped(wide(x), num_groups)
        x_hat = (groups - _lift(mean, groups.ndim)) * _lift(rstd, groups.ndim)
        if like_x is not None:
            g_hat = _grouped(wide(g) if weight is None else wide(g) * _lift(wide(weight), x.ndim - 1), num_groups)
            dx = g_hat - x_hat * _lift(_mean(g_hat * x_hat), groups.ndim)
            # All of dx is centred, not g_hat alone: for a large mean x̂ has a mean too, which is rounding.
            dx = _lift(rstd, groups.ndim) * (dx - _lift(_mean(dx), groups.ndim))
            dx = match(dx.reshape(x.shape), like_x)
        if like_weight is not None:
            dweight = match(torch.sum(wide(g) * x_hat.reshape(x.shape), dim=others), like_weight)
    if like_bias is not None:
        dbias = match(torch.sum(wide(g), dim=others), like_bias)
    return dx, dweight, dbias


def bwd_statistics(num_groups: int, residuals: Residuals, g_mean: Tensor | None, g_rstd: Tensor | None) -> Tensor:
    """What reaches x through mean and rstd: dmean/dx = 1/n and drstd/dx = -rstd³·(x − mean)/n, in a group of n."""
    x, _, mean, rstd = residuals
    groups = _grouped(wide(x), num_groups)
    dx = torch.zeros_like(groups) if g_mean is None else _lift(g_mean, groups.ndim).expand(groups.shape)
    if g_rstd is not None:
        dx = dx - _lift(g_rstd * rstd**3, groups.ndim) * (groups - _lift(mean, groups.ndim))
    n = math.prod(groups.shape[2:])
    return match((dx / n).reshape(x.shape), x)


class GroupNorm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, num_groups: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, residuals = fwd(x, weight, bias, num_groups, eps)
        return y, residuals.mean, residuals.rstd

    @staticmethod
    def setup_context(
        ctx: Any,
        inputs: tuple[Tensor, Tensor | None, Tensor | None, int, float],
        output: tuple[Tensor, Tensor, Tensor],
    ) -> None:
        (x, weight, bias, ctx.num_groups, ctx.eps), (_, mean, rstd) = inputs, output
        need_x, need_weight, *_ = ctx.needs_input_grad
        saved = Residuals(x, weight if need_x else None, mean, rstd)
        ctx.save_for_backward(*(saved if need_x or need_weight else [None] * 4))
        ctx.like = wanted(ctx, x, weight, bias)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, g: Tensor | None, g_mean: Tensor | None, g_rstd: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        residuals = Residuals(*ctx.saved_tensors)
        dx, dweight, dbias = (None, None, None) if g is None else bwd(ctx.num_groups, ctx.eps, residuals, g, ctx.like)
        if ctx.needs_input_grad[0] and not (g_mean is None and g_rstd is None):  # second order only: they are outputs
            dx = add(dx, bwd_statistics(ctx.num_groups, residuals, g_mean, g_rstd))
        return dx, dweight, dbias, None, None


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float = 1e-5
) -> Tensor:
    """y = (x − mean)·rstd·weight + bias with rstd = 1/√(var + eps), over each group of channels and all later axes.

    Args:
        x: (b, c, ...) floating.
        num_groups: how many groups the c channels form; a Python int.
        weight: (c,) floating, or None for 1.
        bias: (c,) floating, or None for 0.
        eps: added to the variance; a Python number.

    Returns:
        (b, c, ...), of x's dtype; computed in float32 if that is narrower.

    Saves:
        x: (b, c, ...), an input, no new bytes; not saved if x and weight need no gradient.
        weight: (c,), an input, no new bytes; not saved if x needs no gradient. The bias is not saved: no gradient
            depends on it.
        mean: (b, num_groups), new, 4 bytes a group (8 in float64): without it the backward would reduce x again.
        rstd: (b, num_groups), new, 4 bytes a group (8 in float64): without it the backward would reduce (x − mean)²
            again.

    Raises:
        TypeError: x, weight or bias is not floating, num_groups is not an int, or eps is not a number.
        ValueError: x has fewer than 2 axes, num_groups does not divide the channels, weight or bias is not (c,), or
            eps is negative.

    Source:
        Wu & He, "Group Normalization" (2018), equations 1 and 7.
    """
    x = floating("x", x)
    if x.ndim < 2:
        raise ValueError(f"x: expected at least 2 axes, of which the second has the channels, got {list(x.shape)}")
    if isinstance(num_groups, bool) or not isinstance(num_groups, int):
        raise TypeError(f"num_groups: expected an int, got {type(num_groups).__name__}")
    if num_groups < 1 or x.shape[1] % num_groups:
        raise ValueError(f"num_groups: expected a divisor of the {x.shape[1]} channels of x, got {num_groups}")
    weight = None if weight is None else floating("weight", weight)
    bias = None if bias is None else floating("bias", bias)
    for name, a in (("weight", weight), ("bias", bias)):
        if a is not None and a.shape != x.shape[1:2]:
            raise ValueError(f"{name}: expected shape [{x.shape[1]}], as the second axis of x, got {list(a.shape)}")
    y, _, _ = GroupNorm.apply(x, weight, bias, num_groups, nonnegative("eps", eps))
    return y

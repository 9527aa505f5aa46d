"""Group normalization: y = x̂·weight + bias, x̂ = (x − mean)·rstd over a group of channels, rstd = 1/√(var + eps)."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.checks import Number, floating, integer, is_proxy, number, static
from residuals_torch._lib.cotangents import Like, Likes, add, as_primal, likes, match, wanted
from residuals_torch._lib.dtypes import to_dtype, wide
from residuals_torch._lib.modes import batched_alike
from residuals_torch._lib.norms import by_pieces, from_front, lifted, minus, plus, times


class Residuals(NamedTuple):  # all None where only the bias needs a gradient, which depends on no residual
    x: Tensor  # (b, c, ...)  input: rebuilds x̂ = (x − mean)·rstd
    weight: Tensor | None  # (c,)  input: scales the cotangent; None also if x is frozen
    mean: Tensor  # (b, num_groups)  new, float32 or wider: saved so that the backward reduces no x again
    rstd: Tensor  # (b, num_groups)  new, float32 or wider: saved so that the backward reduces no (x − mean)² again


RECOMPUTES: dict[str, str] = {}

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def _sums(a: Tensor, axis: int) -> Tensor:
    """(b, c): the sum over all other axes, and one that is added, since `dim=()` would mean all axes."""
    return torch.sum(a.unsqueeze(-1), dim=tuple(i for i in range(1, a.ndim + 1) if i != axis))


def _group_mean(sums: Tensor, x: Tensor, axis: int, num_groups: int) -> Tensor:
    """(b, num_groups): the mean over each group of channels and all other axes of x, from the sums of each channel."""
    b, c = sums.shape
    per_group = c // num_groups
    groups = torch.sum(sums.reshape(b, num_groups, per_group), dim=-1)
    return groups / max(per_group * _others(x, axis), 1)  # 0 for an empty group


def _others(x: Tensor, axis: int) -> int:
    """How many numbers a channel of one sample has."""
    return math.prod([n for i, n in enumerate(x.shape) if i not in (0, axis)])


def _spread(a: Tensor, x: Tensor, axis: int) -> Tensor:
    """(b, num_groups), to be broadcast with x: each channel has what its group has."""
    b, groups = a.shape
    c = x.shape[axis]
    return lifted(a.unsqueeze(-1).expand(b, groups, c // groups).reshape(b, c), (0, axis), x.ndim)


def _row(a: Tensor | None) -> Tensor | None:
    """(c,) as (1, c)."""
    return None if a is None else a.unsqueeze(0)


def fwd(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, num_groups: int, axis: int, eps: Number
) -> tuple[Tensor, Residuals]:
    axis = from_front(axis, x.ndim)
    channels = x.shape[axis]

    def normalized(plain: bool, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: Number) -> Any:
        groups = num_groups * x.shape[axis] // channels if channels else num_groups  # of this block
        dtype, x = x.dtype, wide(x)
        mean = _group_mean(_sums(x, axis), x, axis, groups)
        y = x - _spread(mean, x, axis)  # before it is squared: E[x²] − mean² is all rounding for a large mean
        rstd = torch.rsqrt(_group_mean(_sums(torch.square(y), axis), x, axis, groups) + eps)
        y = times(y, _spread(rstd, x, axis), plain)
        if weight is not None:
            y = times(y, lifted(wide(weight), (0, axis), x.ndim), plain)
        if bias is not None:
            y = plus(y, lifted(wide(bias), (0, axis), x.ndim), plain)
        return (to_dtype(y, dtype), mean, rstd), ()

    cuts = {0: x.shape[0], axis: num_groups}
    (y, mean, rstd), _ = by_pieces(normalized, cuts, (x, _row(weight), _row(bias)), (eps,))
    return y, Residuals(x, weight, mean, rstd)


def bwd(
    num_groups: int, axis: int, eps: float, residuals: Residuals, g: Tensor, like: Likes | None = None
) -> Gradients:
    axis = from_front(axis, g.ndim)
    # No gradient depends on the bias, so it is not saved; `like` says whether there is one, and what it looks like.
    like_x, like_weight, like_bias = like or likes(
        residuals.x, residuals.weight, Like(torch.Size([g.shape[axis]]), g.dtype)
    )

    def gradients(plain: bool, g: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, rstd: Tensor) -> Any:
        dx = g_x_sums = None
        g = wide(g)
        if like_x is not None or like_weight is not None:
            x_hat = times(wide(x) - _spread(mean, x, axis), _spread(rstd, x, axis), plain)
            g_x_sums = _sums(g * x_hat, axis)  # for the weight and for the groups alike
            if like_x is not None:
                groups, g_hat = mean.shape[1], g if weight is None else g * lifted(wide(weight), (0, axis), x.ndim)
                dot = _group_mean(g_x_sums if weight is None else wide(weight) * g_x_sums, x, axis, groups)
                dx = torch.addcmul(g_hat, x_hat, _spread(dot, x, axis), value=-1)
                # All of dx is centred, not g·weight alone: for a large mean x̂ has a mean too, which is rounding.
                dx = minus(dx, _spread(_group_mean(_sums(dx, axis), x, axis, groups), x, axis), plain)
                dx = to_dtype(times(dx, _spread(rstd, x, axis), plain), like_x.dtype)
        return (dx, g_x_sums, None if like_bias is None else _sums(g, axis)), ()

    x, weight, *statistics = residuals
    cuts = {0: g.shape[0], axis: num_groups}
    (dx, dweight, dbias), _ = by_pieces(gradients, cuts, (g, x, _row(weight), *statistics))
    return dx, as_primal(dweight, like_weight), as_primal(dbias, like_bias)


def bwd_residuals(axis: int, residuals: Residuals, *, g_mean: Tensor | None, g_rstd: Tensor | None) -> Tensor:
    """What reaches x through the residuals: in a group of n dmean/dx = 1/n and drstd/dx = -rstd³·(x − mean)/n."""
    x, _, mean, rstd = residuals
    groups = mean.shape[1]
    dx = _spread(torch.zeros_like(mean) if g_mean is None else g_mean, x, axis)
    if g_rstd is not None:
        dx = dx - _spread(g_rstd * rstd**3, x, axis) * (wide(x) - _spread(mean, x, axis))
    n = math.prod(x.shape[1:]) // groups
    return match((dx / n).expand(x.shape), x)


class GroupNorm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, num_groups: int, axis: int, eps: Number
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, residuals = fwd(x, weight, bias, num_groups, axis, eps)
        return batched_alike(y, residuals.mean, residuals.rstd)

    @staticmethod
    def setup_context(
        ctx: Any,
        inputs: tuple[Tensor, Tensor | None, Tensor | None, int, int, Number],
        output: tuple[Tensor, Tensor, Tensor],
    ) -> None:
        (x, weight, bias, ctx.num_groups, ctx.axis, eps), (_, mean, rstd) = inputs, output
        ctx.eps = static(eps)
        need_x, need_weight, *_ = ctx.needs_input_grad
        saved = Residuals(x, weight if need_x else None, mean, rstd)
        ctx.save_for_backward(*(saved if need_x or need_weight else [None] * 4))
        ctx.like = likes(x, weight, bias)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, g: Tensor | None, g_mean: Tensor | None, g_rstd: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        residuals = Residuals(*ctx.saved_tensors)
        dx, dweight, dbias = (
            (None, None, None) if g is None else bwd(ctx.num_groups, ctx.axis, ctx.eps, residuals, g, wanted(ctx))
        )
        if ctx.needs_input_grad[0] and not (g_mean is None and g_rstd is None):  # second order only: both are outputs
            dx = add(dx, bwd_residuals(ctx.axis, residuals, g_mean=g_mean, g_rstd=g_rstd))
        return dx, dweight, dbias, None, None, None


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    axis: int = 1,
    eps: Number = 1e-5,
) -> Tensor:
    """y = (x − mean)·rstd·weight + bias with rstd = 1/√(var + eps), over each group of channels, one sample at a time.

    Args:
        x: (b, c, ...) floating.
        num_groups: how many groups the c channels form; a Python int.
        weight: (c,) floating, or None for 1.
        bias: (c,) floating, or None for 0.
        axis: the axis of the channels, another than the first: 1, or -1 where they are last; an int.
        eps: added to the variance; a number, which may be a tensor: a constant to the derivative.

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
        TypeError: x, weight or bias is not floating, num_groups or axis is not an int, or eps is not a number.
        ValueError: x has fewer than 2 axes; the channels are on none of them, or on the first; num_groups does not
            divide the channels; weight or bias is not (c,); or eps is negative.

    Source:
        Wu & He, "Group Normalization" (2018), equations 1 and 7.
    """
    given = x, weight, bias, eps
    if is_proxy(*given):
        return handle_torch_function(group_norm, given, x, num_groups, weight, bias, axis=axis, eps=eps)
    x = floating("x", x)
    if x.ndim < 2:
        raise ValueError(f"x: expected at least 2 axes, of which the second has the channels, got {list(x.shape)}")
    axis = integer("axis", axis)
    if not -x.ndim < axis < x.ndim or axis == 0:
        raise ValueError(f"axis: expected one of the {x.ndim} axes of x but the first, got {axis}")
    axis = from_front(axis, x.ndim)
    num_groups = integer("num_groups", num_groups)
    if num_groups < 1 or x.shape[axis] % num_groups:
        raise ValueError(f"num_groups: expected a divisor of the {x.shape[axis]} channels of x, got {num_groups}")
    weight = None if weight is None else floating("weight", weight)
    bias = None if bias is None else floating("bias", bias)
    for name, a in (("weight", weight), ("bias", bias)):
        if a is not None and a.shape != (x.shape[axis],):
            where = "the second axis" if axis == 1 else f"axis {axis}"
            raise ValueError(f"{name}: expected shape [{x.shape[axis]}], as {where} of x, got {list(a.shape)}")
    y, _, _ = GroupNorm.apply(x, weight, bias, num_groups, axis, number("eps", eps))
    return y

"""Group normalization: y = x̂·weight + bias, x̂ = (x − mean)·rstd over a group of channels, rstd = 1/√(var + eps)."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike

from residuals_jax._lib.checks import Number, apart, floating, integer, joined, nonnegative
from residuals_jax._lib.cotangents import Like, Likes, likes, match, to_rank
from residuals_jax._lib.dtypes import to_dtype, wide, wider
from residuals_jax._lib.norms import lifted, sum_to


class Residuals(NamedTuple):
    x: Array  # (b, c, ...)  input: rebuilds x̂ = (x − mean)·rstd
    weight: Array | None  # (c,)  input: scales the cotangent
    mean: Array  # (b, num_groups)  new, float32 or wider: saved so that the backward reduces no x again
    rstd: Array  # (b, num_groups)  new, float32 or wider: saved so that the backward reduces no (x − mean)² again


RECOMPUTES: dict[str, str] = {}


def _sums(a: Array, axis: int) -> Array:
    """(b, c): the sum over all other axes."""
    return sum_to(a, (0, axis))


def _group_mean(sums: Array, x: Array, axis: int, num_groups: int) -> Array:
    """(b, num_groups): the mean over each group of channels and all other axes of x, from the sums of each channel."""
    b, c = sums.shape
    per_group = c // num_groups
    groups = jnp.sum(sums.reshape(b, num_groups, per_group), axis=-1)
    others = math.prod(n for i, n in enumerate(x.shape) if i not in (0, axis))
    return groups / max(per_group * others, 1)  # 0 for an empty group


def _spread(a: Array, x: Array, axis: int) -> Array:
    """(b, num_groups), to be broadcast with x: each channel has what its group has."""
    b, groups = a.shape
    c = x.shape[axis]
    return lifted(jnp.broadcast_to(a[:, :, None], (b, groups, c // groups)).reshape(b, c), (0, axis), x.ndim)


def fwd(
    x: Array, weight: Array | None, bias: Array | None, num_groups: int, axis: int, eps: Number
) -> tuple[Array, Residuals]:
    axis %= x.ndim
    mean = _group_mean(_sums(wide(x), axis), x, axis, num_groups)
    centred = wide(x) - _spread(mean, x, axis)  # before it is squared: E[x²] − mean² is all rounding for a large mean
    rstd = jax.lax.rsqrt(_group_mean(_sums(jnp.square(centred), axis), x, axis, num_groups) + eps)
    mean, rstd = checkpoint_name(mean, "group_norm.mean"), checkpoint_name(rstd, "group_norm.rstd")
    y = centred * _spread(rstd, x, axis)
    if weight is not None:
        y = y * lifted(wide(weight), (axis,), x.ndim)
    if bias is not None:
        y = y + lifted(wide(bias), (axis,), x.ndim)
    return to_dtype(y, x.dtype), Residuals(x, weight, mean, rstd)


def bwd(
    num_groups: int, axis: int, eps: Number, residuals: Residuals, g: Array, like: Likes | None = None
) -> tuple[Array, Array | None, Array | None]:
    axis %= g.ndim
    x, weight, mean, rstd = residuals
    # No gradient depends on the bias, so it is not saved; `like` says whether there is one, and what it looks like.
    _, _, like_bias = like or likes(x, weight, Like((x.shape[axis],), x.dtype))
    g = wide(g)
    x_hat = (wide(x) - _spread(mean, x, axis)) * _spread(rstd, x, axis)
    g_x_sums = _sums(g * x_hat, axis)  # for the weight and for the groups alike
    scale = jnp.ones(x.shape[axis], g.dtype) if weight is None else wide(weight)
    dot = _group_mean(to_rank(scale, 2) * g_x_sums, x, axis, num_groups)
    dx = g * lifted(scale, (axis,), x.ndim) - x_hat * _spread(dot, x, axis)
    # All of dx is centred, not g·weight alone: for a large mean x̂ has a mean too, which is rounding.
    dx = match(_spread(rstd, x, axis) * (dx - _spread(_group_mean(_sums(dx, axis), x, axis, num_groups), x, axis)), x)
    dweight = None if weight is None else match(g_x_sums, weight)
    dbias = None if like_bias is None else match(_sums(g, axis), like_bias)
    return dx, dweight, dbias


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def _group_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    traced: Array | None,
    num_groups: int,
    axis: int,
    eps: float,
    like: Likes,
) -> Array:
    return fwd(x, weight, bias, num_groups, axis, joined(traced, eps))[0]


_group_norm.defvjp(
    lambda x, weight, bias, traced, num_groups, axis, eps, like: fwd(
        x, weight, bias, num_groups, axis, joined(traced, eps)
    ),
    lambda num_groups, axis, eps, like, residuals, g: (*bwd(num_groups, axis, eps, residuals, g, like), None),
)


def group_norm(
    x: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    axis: int = 1,
    eps: ArrayLike = 1e-5,
) -> Array:
    """y = (x − mean)·rstd·weight + bias with rstd = 1/√(var + eps), over each group of channels, one sample at a time.

    On an Explicit mesh with sharded channels each device has to hold whole groups, or each group has to fill whole
    devices.

    Args:
        x: (b, c, ...) floating.
        num_groups: how many groups the c channels form; a Python int, not a tracer.
        weight: (c,) floating, or None for 1.
        bias: (c,) floating, or None for 0.
        axis: the axis of the channels, another than the first: 1, or -1 where they are last; an int.
        eps: added to the variance; a number, which may be traced: a constant to the derivative.

    Returns:
        (b, c, ...), of x's dtype; computed in float32 if that is narrower.

    Saves:
        x: (b, c, ...), an input, no new bytes.
        weight: (c,), an input, no new bytes. The bias is not saved: no gradient depends on it.
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
    x = floating("x", x)
    if x.ndim < 2:
        raise ValueError(f"x: expected at least 2 axes, of which the second has the channels, got {list(x.shape)}")
    axis = integer("axis", axis)
    if not -x.ndim < axis < x.ndim or axis == 0:
        raise ValueError(f"axis: expected one of the {x.ndim} axes of x but the first, got {axis}")
    axis %= x.ndim
    num_groups = integer("num_groups", num_groups)
    if num_groups < 1 or x.shape[axis] % num_groups:
        raise ValueError(f"num_groups: expected a divisor of the {x.shape[axis]} channels of x, got {num_groups}")
    weight = None if weight is None else floating("weight", weight)
    bias = None if bias is None else floating("bias", bias)
    for name, a in (("weight", weight), ("bias", bias)):
        if a is not None and a.shape != (x.shape[axis],):
            where = "the second axis" if axis == 1 else f"axis {axis}"
            raise ValueError(f"{name}: expected shape [{x.shape[axis]}], as {where} of x, got {list(a.shape)}")
    traced, eps = apart(nonnegative("eps", eps, dtype=wider(x)))
    return _group_norm(x, weight, bias, traced, num_groups, axis, eps, likes(x, weight, bias))

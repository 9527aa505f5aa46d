"""Group normalization: y = x̂·weight + bias, x̂ = (x − mean)·rstd over a group of channels, rstd = 1/√(var + eps)."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from residuals_jax._lib.checks import Number, apart, floating, integer, joined, nonnegative
from residuals_jax._lib.cotangents import Like, Likes, likes, match, to_rank
from residuals_jax._lib.dtypes import to_dtype, wide


class Residuals(NamedTuple):
    x: Array  # (b, c, ...)  input: rebuilds x̂ = (x − mean)·rstd
    weight: Array | None  # (c,)  input: scales the cotangent
    mean: Array  # (b, num_groups)  new, float32 or wider: saved so that the backward reduces no x again
    rstd: Array  # (b, num_groups)  new, float32 or wider: saved so that the backward reduces no (x − mean)² again


RECOMPUTES: dict[str, str] = {}


def _sums(a: Array) -> Array:
    """(b, c): the sum over all axes after the channels."""
    return jnp.sum(a, axis=tuple(range(2, a.ndim)))


def _group_mean(sums: Array, x: Array, num_groups: int) -> Array:
    """(b, num_groups): the mean over each group of channels and all later axes of x, from the sums of each channel."""
    b, c = sums.shape
    per_group = c // num_groups
    groups = jnp.sum(sums.reshape(b, num_groups, per_group), axis=-1)
    return groups / max(per_group * math.prod(x.shape[2:]), 1)  # 0 for an empty group


def _spread(a: Array, x: Array) -> Array:
    """(b, num_groups) as (b, c, 1, ...): each channel of x has what its group has."""
    b, groups = a.shape
    c = x.shape[1]
    return _lift(jnp.broadcast_to(a[:, :, None], (b, groups, c // groups)).reshape(b, c), x)


def _lift(a: Array, x: Array) -> Array:
    """(b, c) as (b, c, 1, ...), and (c,) as (1, c, 1, ...), to be broadcast with x."""
    return jnp.expand_dims(to_rank(a, 2), tuple(range(2, x.ndim)))


def fwd(x: Array, weight: Array | None, bias: Array | None, num_groups: int, eps: Number) -> tuple[Array, Residuals]:
    mean = _group_mean(_sums(wide(x)), x, num_groups)
    centred = wide(x) - _spread(mean, x)  # before it is squared: E[x²] − mean² is all rounding for a large mean
    rstd = jax.lax.rsqrt(_group_mean(_sums(jnp.square(centred)), x, num_groups) + eps)
    y = centred * _spread(rstd, x)
    if weight is not None:
        y = y * _lift(wide(weight), x)
    if bias is not None:
        y = y + _lift(wide(bias), x)
    return to_dtype(y, x.dtype), Residuals(x, weight, mean, rstd)


def bwd(
    num_groups: int, eps: Number, residuals: Residuals, g: Array, like: Likes | None = None
) -> tuple[Array, Array | None, Array | None]:
    x, weight, mean, rstd = residuals
    # No gradient depends on the bias, so it is not saved; `like` says whether there is one, and what it looks like.
    _, _, like_bias = like or likes(x, weight, Like(x.shape[1:2], x.dtype))
    g = wide(g)
    x_hat = (wide(x) - _spread(mean, x)) * _spread(rstd, x)
    g_x_sums = _sums(g * x_hat)  # for the weight and for the groups alike
    scale = jnp.ones(x.shape[1:2], g.dtype) if weight is None else wide(weight)
    dx = g * _lift(scale, x) - x_hat * _spread(_group_mean(to_rank(scale, 2) * g_x_sums, x, num_groups), x)
    # All of dx is centred, not g·weight alone: for a large mean x̂ has a mean too, which is rounding.
    dx = match(_spread(rstd, x) * (dx - _spread(_group_mean(_sums(dx), x, num_groups), x)), x)
    dweight = None if weight is None else match(g_x_sums, weight)
    dbias = None if like_bias is None else match(_sums(g), like_bias)
    return dx, dweight, dbias


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _group_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    traced: Array | None,
    num_groups: int,
    eps: float,
    like: Likes,
) -> Array:
    return fwd(x, weight, bias, num_groups, joined(traced, eps))[0]


_group_norm.defvjp(
    lambda x, weight, bias, traced, num_groups, eps, like: fwd(x, weight, bias, num_groups, joined(traced, eps)),
    lambda num_groups, eps, like, residuals, g: (*bwd(num_groups, eps, residuals, g, like), None),
)


def group_norm(
    x: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: ArrayLike = 1e-5,
) -> Array:
    """y = (x − mean)·rstd·weight + bias with rstd = 1/√(var + eps), over each group of channels and all later axes.

    On an Explicit mesh with sharded channels each device has to hold whole groups, or each group has to fill whole
    devices.

    Args:
        x: (b, c, ...) floating.
        num_groups: how many groups the c channels form; a Python int, not a tracer.
        weight: (c,) floating, or None for 1.
        bias: (c,) floating, or None for 0.
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
        TypeError: x, weight or bias is not floating, num_groups is not an int, or eps is not a number.
        ValueError: x has fewer than 2 axes, num_groups does not divide the channels, weight or bias is not (c,), or
            eps is negative.

    Source:
        Wu & He, "Group Normalization" (2018), equations 1 and 7.
    """
    x = floating("x", x)
    if x.ndim < 2:
        raise ValueError(f"x: expected at least 2 axes, of which the second has the channels, got {list(x.shape)}")
    num_groups = integer("num_groups", num_groups)
    if num_groups < 1 or x.shape[1] % num_groups:
        raise ValueError(f"num_groups: expected a divisor of the {x.shape[1]} channels of x, got {num_groups}")
    weight = None if weight is None else floating("weight", weight)
    bias = None if bias is None else floating("bias", bias)
    for name, a in (("weight", weight), ("bias", bias)):
        if a is not None and a.shape != x.shape[1:2]:
            raise ValueError(f"{name}: expected shape [{x.shape[1]}], as the second axis of x, got {list(a.shape)}")
    traced, eps = apart(nonnegative("eps", eps))
    return _group_norm(x, weight, bias, traced, num_groups, eps, likes(x, weight, bias))

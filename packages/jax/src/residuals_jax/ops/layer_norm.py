"""Layer normalization over one axis or several: y = x̂·weight + bias, x̂ = (x − mean)·rstd, rstd = 1/√(var + eps)."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike

from residuals_jax._lib.checks import Number, apart, floating, joined, nonnegative
from residuals_jax._lib.cotangents import Like, Likes, likes, match
from residuals_jax._lib.dtypes import to_dtype, wide, wider
from residuals_jax._lib.norms import checked_axes, lifted, normalized_axes, sum_to


class Residuals(NamedTuple):
    x: Array  # (..., d)  input: rebuilds x̂ = (x − mean)·rstd
    weight: Array | None  # (d,)  input: scales the cotangent
    mean: Array  # (..., 1)  new, float32 or wider: saved so that the backward reduces no x again
    rstd: Array  # (..., 1)  new, float32 or wider: saved so that the backward reduces no (x − mean)² again


RECOMPUTES: dict[str, str] = {}

Axes = tuple[int, ...]  # those that are normalized, as the public function finds them


def fwd(x: Array, weight: Array | None, bias: Array | None, axis: int | Axes, eps: Number) -> tuple[Array, Residuals]:
    axes = normalized_axes(x.ndim, axis, weight, bias)
    mean = jnp.mean(wide(x), axis=axes, keepdims=True)
    centred = wide(x) - mean  # before it is squared: E[x²] − mean² is all rounding for a large mean
    rstd = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=axes, keepdims=True) + eps)
    mean, rstd = checkpoint_name(mean, "layer_norm.mean"), checkpoint_name(rstd, "layer_norm.rstd")
    y = centred * rstd
    if weight is not None:
        y = y * lifted(wide(weight), axes, x.ndim)
    if bias is not None:
        y = y + lifted(wide(bias), axes, x.ndim)
    return to_dtype(y, x.dtype), Residuals(x, weight, mean, rstd)


def bwd(
    axis: int | Axes, eps: Number, residuals: Residuals, g: Array, like: Likes | None = None
) -> tuple[Array, Array | None, Array | None]:
    x, weight, mean, rstd = residuals
    axes = normalized_axes(g.ndim, axis, weight, *(like or ())[1:])
    # No gradient depends on the bias, so it is not saved; `like` says whether there is one, and what it looks like.
    _, _, like_bias = like or likes(x, weight, Like([x.shape[i] for i in axes], x.dtype))
    x_hat = (wide(x) - mean) * rstd
    g_hat = wide(g) if weight is None else wide(g) * lifted(wide(weight), axes, x.ndim)
    dx = g_hat - x_hat * jnp.mean(g_hat * x_hat, axis=axes, keepdims=True)
    # All of dx is centred, not g_hat alone: for a large mean x̂ has a mean too, which is rounding.
    dx = match(rstd * (dx - jnp.mean(dx, axis=axes, keepdims=True)), x)
    dweight = None if weight is None else match(sum_to(wide(g) * x_hat, axes), weight)
    dbias = None if like_bias is None else match(sum_to(wide(g), axes), like_bias)
    return dx, dweight, dbias


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _layer_norm(
    x: Array, weight: Array | None, bias: Array | None, traced: Array | None, axes: Axes, eps: float, like: Likes
) -> Array:
    return fwd(x, weight, bias, axes, joined(traced, eps))[0]


_layer_norm.defvjp(
    lambda x, weight, bias, traced, axes, eps, like: fwd(x, weight, bias, axes, joined(traced, eps)),
    lambda axes, eps, like, residuals, g: (*bwd(axes, eps, residuals, g, like), None),
)


def layer_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    axis: int = -1,
    eps: ArrayLike = 1e-5,
) -> Array:
    """y = (x − mean)·rstd·weight + bias with rstd = 1/√(var + eps), over the last axis.

    Over several axes, the last ones, where the weight or the bias has as many; or over another one, `axis`.

    Args:
        x: (..., d) floating.
        weight: (d,) floating, or None for 1. With the shape of the last axes of x these are normalized together.
        bias: (d,) floating, or None for 0; of the weight's shape.
        axis: the axis that is normalized, d long; -1 where the weight or the bias has several axes. An int.
        eps: added to the variance; a number, which may be traced: a constant to the derivative.

    Returns:
        (..., d), of x's dtype; computed in float32 if that is narrower.

    Saves:
        x: (..., d), an input, no new bytes.
        weight: (d,), an input, no new bytes. The bias is not saved: no gradient depends on it.
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
    x = floating("x", x)
    weight = None if weight is None else floating("weight", weight)
    bias = None if bias is None else floating("bias", bias)
    axes = checked_axes(x, axis, weight=weight, bias=bias)
    traced, eps = apart(nonnegative("eps", eps, dtype=wider(x)))
    return _layer_norm(x, weight, bias, traced, axes, eps, likes(x, weight, bias))

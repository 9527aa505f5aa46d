"""Layer normalization over the last axis: y = x̂·weight + bias, x̂ = (x − mean)·rstd, rstd = 1/√(var + eps)."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from residuals_jax._lib.checks import Number, apart, floating, joined, nonnegative
from residuals_jax._lib.cotangents import Like, Likes, likes, match, to_rank
from residuals_jax._lib.dtypes import to_dtype, wide


class Residuals(NamedTuple):
    x: Array  # (..., d)  input: rebuilds x̂ = (x − mean)·rstd
    weight: Array | None  # (d,)  input: scales the cotangent
    mean: Array  # (..., 1)  new, float32 or wider: saved so that the backward reduces no x again
    rstd: Array  # (..., 1)  new, float32 or wider: saved so that the backward reduces no (x − mean)² again


RECOMPUTES: dict[str, str] = {}


def fwd(x: Array, weight: Array | None, bias: Array | None, eps: Number) -> tuple[Array, Residuals]:
    mean = jnp.mean(wide(x), axis=-1, keepdims=True)
    centred = wide(x) - mean  # before it is squared: E[x²] − mean² is all rounding for a large mean
    rstd = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + eps)
    y = centred * rstd
    if weight is not None:
        y = y * to_rank(wide(weight), x.ndim)
    if bias is not None:
        y = y + to_rank(wide(bias), x.ndim)
    return to_dtype(y, x.dtype), Residuals(x, weight, mean, rstd)


def bwd(
    eps: Number, residuals: Residuals, g: Array, like: Likes | None = None
) -> tuple[Array, Array | None, Array | None]:
    x, weight, mean, rstd = residuals
    # No gradient depends on the bias, so it is not saved; `like` says whether there is one, and what it looks like.
    _, _, like_bias = like or likes(x, weight, Like(x.shape[-1:], x.dtype))
    x_hat = (wide(x) - mean) * rstd
    g_hat = wide(g) if weight is None else wide(g) * to_rank(wide(weight), x.ndim)
    dx = g_hat - x_hat * jnp.mean(g_hat * x_hat, axis=-1, keepdims=True)
    # All of dx is centred, not g_hat alone: for a large mean x̂ has a mean too, which is rounding.
    dx = match(rstd * (dx - jnp.mean(dx, axis=-1, keepdims=True)), x)
    dweight = None if weight is None else match(wide(g) * x_hat, weight)
    dbias = None if like_bias is None else match(wide(g), like_bias)
    return dx, dweight, dbias


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _layer_norm(
    x: Array, weight: Array | None, bias: Array | None, traced: Array | None, eps: float, like: Likes
) -> Array:
    return fwd(x, weight, bias, joined(traced, eps))[0]


_layer_norm.defvjp(
    lambda x, weight, bias, traced, eps, like: fwd(x, weight, bias, joined(traced, eps)),
    lambda eps, like, residuals, g: (*bwd(eps, residuals, g, like), None),
)


def layer_norm(
    x: ArrayLike, weight: ArrayLike | None = None, bias: ArrayLike | None = None, *, eps: ArrayLike = 1e-5
) -> Array:
    """y = (x − mean)·rstd·weight + bias with rstd = 1/√(var + eps), over the last axis.

    Args:
        x: (..., d) floating.
        weight: (d,) floating, or None for 1.
        bias: (d,) floating, or None for 0.
        eps: added to the variance; a number, which may be traced: a constant to the derivative.

    Returns:
        (..., d), of x's dtype; computed in float32 if that is narrower.

    Saves:
        x: (..., d), an input, no new bytes.
        weight: (d,), an input, no new bytes. The bias is not saved: no gradient depends on it.
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
    return _layer_norm(x, weight, bias, *apart(nonnegative("eps", eps)), likes(x, weight, bias))

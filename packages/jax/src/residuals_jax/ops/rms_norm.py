"""Root-mean-square normalization over one axis or several: y = x·rstd·weight, rstd = 1/√(mean(x²) + eps)."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike

from residuals_jax._lib.checks import Number, apart, described, floating, joined, nonnegative
from residuals_jax._lib.cotangents import match
from residuals_jax._lib.dtypes import to_dtype, wide, wider
from residuals_jax._lib.norms import checked_axes, lifted, normalized_axes, sum_to


class Residuals(NamedTuple):
    x: Array  # (..., d)  input: rebuilds x̂ = x·rstd
    weight: Array | None  # (d,)  input: scales the cotangent
    rstd: Array  # (..., 1)  new, float32 or wider: saved so that the backward reduces no x² again


RECOMPUTES: dict[str, str] = {}

Axes = tuple[int, ...]  # those that are normalized, as the public function finds them


def _epsilon(x: Array, eps: Any) -> Any:
    """`eps`, or for None the machine epsilon of the dtype that computes."""
    return float(jnp.finfo(wider(x)).eps) if eps is None else eps


def _scale(weight: Array, offset: float, axes: Axes, ndim: int) -> Array:
    """What x̂ is multiplied with, to be broadcast with x."""
    weight = lifted(wide(weight), axes, ndim)
    return offset + weight if offset else weight


def fwd(x: Array, weight: Array | None, axis: int | Axes, offset: float, eps: Number | None) -> tuple[Array, Residuals]:
    axes = normalized_axes(x.ndim, axis, weight)
    rstd = jax.lax.rsqrt(jnp.mean(jnp.square(wide(x)), axis=axes, keepdims=True) + _epsilon(x, eps))
    rstd = checkpoint_name(rstd, "rms_norm.rstd")
    y = wide(x) * rstd
    if weight is not None:
        y = y * _scale(weight, offset, axes, x.ndim)
    return to_dtype(y, x.dtype), Residuals(x, weight, rstd)


def bwd(axis: int | Axes, offset: float, eps: Number, residuals: Residuals, g: Array) -> tuple[Array, Array | None]:
    x, weight, rstd = residuals
    axes = normalized_axes(g.ndim, axis, weight)
    x_hat = wide(x) * rstd
    g_hat = wide(g) if weight is None else wide(g) * _scale(weight, offset, axes, x.ndim)
    dx = match(rstd * (g_hat - x_hat * jnp.mean(g_hat * x_hat, axis=axes, keepdims=True)), x)
    dweight = None if weight is None else match(sum_to(wide(g) * x_hat, axes), weight)
    return dx, dweight


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _rms_norm(x: Array, weight: Array | None, traced: Array | None, axes: Axes, offset: float, eps: float) -> Array:
    return fwd(x, weight, axes, offset, joined(traced, eps))[0]


_rms_norm.defvjp(
    lambda x, weight, traced, axes, offset, eps: fwd(x, weight, axes, offset, joined(traced, eps)),
    lambda axes, offset, eps, residuals, g: (*bwd(axes, offset, eps, residuals, g), None),
)


def rms_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: int = -1,
    offset: float = 0.0,
    eps: ArrayLike | None = 1e-6,
) -> Array:
    """y = x·rstd·(offset + weight) with rstd = 1/√(mean(x²) + eps), over the last axis.

    Over several axes, the last ones, where the weight has as many; or over another one, `axis`.

    Args:
        x: (..., d) floating.
        weight: (d,) floating, or None for a factor of 1. With the shape of the last axes of x these are normalized
            together.
        axis: the axis that is normalized, d long; -1 where the weight has several axes. An int.
        offset: added to the weight; a Python number. With 1 a weight of zeros is no factor, as in Gemma.
        eps: added to the mean square; a number, which may be traced: a constant to the derivative.
            None is the machine epsilon of the dtype that computes, as in `torch.nn.functional.rms_norm`.

    Returns:
        (..., d), of x's dtype; computed in float32 if that is narrower.

    Saves:
        x: (..., d), an input, no new bytes.
        weight: (d,), an input, no new bytes.
        rstd: (..., 1), new, 4 bytes a row (8 in float64): without it the backward would reduce x² again.
            Of length 1 are the axes that are normalized.

    Raises:
        TypeError: x or weight is not floating, axis is not an int, or offset or eps is not a number.
        ValueError: x has no axis, or not this one; weight is not (d,), or not of the last axes of x; there is an offset
            but no weight; offset or eps is negative.

    Source:
        Zhang & Sennrich, "Root Mean Square Layer Normalization" (2019), equation 4.
    """
    x = floating("x", x)
    weight = None if weight is None else floating("weight", weight)
    axes, added = checked_axes(x, axis, weight=weight), nonnegative("offset", offset)
    if not isinstance(added, float):
        raise TypeError(f"offset: expected a Python number, got a tracer, {described(added)}")
    if added and weight is None:
        raise ValueError(f"offset: expected 0 without a weight, got {added}")
    traced, eps = apart(nonnegative("eps", _epsilon(x, eps), dtype=wider(x)))
    return _rms_norm(x, weight, traced, axes, added, eps)

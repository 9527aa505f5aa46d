"""Root-mean-square normalization over the last axis: y = x·rstd·weight, rstd = 1/√(mean(x²) + eps)."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from residuals_jax._lib.checks import Number, apart, floating, joined, nonnegative
from residuals_jax._lib.cotangents import match, to_rank
from residuals_jax._lib.dtypes import to_dtype, wide, wider


class Residuals(NamedTuple):
    x: Array  # (..., d)  input: rebuilds x̂ = x·rstd
    weight: Array | None  # (d,)  input: scales the cotangent
    rstd: Array  # (..., 1)  new, float32 or wider: saved so that the backward reduces no x² again


RECOMPUTES: dict[str, str] = {}


def _epsilon(x: Array, eps: Any) -> Any:
    """`eps`, or for None the machine epsilon of the dtype that computes."""
    return float(jnp.finfo(wider(x)).eps) if eps is None else eps


def fwd(x: Array, weight: Array | None, eps: Number | None) -> tuple[Array, Residuals]:
    rstd = jax.lax.rsqrt(jnp.mean(jnp.square(wide(x)), axis=-1, keepdims=True) + _epsilon(x, eps))
    y = wide(x) * rstd
    if weight is not None:
        y = y * to_rank(wide(weight), x.ndim)
    return to_dtype(y, x.dtype), Residuals(x, weight, rstd)


def bwd(eps: Number, residuals: Residuals, g: Array) -> tuple[Array, Array | None]:
    x, weight, rstd = residuals
    x_hat = wide(x) * rstd
    g_hat = wide(g) if weight is None else wide(g) * to_rank(wide(weight), x.ndim)
    dx = match(rstd * (g_hat - x_hat * jnp.mean(g_hat * x_hat, axis=-1, keepdims=True)), x)
    dweight = None if weight is None else match(wide(g) * x_hat, weight)
    return dx, dweight


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _rms_norm(x: Array, weight: Array | None, traced: Array | None, eps: float) -> Array:
    return fwd(x, weight, joined(traced, eps))[0]


_rms_norm.defvjp(
    lambda x, weight, traced, eps: fwd(x, weight, joined(traced, eps)),
    lambda eps, residuals, g: (*bwd(eps, residuals, g), None),
)


def rms_norm(x: ArrayLike, weight: ArrayLike | None = None, *, eps: ArrayLike | None = 1e-6) -> Array:
    """y = x·rstd·weight with rstd = 1/√(mean(x²) + eps), over the last axis.

    Args:
        x: (..., d) floating.
        weight: (d,) floating, or None for 1.
        eps: added to the mean square; a number, which may be traced: a constant to the derivative.
            None is the machine epsilon of the dtype that computes, as in `torch.nn.functional.rms_norm`.

    Returns:
        (..., d), of x's dtype; computed in float32 if that is narrower.

    Saves:
        x: (..., d), an input, no new bytes.
        weight: (d,), an input, no new bytes.
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
    return _rms_norm(x, weight, *apart(nonnegative("eps", _epsilon(x, eps))))

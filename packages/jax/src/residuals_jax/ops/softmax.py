"""Softmax along one axis: y = exp x / Σ exp x, and dx = y·(g − Σ g·y)."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from residuals_jax._lib.checks import floating, floating_dtype, integer
from residuals_jax._lib.cotangents import match
from residuals_jax._lib.dtypes import to_dtype, wide


class Residuals(NamedTuple):
    y: Array  # (...)  output: all that the gradient needs, so x may go


RECOMPUTES: dict[str, str] = {}


def fwd(x: Array, axis: int) -> tuple[Array, Residuals]:
    rows = wide(x)
    # Any shift gives the same y, so the maximum is a constant to the derivative. That of an empty axis is `initial`.
    rows = rows - jax.lax.stop_gradient(jnp.max(rows, axis=axis, keepdims=True, initial=-jnp.inf))
    e = jnp.exp(rows)
    y = to_dtype(e / jnp.sum(e, axis=axis, keepdims=True), x.dtype)
    return y, Residuals(y)


def bwd(axis: int, residuals: Residuals, g: Array) -> tuple[Array]:
    y, g = wide(residuals.y), wide(g)
    dot = jnp.sum(g * y, axis=axis, keepdims=True)
    is_narrow = residuals.y.dtype != y.dtype
    if is_narrow:
        # y is rounded, and no longer adds up to 1; where one entry is nearly 1, g − Σ g·y would be all rounding.
        g = g * jnp.sum(y, axis=axis, keepdims=True)
    return (match(y * (g - dot), residuals.y),)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _softmax(x: Array, axis: int) -> Array:
    return fwd(x, axis)[0]


_softmax.defvjp(fwd, bwd)


def softmax(x: ArrayLike, *, axis: int = -1, dtype: DTypeLike | None = None) -> Array:
    """y = exp x / Σ exp x along one axis, with dx = y·(g − Σ g·y).

    Args:
        x: (...) floating. An entry of −∞ gives 0; a row that is −∞ throughout gives NaN, as in `jax.nn.softmax`.
        axis: the axis to sum along, from -x.ndim to x.ndim - 1; a Python int, not a tracer.
        dtype: floating, to which x is converted first; None for x's.

    Returns:
        (...), of this dtype; computed in float32 if that is narrower.

    Saves:
        y: (...), the output, of this dtype; no new bytes where the next operation saves its input anyway.

    Raises:
        TypeError: x or dtype is not floating, or axis is not an int.
        ValueError: x has no such axis. A scalar has none, as in `jax.nn.softmax`; PyTorch takes one for a row of 1.

    Source:
        Bridle, "Probabilistic Interpretation of Feedforward Classification Network Outputs" (1990), equation 4.
    """
    x = floating("x", x)
    if dtype is not None:
        x = to_dtype(x, floating_dtype("dtype", dtype))
    axis = integer("axis", axis)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis: expected one of the {x.ndim} axes of x, got {axis}")
    return _softmax(x, axis)

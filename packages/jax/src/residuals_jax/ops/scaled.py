"""The mini-example: y = x·scale with broadcasting; dx = g·scale and dscale = g·x, each summed to its primal's shape."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from residuals_jax._lib.checks import floating
from residuals_jax._lib.cotangents import match
from residuals_jax._lib.dtypes import to_dtype, wide


class Residuals(NamedTuple):
    x: Array  # (...)  input: scale's cotangent is g·x
    scale: Array  # (...)  input: x's cotangent is g·scale


RECOMPUTES: dict[str, str] = {}


def fwd(x: Array, scale: Array) -> tuple[Array, Residuals]:
    return to_dtype(wide(x) * wide(scale), jnp.result_type(x, scale)), Residuals(x, scale)


def bwd(residuals: Residuals, g: Array) -> tuple[Array, Array]:
    x, scale = residuals
    g = wide(g)
    return match(g * wide(scale), x), match(g * wide(x), scale)


@jax.custom_vjp
def _scaled(x: Array, scale: Array) -> Array:
    return fwd(x, scale)[0]


_scaled.defvjp(fwd, bwd)


def _floating_scale(scale: ArrayLike) -> ArrayLike:
    """A Python integer, which a jit makes a weak one of no axes, as a floating number; anything else as it is."""
    is_weak = isinstance(scale, int | Array) and jax.typeof(scale).weak_type
    return scale * 1.0 if is_weak and jnp.issubdtype(jax.typeof(scale).dtype, jnp.integer) else scale


def scaled(x: ArrayLike, scale: ArrayLike) -> Array:
    """y = x·scale, with dx = g·scale and dscale = g·x.

    Args:
        x: (...) floating.
        scale: (...) floating, of any shape that broadcasts with x; a Python number counts as a scalar that takes x's
            dtype, yet is not rounded to it.

    Returns:
        The product, in the shape to which both broadcast and the dtype to which both promote; computed in float32 if
        that is narrower.

    Saves:
        x: (...), an input, no new bytes.
        scale: (...), an input, no new bytes.

    Raises:
        TypeError: x or scale is not floating.
        ValueError: their shapes do not broadcast.

    Source:
        The mini-example of saved residuals, which usually forgets that a broadcast argument's gradient is a sum.
    """
    x, scale = floating("x", x), floating("scale", _floating_scale(scale))
    try:
        jnp.broadcast_shapes(x.shape, scale.shape)
    except ValueError:
        raise ValueError(
            f"scale: expected a shape that broadcasts with x {list(x.shape)}, got {list(scale.shape)}"
        ) from None
    return _scaled(x, scale)

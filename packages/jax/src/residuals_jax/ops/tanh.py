"""Hyperbolic tangent: y = tanh x, and dx = g·(1 − y²)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from residuals_jax._lib.checks import floating
from residuals_jax._lib.cotangents import match
from residuals_jax._lib.dtypes import wide


class Residuals(NamedTuple):
    y: Array  # (...)  output: its own derivative is 1 − y², so x is not needed


RECOMPUTES: dict[str, str] = {}


def fwd(x: Array) -> tuple[Array, Residuals]:
    y = jnp.tanh(x)
    return y, Residuals(y)


def bwd(residuals: Residuals, g: Array) -> tuple[Array]:
    y, g = wide(residuals.y), wide(g)
    return (match(g * (1 - y * y), residuals.y),)


@jax.custom_vjp
def _tanh(x: Array) -> Array:
    return fwd(x)[0]


_tanh.defvjp(fwd, bwd)


def tanh(x: ArrayLike) -> Array:
    """y = tanh x, with dx = g·(1 − y²).

    Args:
        x: (...) floating, any shape.

    Returns:
        (...), of x's dtype.

    Saves:
        y: (...), the output, no bytes beside it.

    Raises:
        TypeError: x is not floating.

    Source:
        LeCun et al., "Efficient BackProp" (1998), section 4.4.
    """
    return _tanh(floating("x", x))

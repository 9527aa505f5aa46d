"""Logistic sigmoid: y = 1/(1 + e⁻ˣ), and dx = g·y·(1 − y)."""

from typing import NamedTuple

import jax
from jax import Array
from jax.typing import ArrayLike

from residuals_jax._lib.checks import floating
from residuals_jax._lib.cotangents import match
from residuals_jax._lib.dtypes import wide


class Residuals(NamedTuple):
    y: Array  # (...)  output: its own derivative is y·(1 − y), so x is not needed


RECOMPUTES: dict[str, str] = {}


def fwd(x: Array) -> tuple[Array, Residuals]:
    y = jax.nn.sigmoid(x)
    return y, Residuals(y)


def bwd(residuals: Residuals, g: Array) -> tuple[Array]:
    y, g = wide(residuals.y), wide(g)
    return (match(g * (y * (1 - y)), residuals.y),)


@jax.custom_vjp
def _sigmoid(x: Array) -> Array:
    return fwd(x)[0]


_sigmoid.defvjp(fwd, bwd)


def sigmoid(x: ArrayLike) -> Array:
    """y = 1/(1 + e⁻ˣ), with dx = g·y·(1 − y).

    Args:
        x: (...) floating, any shape.

    Returns:
        (...), of x's dtype.

    Saves:
        y: (...), the output, no bytes beside it.

    Raises:
        TypeError: x is not floating.

    Source:
        Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors" (1986).
    """
    return _sigmoid(floating("x", x))

"""Sigmoid linear unit: y = x·σ(x), and dx = g·(σ + x·σ·(1 − σ))."""

from typing import NamedTuple

import jax
from jax import Array
from jax.typing import ArrayLike

from residuals_jax._lib.barriers import barrier
from residuals_jax._lib.checks import floating
from residuals_jax._lib.cotangents import match
from residuals_jax._lib.dtypes import to_dtype, wide


class Residuals(NamedTuple):
    x: Array  # (...)  input: rebuilds the sigmoid


RECOMPUTES = {"sigmoid": "one exponential an element, where an array of it would be as large as x"}


def fwd(x: Array) -> tuple[Array, Residuals]:
    return to_dtype(wide(x) * jax.nn.sigmoid(wide(x)), x.dtype), Residuals(x)


def bwd(residuals: Residuals, g: Array) -> tuple[Array]:
    x, g = wide(barrier(residuals.x)), wide(g)
    s = jax.nn.sigmoid(x)
    return (match(g * (s * (1 + x * (1 - s))), residuals.x),)


@jax.custom_vjp
def _silu(x: Array) -> Array:
    return fwd(x)[0]


_silu.defvjp(fwd, bwd)


def silu(x: ArrayLike) -> Array:
    """y = x·σ(x) with σ(x) = 1/(1 + e⁻ˣ), and dx = g·(σ + x·σ·(1 − σ)).

    Args:
        x: (...) floating, any shape.

    Returns:
        (...), of x's dtype; computed in float32 if that is narrower.

    Saves:
        x: (...), an input, no new bytes. The backward computes σ(x) again.

    Raises:
        TypeError: x is not floating.

    Source:
        Elfwing, Uchibe & Doya, "Sigmoid-Weighted Linear Units" (2017), equations 5 and 6.
    """
    return _silu(floating("x", x))

"""Gaussian error linear unit: y = x·Φ(x), and dx = g·(Φ + x·Φ′); Φ is exact, or a tanh approximates it."""

from functools import partial
from typing import NamedTuple

import jax
from jax import Array
from jax.typing import ArrayLike

from residuals_jax._lib.barriers import barrier
from residuals_jax._lib.checks import floating
from residuals_jax._lib.cotangents import match
from residuals_jax._lib.dtypes import to_dtype, wide
from residuals_jax._lib.gelu import cdf, form, slope


class Residuals(NamedTuple):
    x: Array  # (...)  input: rebuilds Φ and gives Φ′


# One of the two, which depends on the form.
RECOMPUTES = {
    "erfc": "in the exact form: a polynomial an element, where an array of it would be as large as x",
    "tanh": "in the tanh form: one exponential an element, where an array of it would be as large as x",
}


def fwd(x: Array, approximate: str) -> tuple[Array, Residuals]:
    return to_dtype(wide(x) * cdf(wide(x), approximate), x.dtype), Residuals(x)


def bwd(approximate: str, residuals: Residuals, g: Array) -> tuple[Array]:
    x, g = wide(barrier(residuals.x)), wide(g)
    phi = cdf(x, approximate)
    return (match(g * (phi + x * slope(x, phi, approximate)), residuals.x),)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gelu(x: Array, approximate: str) -> Array:
    return fwd(x, approximate)[0]


_gelu.defvjp(fwd, bwd)


def gelu(x: ArrayLike, *, approximate: str = "none") -> Array:
    """y = x·Φ(x), with dx = g·(Φ + x·Φ′) and Φ the normal distribution function.

    The two forms differ by up to 0.0005 in y. The default is the exact one, as in PyTorch; that of `jax.nn.gelu` is the
    tanh form.

    Args:
        x: (...) floating, any shape.
        approximate: "none", or "tanh" for Φ(x) ≈ ½·(1 + tanh(√(2/π)·(x + 0.044715·x³))); forward and backward
            are of the same form.

    Returns:
        (...), of x's dtype; computed in float32 if that is narrower.

    Saves:
        x: (...), an input, no new bytes. The backward computes the erfc or tanh again.

    Raises:
        TypeError: x is not floating.
        ValueError: approximate is neither "none" nor "tanh".

    Source:
        Hendrycks & Gimpel, "Gaussian Error Linear Units" (2016), section 2.
    """
    x, approximate = floating("x", x), form("approximate", approximate)
    return _gelu(x, approximate)

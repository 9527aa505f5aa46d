"""The normal distribution function Φ of a Gaussian error gate, exact or by a tanh."""

import math

import jax
import jax.numpy as jnp
from jax import Array

FORMS = ("none", "tanh")
C = math.sqrt(2 / math.pi)
CUBIC = 0.044715


def cdf(x: Array, approximate: str) -> Array:
    """Φ(x)."""
    if approximate == "tanh":
        return 0.5 * (1 + jnp.tanh(C * (x + CUBIC * x * x * x)))
    return 0.5 * jax.lax.erfc(x * -math.sqrt(0.5))  # 1 + erf cancels where x is far to the left


def slope(x: Array, phi: Array, approximate: str) -> Array:
    """Φ′(x), given Φ(x): the normal density, or in the tanh form 2·Φ·(1 − Φ)·u′ with u the argument of the tanh."""
    if approximate == "tanh":
        return 2 * phi * (1 - phi) * (C * (1 + 3 * CUBIC * x * x))
    return jnp.exp(-0.5 * x * x) * math.sqrt(0.5 / math.pi)


def form(name: str, approximate: str) -> str:
    """`approximate` itself; ValueError unless it names one of the two forms."""
    if approximate not in FORMS:
        raise ValueError(f'{name}: expected "none" or "tanh", got {approximate!r}')
    return approximate

"""Rectified linear unit: y = x where x > 0, else 0; dx = g where y > 0, else 0, so that relu′(0) = 0."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from residuals_jax._lib.checks import floating
from residuals_jax._lib.cotangents import match


class Residuals(NamedTuple):
    y: Array  # (...)  output: 0 where x was dead; the next layer holds it anyway


RECOMPUTES: dict[str, str] = {}


def fwd(x: Array) -> tuple[Array, Residuals]:
    y = jnp.maximum(x, 0)  # keeps a NaN
    return y, Residuals(y)


def bwd(residuals: Residuals, g: Array) -> tuple[Array]:
    (y,) = residuals
    # Not `jnp.where`, which forgets along which mesh axes an empty array varies.
    return (match(jax.lax.select(y <= 0, jnp.zeros_like(g), g), y),)


@jax.custom_vjp
def _relu(x: Array) -> Array:
    return fwd(x)[0]


_relu.defvjp(fwd, bwd)


def relu(x: ArrayLike) -> Array:
    """y = x where x > 0, else 0, with dx = g where y > 0, else 0.

    At 0 the derivative is 0. At NaN the value is NaN and dx = g, as `torch.relu` has it; `jax.nn.relu` gives 0 there.

    Args:
        x: (...) floating, any shape.

    Returns:
        (...), of x's dtype.

    Saves:
        y: (...), the output, no bytes beside it. Alone it is more than `relu_bits` saves; before a layer that saves its
            input it costs nothing.

    Raises:
        TypeError: x is not floating.

    Source:
        Nair & Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines" (2010).
    """
    return _relu(floating("x", x))

"""Rectified linear unit that saves a bit an element: y = x where x > 0, else 0; dx = g where the bit is set, else 0."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from residuals_jax._lib.bits import pack_bits, unpack_bits
from residuals_jax._lib.checks import floating


class Residuals(NamedTuple):
    mask: Array  # (..., ⌈n/8⌉)  new, uint8: bit i of byte j says whether element 8j + i of the last axis is alive


RECOMPUTES: dict[str, str] = {}


def fwd(x: Array) -> tuple[Array, Residuals]:
    return jnp.maximum(x, 0), Residuals(pack_bits(~(x <= 0)))  # a NaN stays, and counts as alive


def bwd(residuals: Residuals, g: Array) -> tuple[Array]:
    (mask,) = residuals
    # Not `jnp.where`, which forgets along which mesh axes an empty array varies.
    return (jax.lax.select(unpack_bits(mask, g.shape), g, jnp.zeros_like(g)),)


@jax.custom_vjp
def _relu_bits(x: Array) -> Array:
    return fwd(x)[0]


_relu_bits.defvjp(fwd, bwd)


def relu_bits(x: ArrayLike) -> Array:
    """y = x where x > 0, else 0, with dx = g where the saved bit is set, else 0.

    Values and gradients are those of `relu`, at 0 and NaN too: dx = 0 at 0, and dx = g at NaN, where `jax.nn.relu`
    gives 0. On an Explicit mesh a sharded last axis should be a multiple of 8 on every device.

    Args:
        x: (..., n) floating, any shape; a scalar counts as n = 1.

    Returns:
        (..., n), of x's dtype.

    Saves:
        mask: (..., ⌈n/8⌉), new, uint8, about 1/32 of the bytes of a float32 x. It pays where nothing else holds y;
            before a layer that saves its input, `relu` adds nothing and this adds its bits.

    Raises:
        TypeError: x is not floating.

    Source:
        Jain et al., "Gist: Efficient Data Encoding for Deep Neural Network Training" (2018), section 4.1.
    """
    return _relu_bits(floating("x", x))

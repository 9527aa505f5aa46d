"""Booleans as bits, eight in a byte."""

import jax.numpy as jnp
from jax import Array

from residuals_jax._lib.cotangents import to_rank


def pack_bits(a: Array) -> Array:
    """(..., n) booleans as (..., ⌈n/8⌉) bytes, the first in the lowest bit; a scalar counts as n = 1.

    As `jnp.packbits`, but the reshape splits one axis in two, which an Explicit sharding can follow.
    """
    bits = a.reshape(a.shape or (1,)).astype(jnp.uint8)
    *lead, n = bits.shape
    if n == 0:  # Explicit shardings cannot split an empty axis
        return bits
    bits = jnp.pad(bits, [(0, 0)] * len(lead) + [(0, -n % 8)]).reshape(*lead, (n + 7) // 8, 8)
    return jnp.sum(bits << to_rank(jnp.arange(8, dtype=jnp.uint8), bits.ndim), axis=-1, dtype=jnp.uint8)


def unpack_bits(packed: Array, shape: tuple[int, ...]) -> Array:
    """The booleans of this shape that `pack_bits` packed; `jnp.unpackbits` would raise where an axis is empty."""
    *lead, m = packed.shape
    if m == 0:
        return packed.astype(bool)
    bits = (packed[..., None] >> to_rank(jnp.arange(8, dtype=jnp.uint8), packed.ndim + 1)) & 1
    return bits.astype(bool).reshape(*lead, 8 * m)[..., : shape[-1] if shape else 1].reshape(shape)

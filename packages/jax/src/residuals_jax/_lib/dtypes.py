"""The dtype in which an op computes."""

import jax.numpy as jnp
from jax import Array


def wide(a: Array) -> Array:
    """`a` in float32 if it is narrower, so that statistics and sums accumulate there."""
    return a.astype(jnp.float32) if a.dtype.itemsize < 4 else a

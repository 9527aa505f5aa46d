"""The dtype in which an op computes, and that of its result."""

from typing import Any

import jax.numpy as jnp
from jax import Array


def to_dtype(a: Array, dtype: Any) -> Array:
    """`a` in this dtype, itself where that is its own: a cast without a change would make a weak type strong."""
    return a if a.dtype == dtype else a.astype(dtype)


def wider(a: Array) -> Any:
    """The dtype that `wide` gives."""
    return jnp.float32 if a.dtype.itemsize < 4 else a.dtype


def wide(a: Array) -> Array:
    """`a` in float32 if it is narrower, so that statistics and sums accumulate there."""
    return to_dtype(a, wider(a))

"""Which elements dropout keeps, and what becomes of them."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from residuals_jax._lib.checks import described
from residuals_jax._lib.dtypes import to_dtype, wide


def two_words(name: str, key: Any) -> Array:
    """The two uint32 of a key, given as such or made by `jax.random.key`; TypeError for anything else."""
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if jax.random.key_impl(key) != "threefry2x32":
            raise TypeError(f"{name}: expected a threefry2x32 key, got {jax.random.key_impl(key)}")
        key = jax.random.key_data(key)
    if not hasattr(key, "dtype") or key.dtype != "uint32" or key.shape != (2,):
        raise TypeError(f"{name}: expected two uint32 or a jax.random.key, got {described(key)}")
    return key if isinstance(key, Array) else jnp.asarray(key)


def keep_mask(key: Array | None, shape: tuple[int, ...], rate: float) -> Array | None:
    """Which elements dropout keeps: those whose uniform number in [0, 1) is below 1 - rate, both in float32.

    None at the rates 0 and 1, where there is nothing to draw.
    """
    if key is None or rate in (0.0, 1.0):
        return None
    return jax.random.uniform(jax.random.wrap_key_data(key, impl="threefry2x32"), shape, "float32") < 1 - rate


def drop(a: Array, mask: Array | None, rate: float) -> Array:
    """`a` / (1 - rate) where the mask keeps it, 0 elsewhere even where `a` is infinite or NaN."""
    if mask is None:
        return a if rate == 0.0 else jnp.where(False, a, 0)
    return to_dtype(jnp.where(mask, wide(a) * (1 / (1 - rate)), 0), a.dtype)

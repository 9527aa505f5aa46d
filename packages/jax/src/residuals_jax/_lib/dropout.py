"""Which elements dropout keeps, and what becomes of them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from residuals_jax._lib.checks import Number, described
from residuals_jax._lib.dtypes import to_dtype, wide


def axes(name: str, broadcast: Sequence[int], ndim: int) -> tuple[int, ...]:
    """`broadcast` as a tuple; TypeError unless it is a tuple or list of ints, ValueError unless x has these axes."""
    if not isinstance(broadcast, tuple | list) or any(isinstance(i, bool) or not isinstance(i, int) for i in broadcast):
        raise TypeError(f"{name}: expected a tuple of ints, got {broadcast!r}")
    if any(not -ndim <= i < ndim for i in broadcast):
        raise ValueError(f"{name}: expected some of the {ndim} axes of x, got {broadcast}")
    return tuple(broadcast)


def draws(rate: Number) -> bool:
    """Whether there is something to draw: not at the rates 0 and 1; a traced rate may be any."""
    return isinstance(rate, Array) or 0 < rate < 1


def drawing_key(name: str, key: Any, rate: Number) -> Array | None:
    """The two uint32 of a threefry2x32 key, given as such or made by `jax.random.key`; a key of another kind as it is.

    TypeError for anything else, but for None at the rates 0 and 1, where there is nothing to draw.
    """
    if key is None and not draws(rate):
        return None
    is_longer = getattr(key, "dtype", None) == "uint32" and key.shape == (4,)
    if is_longer and jax.eval_shape(jax.random.PRNGKey, 0).shape == (4,):  # by default keys are of another kind
        key = jax.random.wrap_key_data(key)
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
        return jax.random.key_data(key) if jax.random.key_impl(key) == "threefry2x32" else key
    if not hasattr(key, "dtype") or key.dtype != "uint32" or key.shape != (2,):
        raise TypeError(f"{name}: expected two uint32 or a jax.random.key, got {described(key)}")
    return key if isinstance(key, Array) else jnp.asarray(key)


def drawn_shape(shape: tuple[int, ...], broadcast: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the mask for an array of `shape`: 1 along the axes that share one draw."""
    shared = [axis % len(shape) for axis in broadcast]
    return tuple(min(n, 1) if i in shared else n for i, n in enumerate(shape))


def keep_mask(key: Array | None, shape: tuple[int, ...], rate: Number) -> Array | None:
    """Which elements dropout keeps: those whose uniform number in [0, 1) is below 1 - rate, both in float32.

    None at the rates 0 and 1, where there is nothing to draw.
    """
    if key is None or not draws(rate):
        return None
    if key.dtype == "uint32":
        key = jax.random.wrap_key_data(key, impl="threefry2x32")
    kept = (1 - rate).astype("float32") if isinstance(rate, Array) else 1 - rate
    return jax.random.uniform(key, shape, "float32") < kept


def drop(a: Array, mask: Array | None, rate: Number) -> Array:
    """`a` / (1 - rate) where the mask keeps it, 0 elsewhere even where `a` is infinite or NaN."""
    if mask is None:
        return a if rate == 0.0 else jnp.where(False, a, 0)
    share = jnp.where(rate < 1, 1 - rate, 1) if isinstance(rate, Array) else 1 - rate  # kept; all are dropped at 1
    return to_dtype(jnp.where(mask, wide(a) * (1 / share), 0), a.dtype)

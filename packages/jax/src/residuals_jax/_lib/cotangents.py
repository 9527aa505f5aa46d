"""Cotangents: what the gradient of an input has to look like, and how a cotangent is made to."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from residuals_jax._lib.dtypes import to_dtype

Like = jax.ShapeDtypeStruct  # describes an array that is not saved

# What the gradient of each input has to look like; None for an input that is absent. A `bwd` that is called by hand,
# without `like`, makes every gradient.
Likes = tuple[Any, ...]


def likes(*inputs: Array | Like | None) -> Likes:
    """What the gradient of each input has to look like: static, so that a rule knows it without saving the input."""
    return tuple(None if a is None else jax.typeof(a) for a in inputs)


def match(cotangent: Array, primal: Any) -> Array:
    """The cotangent as its primal, an array or its type, needs it: of the same shape, dtype, varying axes and sharding.

    The cotangent is summed over an axis along which the primal was broadcast. Under `shard_map` the cotangent of a
    replicated primal is one device's share, and the shares are summed. `custom_vjp` would take another dtype without a
    word. Under Explicit mesh axes the sharding is part of the type.
    """
    # A NumPy array that is differentiated arrives as an array type of JAX's own that is no `jax.Array`.
    kind = primal if isinstance(primal, jax.core.ShapedArray) else jax.typeof(primal)
    cotangent = sum_to(cotangent, primal.shape)
    shares = _varying(jax.typeof(cotangent)) - _varying(kind)
    if shares:
        cotangent = jax.lax.psum(cotangent, tuple(sorted(shares)))
    cotangent = to_dtype(cotangent, primal.dtype)
    made_on_a_mesh = not kind.sharding.mesh.empty  # a parameter that was made before the mesh has no sharding
    if made_on_a_mesh and jax.typeof(cotangent).sharding != kind.sharding:
        cotangent = jax.sharding.reshard(cotangent, kind.sharding)
    return cotangent


def to_rank(a: Array, ndim: int) -> Array:
    """`a` with leading axes of size 1, to have `ndim`: `jax_numpy_rank_promotion` may forbid to leave them out."""
    return jnp.expand_dims(a, tuple(range(ndim - a.ndim)))


def sum_to(a: Array, shape: tuple[int, ...]) -> Array:
    """`a` summed over the axes along which an array of `shape` was broadcast to it."""
    lead = tuple(range(a.ndim - len(shape)))
    stretched = tuple(i + len(lead) for i, n in enumerate(shape) if n == 1)
    return a.sum(axis=lead + stretched, keepdims=True).squeeze(lead) if lead + stretched else a


def _varying(array_type: Any) -> frozenset[str]:
    """The manual mesh axes along which an array differs from device to device."""
    manual = getattr(array_type, "manual_axis_type", None)  # JAX 0.10.1 and later; `vma` before
    return frozenset(array_type.vma if manual is None else manual.varying)

"""Functions of arrays that several ops need; nothing here knows about an op."""

from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def floating(name: str, a: ArrayLike) -> Array:
    """`a` as an array; TypeError unless it is a real floating one of 16 bits or more (float8 has no arithmetic)."""
    if isinstance(a, type) or not (isinstance(a, float) or hasattr(a, "__array__")):
        raise TypeError(f"{name}: expected a floating array, got {type(a).__name__}")
    a = jnp.asarray(a)
    if not jnp.issubdtype(a.dtype, jnp.floating) or a.dtype.itemsize < 2:
        raise TypeError(f"{name}: expected a floating array, got {a.dtype}{list(a.shape)}")
    return a


def nonnegative(name: str, value: float) -> float:
    """`value` as a float that is the same in every trace; TypeError unless it is a number, ValueError if it is < 0."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a Python number, got {type(value).__name__}")
    if not value >= 0:
        raise ValueError(f"{name}: expected a number >= 0, got {value}")
    return float(value)


def wide(a: Array) -> Array:
    """`a` in float32 if it is narrower, so that statistics and sums accumulate there."""
    return a.astype(jnp.float32) if a.dtype.itemsize < 4 else a


def match(cotangent: Array, primal: Array) -> Array:
    """The cotangent as its primal needs it: of the same shape, dtype, varying axes and sharding.

    An axis along which the primal was broadcast is summed. Under `shard_map` the cotangent of a replicated primal is
    one device's share, and the shares are summed. `custom_vjp` would take another dtype without a word. Under Explicit
    mesh axes the sharding is part of the type.
    """
    kind = jax.typeof(primal)
    cotangent = _sum_to(cotangent, primal.shape)
    shares = _varying(jax.typeof(cotangent)) - _varying(kind)
    if shares:
        cotangent = jax.lax.psum(cotangent, tuple(sorted(shares)))
    cotangent = cotangent.astype(primal.dtype)
    if jax.typeof(cotangent).sharding != kind.sharding:
        cotangent = jax.sharding.reshard(cotangent, kind.sharding)
    return cotangent


def pack_bits(a: Array) -> Array:
    """(..., n) booleans as (..., ⌈n/8⌉) bytes, the first in the lowest bit; a scalar counts as n = 1.

    It is `jnp.packbits` that splits one axis in two, which an Explicit sharding can follow.
    """
    bits = a.reshape(a.shape or (1,)).astype(jnp.uint8)
    *lead, n = bits.shape
    if n == 0:  # an axis that Explicit shardings cannot split
        return bits
    bits = jnp.pad(bits, [(0, 0)] * len(lead) + [(0, -n % 8)]).reshape(*lead, (n + 7) // 8, 8)
    return jnp.sum(bits << jnp.arange(8, dtype=jnp.uint8), axis=-1, dtype=jnp.uint8)


def unpack_bits(packed: Array, shape: tuple[int, ...]) -> Array:
    """The booleans of this shape that `pack_bits` packed; `jnp.unpackbits` raises where an axis is empty."""
    *lead, m = packed.shape
    if m == 0:
        return packed.astype(bool)
    bits = (packed[..., None] >> jnp.arange(8, dtype=jnp.uint8)) & 1
    return bits.astype(bool).reshape(*lead, 8 * m)[..., : shape[-1] if shape else 1].reshape(shape)


def _sum_to(a: Array, shape: tuple[int, ...]) -> Array:
    lead = tuple(range(a.ndim - len(shape)))
    stretched = tuple(i + len(lead) for i, n in enumerate(shape) if n == 1)
    return a.sum(axis=lead + stretched, keepdims=True).squeeze(lead) if lead + stretched else a


def _varying(array_type: Any) -> frozenset[str]:
    """The manual mesh axes along which an array differs from device to device."""
    manual = getattr(array_type, "manual_axis_type", None)  # JAX 0.10.1 and later; `vma` before
    return frozenset(array_type.vma if manual is None else manual.varying)

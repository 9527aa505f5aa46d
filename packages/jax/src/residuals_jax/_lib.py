"""Functions of arrays that several ops need; nothing here knows about an op."""

from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def floating(name: str, a: ArrayLike) -> Array:
    """`a` as an array; TypeError unless it is a real floating one."""
    if not isinstance(a, (jax.Array, float)) and not hasattr(a, "dtype"):
        raise TypeError(f"{name}: expected a floating array, got {type(a).__name__}")
    a = jnp.asarray(a)
    if not jnp.issubdtype(a.dtype, jnp.floating):
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


Types = tuple[Any, ...]  # one for each input, None where it is absent


def types(*inputs: Array | jax.ShapeDtypeStruct | None) -> Types:
    """What the gradient of each of `inputs` has to look like: static, so a rule may know it without saving them."""
    return tuple(None if a is None else jax.typeof(a) for a in inputs)


def match(cotangent: Array, primal: Any) -> Array:
    """The cotangent as its primal, an array or its type, needs it: of the same shape, dtype, varying axes and sharding.

    An axis along which the primal was broadcast is summed. Under `shard_map` the cotangent of a replicated primal is
    one device's share, and the shares are summed. `custom_vjp` would take another dtype without a word. Under Explicit
    mesh axes the sharding is part of the type.
    """
    kind = jax.typeof(primal) if isinstance(primal, Array) else primal
    cotangent = _sum_to(cotangent, primal.shape)
    shares = _varying(jax.typeof(cotangent)) - _varying(kind)
    if shares:
        cotangent = jax.lax.psum(cotangent, tuple(sorted(shares)))
    cotangent = cotangent.astype(primal.dtype)
    if jax.typeof(cotangent).sharding != kind.sharding:
        cotangent = jax.sharding.reshard(cotangent, kind.sharding)
    return cotangent


def _sum_to(a: Array, shape: tuple[int, ...]) -> Array:
    lead = tuple(range(a.ndim - len(shape)))
    stretched = tuple(i + len(lead) for i, n in enumerate(shape) if n == 1)
    return a.sum(axis=lead + stretched, keepdims=True).squeeze(lead) if lead + stretched else a


def _varying(array_type: Any) -> frozenset[str]:
    """The manual mesh axes along which an array differs from device to device."""
    manual = getattr(array_type, "manual_axis_type", None)  # JAX 0.10.1 and later; `vma` before
    return frozenset(array_type.vma if manual is None else manual.varying)

"""Cotangents: what each has to look like, and how it gets so."""

from typing import Any

import jax
from jax import Array

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
    # A NumPy array that is differentiated comes as JAX's own kind of it, which is no `Array`.
    kind = primal if isinstance(primal, jax.core.ShapedArray) else jax.typeof(primal)
    cotangent = sum_to(cotangent, primal.shape)
    shares = _varying(jax.typeof(cotangent)) - _varying(kind)
    if shares:
        cotangent = jax.lax.psum(cotangent, tuple(sorted(shares)))
    cotangent = cotangent.astype(primal.dtype)
    made_on_a_mesh = not kind.sharding.mesh.empty  # and not before, as a parameter may be: then it has no sharding
    if made_on_a_mesh and jax.typeof(cotangent).sharding != kind.sharding:
        cotangent = jax.sharding.reshard(cotangent, kind.sharding)
    return cotangent


def sum_to(a: Array, shape: tuple[int, ...]) -> Array:
    lead = tuple(range(a.ndim - len(shape)))
    stretched = tuple(i + len(lead) for i, n in enumerate(shape) if n == 1)
    return a.sum(axis=lead + stretched, keepdims=True).squeeze(lead) if lead + stretched else a


def _varying(array_type: Any) -> frozenset[str]:
    """The manual mesh axes along which an array differs from device to device."""
    manual = getattr(array_type, "manual_axis_type", None)  # JAX 0.10.1 and later; `vma` before
    return frozenset(array_type.vma if manual is None else manual.varying)

"""Class labels, and what the two cross entropies make of a row of logits."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from residuals_jax._lib.checks import described


def class_labels(name: str, labels: Any, shape: tuple[int, ...], classes: int, ignore_index: int) -> Array:
    """`labels` as an array; TypeError unless integers, ValueError unless of this shape, each a class or ignored.

    The values are checked only where the host can read them: not in a trace, nor where other processes hold a part.
    """
    try:
        given = labels if hasattr(labels, "dtype") else jnp.asarray(labels)
    except (TypeError, ValueError, OverflowError) as problem:
        raise TypeError(f"{name}: expected an integer array, got {labels!r:.60}") from problem
    if not jnp.issubdtype(given.dtype, jnp.integer):
        raise TypeError(f"{name}: expected an integer array, got {described(given)}")
    if given.shape != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, one label a row, got {list(given.shape)}")
    if not isinstance(given, jax.core.Tracer) and getattr(given, "is_fully_addressable", True):
        values = jax.device_get(given)
        wrong = values[((values < 0) | (values >= classes)) & (values != ignore_index)]
        if wrong.size:
            expected = f"classes from 0 to {classes - 1}, or {ignore_index} to ignore"
            raise ValueError(f"{name}: expected {expected}, got {wrong.flat[0]}")
    return given if isinstance(given, Array) else jnp.asarray(given)


def beside(labels: Array, rows: Array) -> Array:
    """`labels` sharded as the rows of a (..., d), which Explicit mesh axes ask of two arrays; itself if it is so."""
    kind = jax.typeof(rows).sharding
    if kind.mesh.empty:
        return labels
    # Labels that were made before the mesh have no sharding.
    spec, given = PartitionSpec(*kind.spec[:-1]), jax.typeof(labels).sharding
    is_so = given.spec == spec if not given.mesh.empty else not any(spec)
    return labels if is_so else jax.sharding.reshard(labels, NamedSharding(kind.mesh, spec))


def at_class(index: Array, classes: int) -> Array:
    """(..., classes): True at each row's label."""
    each = jax.lax.broadcasted_iota(index.dtype, (1,) * index.ndim + (classes,), index.ndim)
    return each == index[..., None]


def signed(labels: Array) -> Array:
    """Labels in a dtype that has -100 and any number of classes; one too large for it becomes its largest, no class."""
    if jnp.issubdtype(labels.dtype, jnp.unsignedinteger):
        return jnp.minimum(labels, min(jnp.iinfo(labels.dtype).max, 2**31 - 1)).astype(jnp.int32)
    return labels.astype(jnp.int64 if labels.dtype.itemsize > 4 else jnp.int32)


def where_counted(a: Array, index: Array, classes: int, ignore_index: int) -> Array:
    """`a`, one number a row, where the row's `signed` label counts: 0 where it is ignored, NaN where it is no class."""
    is_class, is_counted = (index >= 0) & (index < classes), index != ignore_index
    # The array comes before the 0: for an empty batch `where` takes the mesh type of its first choice. A NaN is made
    # for what is no class alone, since `jax_debug_nans` raises for any, be it hidden later.
    return jnp.where(is_class | ~is_counted, jnp.where(is_counted, a, 0), jnp.nan)


def maximum_and_sum(a: Array) -> tuple[Array, Array]:
    """(...), (...): the maximum over the last axis, and Σ exp(a − maximum); it and log of the sum add to log Σ exp a.

    They are −∞ and 0 where the axis is empty, or −∞ throughout, as a chunk of a row may be.
    """
    # Any shift gives the same log Σ exp a, so the maximum is a constant to the derivative.
    maximum = jax.lax.stop_gradient(jnp.max(a, axis=-1, initial=-jnp.inf))
    return maximum, jnp.sum(jnp.exp(a - _finite(maximum)[..., None]), axis=-1)


def of_chunks(maxima: Array, sums: Array) -> tuple[Array, Array]:
    """(...), (...): the maximum and sum of whole rows, from those of their chunks, (chunks, ...)."""
    maximum = jnp.max(maxima, axis=0)
    return maximum, jnp.sum(sums * jnp.exp(maxima - _finite(maximum)[None]), axis=0)


def _finite(maximum: Array) -> Array:
    """What may be subtracted from a row: −∞ − (−∞) is NaN, and a row or a chunk of −∞ has a sum of 0."""
    return jnp.where(maximum != -jnp.inf, maximum, 0)  # the array before the 0, as in `where_counted`


def log(total: Array) -> Array:
    """log of a sum, and −∞ where that is 0, where the derivative is 0, not NaN."""
    return jnp.where(total != 0, jnp.log(jnp.where(total != 0, total, 1)), -jnp.inf)

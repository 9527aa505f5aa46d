"""Class labels, and the log-sum-exp of a row of logits."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def class_labels(name: str, labels: Any, shape: tuple[int, ...], classes: int, ignore_index: int) -> Array:
    """`labels` as an array; TypeError unless integers, ValueError unless of this shape, each a class or ignored.

    The values are read on the host, where they are there: not in a trace, nor where other processes have a part.
    """
    try:
        given = labels if hasattr(labels, "dtype") else jnp.asarray(labels)
    except (TypeError, ValueError, OverflowError) as problem:
        raise TypeError(f"{name}: expected an integer array, got {labels!r:.60}") from problem
    if not jnp.issubdtype(given.dtype, jnp.integer):
        raise TypeError(f"{name}: expected an integer array, got {given.dtype}{list(given.shape)}")
    if given.shape != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, one label a row, got {list(given.shape)}")
    if not isinstance(given, jax.core.Tracer) and getattr(given, "is_fully_addressable", True):
        values = jax.device_get(given)
        wrong = values[((values < 0) | (values >= classes)) & (values != ignore_index)]
        if wrong.size:
            expected = f"classes from 0 to {classes - 1}, or {ignore_index} to ignore"
            raise ValueError(f"{name}: expected {expected}, got {wrong.flat[0]}")
    return given if isinstance(given, Array) else jnp.asarray(given)


def signed(labels: Array) -> Array:
    """Labels in a dtype that has -100 and any number of classes; one that is too large for it stays too large."""
    if jnp.issubdtype(labels.dtype, jnp.unsignedinteger):
        return jnp.minimum(labels, min(jnp.iinfo(labels.dtype).max, 2**31 - 1)).astype(jnp.int32)
    return labels.astype(jnp.promote_types(labels.dtype, jnp.int32))


def where_counted(a: Array, labels: Array, classes: int, ignore_index: int) -> Array:
    """`a`, one number a row, where the `signed` label counts: 0 where it is ignored, NaN where it is no class."""
    is_class = (labels >= 0) & (labels < classes)
    # In this order, since of no rows `where` takes the first without a look at the second, and its type on a mesh.
    return jnp.where(labels != ignore_index, jnp.where(is_class, a, jnp.nan), 0)


def logsumexp(a: Array) -> Array:
    """(...): log Σ exp a over the last axis; −∞ where that is empty, or −∞ throughout, as a part of a row may be."""
    # Any shift gives the same sum, so the maximum is a constant to the derivative.
    top = jax.lax.stop_gradient(jnp.max(a, axis=-1, initial=-jnp.inf))
    top = jnp.where(top != -jnp.inf, top, 0)  # in this order, as in `where_counted`
    total = jnp.sum(jnp.exp(a - top[..., None]), axis=-1)
    return jnp.where(total != 0, top + jnp.log(jnp.where(total != 0, total, 1)), -jnp.inf)

"""Class labels, and what the two cross entropies make of a row of logits."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from residuals_jax._lib.checks import described, floating
from residuals_jax._lib.cotangents import to_rank
from residuals_jax._lib.dtypes import wide


def class_labels(name: str, labels: Any, shape: tuple[int, ...], axis: int, ignore_index: int) -> Array:
    """`labels` as an array; TypeError unless integers, ValueError unless one for each row of logits of this shape, with
    the classes on this axis, and each a class or ignored.

    The values are checked only where the host can read them: not in a trace, nor where other processes hold a part.
    """
    try:
        given = labels if hasattr(labels, "dtype") else jnp.asarray(labels)
    except (TypeError, ValueError, OverflowError) as problem:
        raise TypeError(f"{name}: expected an integer array, got {labels!r:.60}") from problem
    if not jnp.issubdtype(given.dtype, jnp.integer):
        raise TypeError(f"{name}: expected an integer array, got {described(given)}")
    expected, classes = _without(shape, axis), shape[axis]
    if given.shape != expected:
        fits_axis_1 = len(shape) > 2 and given.shape == _without(shape, 1)
        hint = "; pass axis=1 if that is the axis of the classes" if fits_axis_1 else ""
        raise ValueError(f"{name}: expected shape {list(expected)}, one label a row, got {list(given.shape)}{hint}")
    if not isinstance(given, jax.core.Tracer) and getattr(given, "is_fully_addressable", True):
        values = jax.device_get(given)
        wrong = values[((values < 0) | (values >= classes)) & (values != ignore_index)]
        if wrong.size:
            expected_classes = f"classes from 0 to {classes - 1}, or {ignore_index} to ignore"
            raise ValueError(f"{name}: expected {expected_classes}, got {wrong.flat[0]}")
    return given if isinstance(given, Array) else jnp.asarray(given)


def is_soft(labels: Any) -> bool:
    """Whether labels are floating, and so probabilities of the classes."""
    return hasattr(labels, "dtype") and jnp.issubdtype(labels.dtype, jnp.floating)


def soft_labels(name: str, labels: Any, shape: tuple[int, ...], ignore_index: int) -> Array:
    """`labels` as an array of probabilities; ValueError unless of this shape, and no row is to be ignored."""
    array = floating(name, labels)
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, as logits, if floating, got {list(array.shape)}")
    if ignore_index != -100:
        raise ValueError(f"ignore_index: expected none where labels are probabilities, got {ignore_index}")
    return array


def soft_targets(labels: Array, class_weight: Array | None, label_smoothing: float) -> Array:
    """(..., classes): by what the loss weighs −log softmax, from rows of probabilities; wide."""
    target = wide(labels)
    if label_smoothing:
        target = (1 - label_smoothing) * target + label_smoothing / max(labels.shape[-1], 1)
    return target if class_weight is None else target * to_rank(class_weight, target.ndim)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The sizes of the other axes."""
    axis %= len(shape)
    return (*shape[:axis], *shape[axis + 1 :])


def class_weights(name: str, weight: ArrayLike | None, classes: int) -> Array | None:
    """`weight` as an array; TypeError unless floating, ValueError unless it has a number for each class."""
    if weight is None:
        return None
    array = floating(name, weight)
    if array.shape != (classes,):
        raise ValueError(f"{name}: expected shape [{classes}], one weight a class, got {list(array.shape)}")
    return array


def check_reduction(reduction: str) -> None:
    """ValueError unless it is one of the three."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {reduction!r}")


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


class Statistics(NamedTuple):
    """Of rows of logits, or of a chunk of their classes."""

    maximum: Array  # (...), −∞ where the axis is empty, or −∞ throughout, as a chunk of a row may be
    total: Array  # (...): Σ exp(logits − maximum); its logarithm and the maximum add to log Σ exp logits
    gap: Array | None  # (...): Σ class_weight·(maximum − logits), if labels are smoothed


def statistics(a: Array, class_weight: Array | None, is_smooth: bool) -> Statistics:
    """Those of the last axis."""
    # Any shift gives the same log Σ exp a, so the maximum is a constant to the derivative.
    maximum = jax.lax.stop_gradient(jnp.max(a, axis=-1, initial=-jnp.inf))
    shifted = a - _finite(maximum)[..., None]
    weighted = shifted if class_weight is None else shifted * to_rank(class_weight, a.ndim)
    return Statistics(maximum, jnp.sum(jnp.exp(shifted), axis=-1), -jnp.sum(weighted, axis=-1) if is_smooth else None)


def of_chunks(each: Statistics, weights: Array) -> Statistics:
    """The statistics of whole rows, from those of chunks, (chunks, ...), and the sum of each chunk's class weights."""
    maximum = jnp.max(each.maximum, axis=0)
    total = jnp.sum(each.total * jnp.exp(each.maximum - _finite(maximum)[None]), axis=0)
    if each.gap is None:
        return Statistics(maximum, total, None)
    weights = jnp.reshape(weights, (-1,) + (1,) * maximum.ndim)
    gaps = each.gap + weights * (_finite(maximum)[None] - _finite(each.maximum))
    return Statistics(maximum, total, jnp.sum(gaps, axis=0))


def _finite(maximum: Array) -> Array:
    """What may be subtracted from a row: −∞ − (−∞) is NaN, and a row or a chunk of −∞ has a sum of 0."""
    return jnp.where(maximum != -jnp.inf, maximum, 0)  # the array before the 0, as in `where_counted`


def log(total: Array) -> Array:
    """log of a sum, and −∞ where that is 0, where the derivative is 0, not NaN."""
    return jnp.where(total != 0, jnp.log(jnp.where(total != 0, total, 1)), -jnp.inf)


def weight_of(index: Array, class_weight: Array | None) -> Array | None:
    """(...): the weight of each row's class; None, for 1, where classes have none."""
    if class_weight is None:
        return None
    if not class_weight.size:
        return jnp.ones_like(index, class_weight.dtype)
    # On Explicit mesh axes a gather cannot tell from its operands how the weights of the rows are to be sharded.
    sharding = jax.typeof(index).sharding
    return jnp.asarray(class_weight).at[index].get(mode="clip", out_sharding=None if sharding.mesh.empty else sharding)


def row_losses(
    rows: Statistics,
    log_sum: Array,
    picked: Array,
    weight: Array | None,
    mean_weight: Array | None,
    classes: int,
    label_smoothing: float,
    z_loss: float,
) -> Array:
    """(...): the loss of each row from its label's logit, `picked`, and the `weight` of its label's class."""
    loss = (rows.maximum - picked) + log_sum
    loss = loss if weight is None else loss * weight
    if rows.gap is not None:
        others = rows.gap / max(classes, 1) + (log_sum if mean_weight is None else log_sum * mean_weight)
        loss = (1 - label_smoothing) * loss + label_smoothing * others
    return loss + z_loss * (rows.maximum + log_sum) ** 2 if z_loss else loss


def reduced(
    loss: Array, index: Array, weight: Array | None, ignore_index: int, reduction: str
) -> tuple[Array, Array | None]:
    """The losses of rows reduced, and for the mean what it divides by: how many rows count, or their weights."""
    if reduction == "none":
        return loss, None
    loss, is_counted = jnp.sum(loss), index != ignore_index
    if reduction == "sum":
        return loss, None
    number = jnp.sum(is_counted if weight is None else jnp.where(is_counted, weight, 0)).astype(loss.dtype)
    counted = jnp.where(number == 0, 1, number)
    return jnp.where(number == 0, jnp.nan, loss / counted), counted


class Scales(NamedTuple):
    """dlogits of a row = softmax·`softmax` − `label` at the label − `each`·class_weight, each of them (...)."""

    softmax: Array
    label: Array
    each: Array | None


def scales(
    per_row: Array,
    lse: Array,
    weight: Array | None,
    mean_weight: Array | None,
    classes: int,
    label_smoothing: float,
    z_loss: float,
) -> Scales:
    """Those of the cotangents of the row losses, `per_row`; `lse` is log Σ exp logits, 0 in rows that are ignored."""
    label = per_row if weight is None else per_row * weight
    softmax, each = label, None
    if label_smoothing:
        label = (1 - label_smoothing) * label
        each = per_row * (label_smoothing / max(classes, 1))
        softmax = label + label_smoothing * (per_row if mean_weight is None else per_row * mean_weight)
    return Scales(softmax + per_row * (2 * z_loss * lse) if z_loss else softmax, label, each)

"""Cross entropy of a linear layer: the loss of logits = x·weightᵀ at class labels, a chunk of classes at a time."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from residuals_jax._lib.checks import floating, integer, untraced
from residuals_jax._lib.cotangents import match, to_rank
from residuals_jax._lib.dtypes import to_dtype, wide, wider
from residuals_jax._lib.labels import (
    Statistics,
    at_class,
    beside,
    check_reduction,
    class_labels,
    class_weights,
    log,
    of_chunks,
    reduced,
    row_losses,
    scales,
    signed,
    statistics,
    weight_of,
    where_counted,
)
from residuals_jax._lib.products import matmul


class Residuals(NamedTuple):
    x: Array  # (..., d)  input: rebuilds the logits, and scales the cotangent
    weight: Array  # (v, d)  input: rebuilds the logits, and scales the cotangent
    bias: Array | None  # (v,)  input: rebuilds the logits
    class_weight: Array | None  # (v,)  input: the weights of the classes, by which each row's gradient is scaled
    labels: Array  # (...)  input: the class from whose softmax 1 is subtracted
    maximum: Array  # (...)  new, float32 or wider: saved so that the backward looks for no maximum again
    log_sum: Array  # (...)  new, float32 or wider: log Σ exp(logits − maximum), saved so that the backward sums no exp
    # again; not added to the maximum, since their sum is rounded to the digits that a large maximum leaves
    counted: Array | None  # ()  new, float32 or wider: what the mean divides by, saved so that the backward counts no
    # labels again; None for another reduction
    mean_weight: Array | None  # ()  new, float32 or wider: saved so that the backward sums no class weights again;
    # None unless labels are smoothed and classes have weights


RECOMPUTES: dict[str, str] = {
    "matmul": "a chunk of logits is the product of two inputs; this op is there so that all of them, v numbers a row, "
    "are never held",
    "gather": "the weight of a label's class is looked up again, where it would be one more number a row to save",
}

Parts = tuple[Array, Array | None, Array | None]  # of weight, bias and class_weight: a chunk's


def _scan(step: Callable[[Any, Any, Parts], tuple[Any, Any]], arrays: Parts, chunk: int) -> tuple[Any, Any]:
    """`step(carry, start, parts)` for each chunk of the classes: the last carry, and its second results, stacked.

    The first chunk is shorter where v is no multiple of `chunk`. It is taken before the loop, with a carry of None: the
    carry that it returns has the right type on any mesh, and one chunk needs no loop.
    """
    v = arrays[0].shape[0]
    alone = v % chunk or min(chunk, v)
    carry, first = step(None, 0, jax.tree.map(lambda a: a[:alone], arrays))
    if alone == v:
        return carry, jax.tree.map(lambda a: a[None], first)
    carry, others = jax.lax.scan(
        lambda carry, start: step(
            carry, start, jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, start, chunk), arrays)
        ),
        carry,
        jnp.arange(alone, v, chunk, dtype=jnp.int32),
    )
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, others)


def _counted_rows(x: Array, index: Array, ignore_index: int) -> Array:
    """x, and 0 in rows whose label is ignored: such a row may hold anything, and 0 · NaN is NaN."""
    if x.size == 0:  # `where` would forget how an empty array is sharded
        return x
    return jnp.where((index != ignore_index)[..., None], x, 0)


def _logits(rows: Array, part: Array, bias: Array | None) -> Array:
    """(..., chunk): the logits of a chunk, in float32 or wider."""
    logits = matmul("...d,vd->...v", rows, part)
    return logits if bias is None else logits + to_rank(to_dtype(bias, logits.dtype), logits.ndim)


def _whole() -> PartitionSpec | None:
    """The sharding of a sum over all rows on a mesh, where no axis is split; without a mesh None, for none."""
    return None if jax.sharding.get_abstract_mesh().empty else PartitionSpec(None, None)


def fwd(
    x: Array,
    weight: Array,
    bias: Array | None,
    labels: Array,
    class_weight: Array | None,
    ignore_index: int,
    reduction: str,
    chunk: int,
    label_smoothing: float,
    z_loss: float,
) -> tuple[Array, Residuals]:
    index, classes = signed(labels), weight.shape[0]
    rows = _counted_rows(x, index, ignore_index)
    wide_weight = None if class_weight is None else class_weight.astype(wider(x))

    def step(carry: None, start: Any, parts: Parts) -> tuple[None, tuple[Statistics, Array, Array]]:
        part, bias_part, class_part = parts
        logits = _logits(rows, part, bias_part)
        is_label = at_class(index - jnp.asarray(start, index.dtype), len(part))
        picked = jnp.sum(jnp.where(is_label, logits, 0), axis=-1)
        weights = jnp.asarray(len(part), logits.dtype) if class_part is None else jnp.sum(class_part)
        return None, (statistics(logits, class_part, label_smoothing > 0), picked, weights)

    _, (each, picked, weights) = _scan(step, (weight, bias, wide_weight), chunk)
    found, picked = of_chunks(each, weights), jnp.sum(picked, axis=0)
    log_sum = log(found.total)
    mean_weight = jnp.mean(wide_weight) if wide_weight is not None and label_smoothing else None
    of_label = weight_of(index, wide_weight)
    loss = row_losses(found, log_sum, picked, of_label, mean_weight, classes, label_smoothing, z_loss)
    loss = where_counted(loss, index, classes, ignore_index)
    loss, counted = reduced(loss, index, of_label, ignore_index, reduction)
    maximum = checkpoint_name(found.maximum, "linear_cross_entropy.maximum")
    log_sum = checkpoint_name(log_sum, "linear_cross_entropy.log_sum")
    statistics_of_rows = maximum, log_sum, counted, mean_weight
    return loss.astype(x.dtype), Residuals(x, weight, bias, class_weight, labels, *statistics_of_rows)


def bwd(
    ignore_index: int,
    reduction: str,
    chunk: int,
    label_smoothing: float,
    z_loss: float,
    residuals: Residuals,
    g: Array,
) -> tuple[Array, Array, Array | None, None, Array | None]:
    x, weight, bias, class_weight, labels, maximum, log_sum, counted, mean_weight = residuals
    index, classes = signed(labels), weight.shape[0]
    per_row = wide(g) if counted is None else wide(g) / counted
    per_row = where_counted(per_row, index, classes, ignore_index)
    is_counted = index != ignore_index
    lse = jnp.where(is_counted, maximum + log_sum, 0)
    wide_weight = None if class_weight is None else class_weight.astype(wider(x))
    of_label = weight_of(index, wide_weight)
    by = scales(per_row, lse, of_label, mean_weight, classes, label_smoothing, z_loss)
    by_softmax, by_label = by.softmax[..., None], by.label[..., None]
    rows = _counted_rows(x, index, ignore_index)

    def step(carry: Any, start: Any, parts: Parts) -> tuple[Any, None]:
        part, bias_part, class_part = parts
        softmax = jnp.exp((_logits(rows, part, bias_part) - maximum[..., None]) - log_sum[..., None])
        is_label = at_class(index - jnp.asarray(start, index.dtype), len(part))
        dlogits = by_softmax * softmax - jnp.where(is_label, by_label, 0)
        if by.each is not None:
            each = by.each[..., None]
            dlogits = dlogits - (each if class_part is None else each * to_rank(class_part, dlogits.ndim))
        dlogits = jnp.where(is_counted[..., None], dlogits, 0)
        dbias = None if bias_part is None else match(jnp.sum(dlogits, axis=range(index.ndim)), bias_part)
        # The products of the gradient have 32 bits: its rows add up to 0, which 16 would not keep.
        dpart = match(matmul("...v,...d->vd", dlogits, rows, out_sharding=_whole()), part)
        dx = matmul("...v,vd->...d", dlogits, part)
        if carry is None:
            carry = jnp.zeros_like(dx), (jnp.zeros_like(weight), None if bias is None else jnp.zeros_like(bias))
        total, places = carry
        places = jax.tree.map(
            lambda a, d: jax.lax.dynamic_update_slice_in_dim(a, d, start, axis=0), places, (dpart, dbias)
        )
        return (total + dx, places), None

    (dx, (dweight, dbias)), _ = _scan(step, (weight, bias, wide_weight), chunk)
    dclass = None if class_weight is None else jnp.zeros_like(class_weight)
    return match(dx, x), match(dweight, weight), None if bias is None else match(dbias, bias), None, dclass


@partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7, 8, 9))
def _linear_cross_entropy(
    x: Array,
    weight: Array,
    bias: Array | None,
    labels: Array,
    class_weight: Array | None,
    ignore_index: int,
    reduction: str,
    chunk: int,
    label_smoothing: float,
    z_loss: float,
) -> Array:
    static = ignore_index, reduction, chunk, label_smoothing, z_loss
    return fwd(x, weight, bias, labels, class_weight, *static)[0]


_linear_cross_entropy.defvjp(fwd, bwd)


def linear_cross_entropy(
    x: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    class_weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    chunk: int = 2048,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Array:
    """loss = log Σ exp logits − logits[label] of each row of logits = x·weightᵀ, which is never held as a whole.

    Forward and backward make the logits `chunk` classes at a time, and hold three numbers a row and chunk. A second
    derivative by autodiff holds all chunks, and so does the checkpoint policy `dots_saveable`.

    Args:
        x: (..., d) floating.
        weight: (v, d) floating, one row a class.
        labels: (...) of any integer dtype: classes from 0 to v - 1, or `ignore_index`.
        bias: (v,) floating, added to each row of logits, or None for 0.
        class_weight: (v,) floating, a constant to the derivative, or None for 1 throughout: the loss of a row is
            multiplied by the number of its label's class, and the mean divides by the sum of these numbers.
        ignore_index: rows of this label have loss 0 and gradient 0, whatever is in them, and do not count in the mean;
            a Python int.
        reduction: "mean" over the rows that count, "sum", or "none", which gives one loss a row; a Python string.
        chunk: how many classes' logits to make at a time, at least 1; a Python int.
        label_smoothing: from 0 to 1; with ε of it the loss is (1 − ε) times that of the label and ε times the mean over
            all classes, each multiplied by its weight, as in `torch.nn.functional.cross_entropy`; a Python number.
        z_loss: at least 0; that times (log Σ exp logits)² is added to the loss of each row that counts, whatever its
            weight; a Python number.

    Returns:
        () or, for "none", (...), of the dtype of x; computed in float32 if that is narrower. The mean of no rows is NaN
        and its gradient 0, as in `torch.nn.functional.cross_entropy`. In a trace, where the values of labels are not
        there to be checked, a row whose label is no class has loss NaN and gradient NaN.

    Saves:
        x: (..., d), an input, no new bytes.
        weight: (v, d), an input, no new bytes.
        bias: (v,), an input, no new bytes; only if given.
        class_weight: (v,), an input, no new bytes; only if given.
        labels: (...), an input, no new bytes.
        maximum: (...), new, 4 bytes a row (8 in float64): the largest logit; without it the backward would look for it
            again.
        log_sum: (...), new, 4 bytes a row (8 in float64): log Σ exp(logits − maximum); without it the backward would
            reduce again. The two are one log-sum-exp, but that is rounded where it is saved, and its rounding is a
            relative error of the softmax: in float32 2e-7 where it is about 4, and 5e-4 where it is about 1e4, as for
            logits with a common offset.
        counted: (), new, 4 bytes (8 in float64): how many labels count, or the sum of their classes' weights; without
            it the backward would count them again. Only for "mean".
        mean_weight: (), new, 4 bytes (8 in float64): the mean of `class_weight`; without it the backward would sum
            again. Only where labels are smoothed and classes have weights.

    Raises:
        TypeError: x, weight, bias or class_weight is not floating, labels is not of integers, ignore_index or chunk is
            not an int, or label_smoothing or z_loss is not a number.
        ValueError: x has no axis, weight is not (v, d), bias or class_weight not (v,), labels has another shape than
            the rows, ignore_index has more than 32 bits, chunk is not positive, label_smoothing or z_loss is out of its
            range, or reduction is none of the three. Also, outside of a trace, labels
            has a value that is neither a class nor ignore_index; to see that, the values are read on the host, which
            waits for a GPU that makes them.

    Source:
        Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models" (2024), section 3.
    """
    x, weight = floating("x", x), floating("weight", weight)
    if x.ndim == 0:
        raise ValueError("x: expected at least 1 axis, got a scalar")
    if weight.ndim != 2 or weight.shape[1] != x.shape[-1]:
        raise ValueError(
            f"weight: expected shape [v, {x.shape[-1]}], with the last axis of x, got {list(weight.shape)}"
        )
    bias = None if bias is None else floating("bias", bias)
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias: expected shape [{weight.shape[0]}], one number a class, got {list(bias.shape)}")
    check_reduction(reduction)
    ignore_index, chunk = integer("ignore_index", ignore_index, least=-(2**31)), integer("chunk", chunk, least=1)
    label_smoothing, z_loss = untraced("label_smoothing", label_smoothing, 1), untraced("z_loss", z_loss)
    class_weight = class_weights("class_weight", class_weight, weight.shape[0])
    labels = class_labels("labels", labels, (*x.shape[:-1], weight.shape[0]), -1, ignore_index)
    static = ignore_index, reduction, chunk, label_smoothing, z_loss
    return _linear_cross_entropy(x, weight, bias, beside(labels, x), class_weight, *static)

"""Cross entropy of a linear layer: the loss of logits = x·weightᵀ at class labels, a chunk of classes at a time."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from residuals_jax._lib.checks import floating, integer
from residuals_jax._lib.cotangents import match
from residuals_jax._lib.dtypes import wide
from residuals_jax._lib.labels import (
    at_class,
    beside,
    class_labels,
    log,
    maximum_and_sum,
    of_chunks,
    signed,
    where_counted,
)


class Residuals(NamedTuple):
    x: Array  # (..., d)  input: rebuilds the logits, and scales the cotangent
    weight: Array  # (v, d)  input: rebuilds the logits, and scales the cotangent
    labels: Array  # (...)  input: the class from whose softmax 1 is subtracted
    maximum: Array  # (...)  new, float32 or wider: saved so that the backward looks for no maximum again
    log_sum: Array  # (...)  new, float32 or wider: log Σ exp(logits − maximum), saved so that the backward sums no exp
    # again; not added to the maximum, since their sum is rounded to the digits that a large maximum leaves
    counted: Array | None  # ()  new, float32 or wider, at least 1: saved so that the backward counts no labels again;
    # for the mean, else None


RECOMPUTES: dict[str, str] = {
    "matmul": "a chunk of logits is the product of two inputs; this op is there so that all of them, v numbers a row, "
    "are never held",
}


def _scan(step: Callable[[Any, Any, Array], tuple[Any, Any]], weight: Array, chunk: int) -> tuple[Any, Any]:
    """`step(carry, start, part)` for each chunk of the classes: the last carry, and its second results, stacked.

    The first chunk is shorter where v is no multiple of `chunk`. It is taken before the loop, with a carry of None: the
    carry that it returns has the right type on any mesh, and one chunk needs no loop.
    """
    v = weight.shape[0]
    alone = v % chunk or min(chunk, v)
    carry, first = step(None, 0, weight[:alone])
    if alone == v:
        return carry, jax.tree.map(lambda a: a[None], first)
    carry, others = jax.lax.scan(
        lambda carry, start: step(carry, start, jax.lax.dynamic_slice_in_dim(weight, start, chunk)),
        carry,
        jnp.arange(alone, v, chunk, dtype=jnp.int32),
    )
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, others)


def _counted_rows(x: Array, index: Array, ignore_index: int) -> Array:
    """x, and 0 in rows whose label is ignored: such a row may hold anything, and 0 · NaN is NaN."""
    if x.size == 0:  # `where` would forget how an empty array is sharded
        return wide(x)
    return jnp.where((index != ignore_index)[..., None], wide(x), 0)


def _logits(rows: Array, part: Array) -> Array:
    return jnp.einsum("...d,vd->...v", rows, wide(part))


def _at(a: Array, index: Array) -> Array:
    """The number at each row's index, or at the end that is nearer."""
    return jnp.take_along_axis(a, index[..., None], axis=-1, mode="clip")[..., 0]


def _whole() -> PartitionSpec | None:
    """The sharding of a sum over all rows on a mesh, where no axis is split; without a mesh None, for none."""
    return None if jax.sharding.get_abstract_mesh().empty else PartitionSpec(None, None)


def fwd(
    x: Array, weight: Array, labels: Array, ignore_index: int, reduction: str, chunk: int
) -> tuple[Array, Residuals]:
    index, classes = signed(labels), weight.shape[0]
    rows = _counted_rows(x, index, ignore_index)

    def step(carry: None, start: Any, part: Array) -> tuple[None, tuple[Array, Array, Array]]:
        logits = _logits(rows, part)
        at = index - jnp.asarray(start, index.dtype)  # the label's place, if it is in this chunk
        picked = _at(logits, at) if len(part) else jnp.sum(logits, axis=-1)
        return None, (*maximum_and_sum(logits), jnp.where((at >= 0) & (at < len(part)), picked, 0))

    _, (maxima, sums, picked) = _scan(step, weight, chunk)
    maximum, total = of_chunks(maxima, sums)
    log_sum = log(total)
    loss, counted = where_counted((maximum - jnp.sum(picked, axis=0)) + log_sum, index, classes, ignore_index), None
    if reduction != "none":
        loss = jnp.sum(loss)
    if reduction == "mean":
        number = jnp.sum(index != ignore_index)
        counted = jnp.maximum(number, 1).astype(log_sum.dtype)
        loss = jnp.where(number > 0, loss / counted, jnp.nan)
    return loss.astype(x.dtype), Residuals(x, weight, labels, maximum, log_sum, counted)


def bwd(ignore_index: int, reduction: str, chunk: int, residuals: Residuals, g: Array) -> tuple[Array, Array, None]:
    x, weight, labels, maximum, log_sum, counted = residuals
    index, classes = signed(labels), weight.shape[0]
    per_row = wide(g) if counted is None else wide(g) / counted
    per_row = where_counted(per_row, index, classes, ignore_index)[..., None]
    is_counted = (index != ignore_index)[..., None]
    rows = _counted_rows(x, index, ignore_index)

    def step(carry: tuple[Array, Array] | None, start: Any, part: Array) -> tuple[tuple[Array, Array], None]:
        softmax = jnp.exp((_logits(rows, part) - maximum[..., None]) - log_sum[..., None])
        is_label = at_class(index - jnp.asarray(start, index.dtype), len(part))
        dlogits = jnp.where(is_counted, per_row * jnp.where(is_label, softmax - 1, softmax), 0)
        dpart = match(jnp.einsum("...v,...d->vd", dlogits, rows, out_sharding=_whole()), part)
        dx = jnp.einsum("...v,vd->...d", dlogits, wide(part))
        if carry is None:
            carry = jnp.zeros_like(dx), jnp.zeros_like(weight)
        return (carry[0] + dx, jax.lax.dynamic_update_slice_in_dim(carry[1], dpart, start, axis=0)), None

    (dx, dweight), _ = _scan(step, weight, chunk)
    return match(dx, x), match(dweight, weight), None


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _linear_cross_entropy(
    x: Array, weight: Array, labels: Array, ignore_index: int, reduction: str, chunk: int
) -> Array:
    return fwd(x, weight, labels, ignore_index, reduction, chunk)[0]


_linear_cross_entropy.defvjp(fwd, bwd)


def linear_cross_entropy(
    x: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    chunk: int = 2048,
) -> Array:
    """loss = log Σ exp logits − logits[label] of each row of logits = x·weightᵀ, which is never held as a whole.

    Forward and backward make the logits `chunk` classes at a time, and hold three numbers a row and chunk. A second
    derivative by autodiff holds all chunks, and so does the checkpoint policy `dots_saveable`.

    Args:
        x: (..., d) floating.
        weight: (v, d) floating, one row a class.
        labels: (...) of any integer dtype: classes from 0 to v - 1, or `ignore_index`.
        ignore_index: rows of this label have loss 0 and gradient 0, whatever is in them, and do not count in the mean;
            a Python int.
        reduction: "mean" over the rows that count, "sum", or "none", which gives one loss a row; a Python string.
        chunk: how many classes' logits to make at a time, at least 1; a Python int.

    Returns:
        () or, for "none", (...), of the dtype of x; computed in float32 if that is narrower. The mean of no rows is NaN
        and its gradient 0, as in `torch.nn.functional.cross_entropy`. In a trace, where the values of labels are not
        there to be checked, a row whose label is no class has loss NaN and gradient NaN.

    Saves:
        x: (..., d), an input, no new bytes.
        weight: (v, d), an input, no new bytes.
        labels: (...), an input, no new bytes.
        maximum: (...), new, 4 bytes a row (8 in float64): the largest logit; without it the backward would look for it
            again.
        log_sum: (...), new, 4 bytes a row (8 in float64): log Σ exp(logits − maximum); without it the backward would
            reduce again. The two are one log-sum-exp, but that is rounded where it is saved, and its rounding is a
            relative error of the softmax: in float32 2e-7 where it is about 4, and 5e-4 where it is about 1e4, as for
            logits with a common offset.
        counted: (), new, 4 bytes (8 in float64): how many labels count, at least 1; without it the backward would count
            them again. Only for "mean".

    Raises:
        TypeError: x or weight is not floating, labels is not of integers, or ignore_index or chunk is not an int.
        ValueError: x has no axis, weight is not (v, d), labels has another shape than the rows, ignore_index has more
            than 32 bits, chunk is not positive, or reduction is none of the three. Also, outside of a trace, labels
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
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {reduction!r}")
    ignore_index, chunk = integer("ignore_index", ignore_index, least=-(2**31)), integer("chunk", chunk, least=1)
    labels = class_labels("labels", labels, x.shape[:-1], weight.shape[0], ignore_index)
    return _linear_cross_entropy(x, weight, beside(labels, x), ignore_index, reduction, chunk)

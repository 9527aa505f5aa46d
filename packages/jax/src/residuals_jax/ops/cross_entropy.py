"""Cross entropy of class labels: loss = log Σ exp logits − logits[label], and its mean, sum, or one a row."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike

from residuals_jax._lib.checks import axis_of, floating, integer, untraced
from residuals_jax._lib.cotangents import match, to_rank
from residuals_jax._lib.dtypes import wide
from residuals_jax._lib.labels import (
    at_class,
    beside,
    check_reduction,
    class_labels,
    class_weights,
    is_soft,
    log,
    reduced,
    row_losses,
    scales,
    signed,
    soft_labels,
    soft_targets,
    statistics,
    weight_of,
    where_counted,
)


class Residuals(NamedTuple):
    logits: Array  # (..., c)  input: rebuilds the softmax, exp(logits − maximum − log_sum)
    weight: Array | None  # (c,)  input: the weights of the classes, by which each row's gradient is scaled
    labels: Array  # (...)  input: the class from whose softmax 1 is subtracted; (..., c) if probabilities, all of
    # which are subtracted
    maximum: Array  # (...)  new, float32 or wider: saved so that the backward looks for no maximum again
    log_sum: Array  # (...)  new, float32 or wider: log Σ exp(logits − maximum), saved so that the backward sums no exp
    # again; not added to the maximum, since their sum is rounded to the digits that a large maximum leaves
    counted: Array | None  # ()  new, float32 or wider: what the mean divides by, saved so that the backward counts no
    # labels again; None for another reduction, and for probabilities
    mean_weight: Array | None  # ()  new, float32 or wider: saved so that the backward sums no weights again;
    # None unless labels are smoothed and classes have weights
    mass: Array | None  # (...)  new, float32 or wider: the sum of a row's weighted probabilities, saved so that the
    # backward sums them no more; None for classes


# The exp of the backward repeats nothing: it is of logits − maximum − log_sum, the softmax; that of the forward is of
# logits − maximum.
RECOMPUTES: dict[str, str] = {
    "gather": "the weight of a label's class is looked up again, where it would be one more number a row to save",
}


def _rows(logits: Array, axis: int) -> Array:
    """The logits with the classes on the last axis."""
    return logits if axis in (-1, logits.ndim - 1) else jnp.moveaxis(logits, axis, -1)


def _back(rows: Array, axis: int) -> Array:
    """The classes on their axis again."""
    return rows if axis in (-1, rows.ndim - 1) else jnp.moveaxis(rows, -1, axis)


def fwd(
    logits: Array,
    labels: Array,
    weight: Array | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    axis: int,
) -> tuple[Array, Residuals]:
    if is_soft(labels):
        return _soft_fwd(logits, labels, weight, reduction, label_smoothing, z_loss, axis)
    scores, index, classes = wide(_rows(logits, axis)), signed(labels), logits.shape[axis]
    wide_weight = None if weight is None else weight.astype(scores.dtype)
    rows = statistics(scores, wide_weight, label_smoothing > 0)
    log_sum = log(rows.total)
    # By a comparison with each class, which XLA makes part of the sums, and which may be sharded along the classes.
    picked = jnp.sum(jnp.where(at_class(index, classes), scores, 0), axis=-1) if classes else rows.maximum
    mean_weight = jnp.mean(wide_weight) if wide_weight is not None and label_smoothing else None
    of_label = weight_of(index, wide_weight)
    loss = row_losses(rows, log_sum, picked, of_label, mean_weight, classes, label_smoothing, z_loss)
    loss = where_counted(loss, index, classes, ignore_index)
    loss, counted = reduced(loss, index, of_label, ignore_index, reduction)
    numbers = *_named(rows.maximum, log_sum), counted, mean_weight, None
    return loss.astype(logits.dtype), Residuals(logits, weight, labels, *numbers)


def _soft_fwd(
    logits: Array,
    labels: Array,
    weight: Array | None,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    axis: int,
) -> tuple[Array, Residuals]:
    """The same of labels that are probabilities."""
    target = soft_targets(_rows(labels, axis), None if weight is None else wide(weight), label_smoothing)
    scores, mass = wide(_rows(logits, axis)), jnp.sum(target, axis=-1)
    rows = statistics(scores, None, False)
    log_sum = log(rows.total)
    loss = jnp.sum(target * (rows.maximum[..., None] - scores), axis=-1) + mass * log_sum
    loss = loss + z_loss * (rows.maximum + log_sum) ** 2 if z_loss else loss
    if reduction != "none":
        loss = jnp.sum(loss)
    if reduction == "mean":  # that of no rows is NaN, and its derivative 0
        loss = loss / mass.size if mass.size else loss + jnp.nan
    numbers = *_named(rows.maximum, log_sum), None, None, mass
    return loss.astype(logits.dtype), Residuals(logits, weight, labels, *numbers)


def _named(maximum: Array, log_sum: Array) -> tuple[Array, Array]:
    """Both, with the names by which a policy of `jax.checkpoint` may keep them."""
    return checkpoint_name(maximum, "cross_entropy.maximum"), checkpoint_name(log_sum, "cross_entropy.log_sum")


def bwd(
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    axis: int,
    residuals: Residuals,
    g: Array,
) -> tuple[Array, Array | None, Array | None]:
    if residuals.mass is not None:
        return _soft_bwd(reduction, label_smoothing, z_loss, axis, residuals, g)
    logits, weight, labels, maximum, log_sum, counted, mean_weight, _ = residuals
    scores, index, classes = wide(_rows(logits, axis)), signed(labels), logits.shape[axis]
    wide_weight = None if weight is None else weight.astype(scores.dtype)
    is_counted = index != ignore_index
    per_row = wide(g) if counted is None else wide(g) / counted
    per_row = where_counted(per_row, index, classes, ignore_index)
    lse = jnp.where(is_counted, maximum + log_sum, 0)
    by = scales(per_row, lse, weight_of(index, wide_weight), mean_weight, classes, label_smoothing, z_loss)
    softmax = jnp.exp((scores - maximum[..., None]) - log_sum[..., None])
    dlogits = by.softmax[..., None] * softmax - jnp.where(at_class(index, classes), by.label[..., None], 0)
    if by.each is not None:
        each = by.each[..., None]
        dlogits = dlogits - (each if wide_weight is None else each * to_rank(wide_weight, dlogits.ndim))
    dlogits = jnp.where(is_counted[..., None], dlogits, 0)  # also where logits are NaN
    return match(_back(dlogits, axis), logits), None, None if weight is None else jnp.zeros_like(weight)


def _soft_bwd(
    reduction: str, label_smoothing: float, z_loss: float, axis: int, residuals: Residuals, g: Array
) -> tuple[Array, Array, Array | None]:
    """The gradients of logits, and of labels, which are probabilities."""
    logits, weight, labels, maximum, log_sum, _, _, mass = residuals
    assert mass is not None
    wide_weight = None if weight is None else wide(weight)
    per_row = jnp.broadcast_to(wide(g) / (max(mass.size, 1) if reduction == "mean" else 1), mass.shape)
    by = per_row * (mass + 2 * z_loss * (maximum + log_sum) if z_loss else mass)
    log_softmax = (wide(_rows(logits, axis)) - maximum[..., None]) - log_sum[..., None]
    target = soft_targets(_rows(labels, axis), wide_weight, label_smoothing)
    dlogits = jnp.exp(log_softmax) * by[..., None] - target * per_row[..., None]
    dlabels = (label_smoothing - 1) * log_softmax * per_row[..., None]
    dlabels = dlabels if wide_weight is None else dlabels * to_rank(wide_weight, dlabels.ndim)
    dweight = None if weight is None else jnp.zeros_like(weight)
    return match(_back(dlogits, axis), logits), match(_back(dlabels, axis), labels), dweight


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6, 7))
def _cross_entropy(
    logits: Array,
    labels: Array,
    weight: Array | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    axis: int,
) -> Array:
    return fwd(logits, labels, weight, ignore_index, reduction, label_smoothing, z_loss, axis)[0]


_cross_entropy.defvjp(fwd, bwd)


def cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    axis: int = -1,
) -> Array:
    """loss = log Σ exp logits − logits[label] of each row; dlogits = softmax − 1 at the label, softmax elsewhere.

    Of labels that are probabilities p, loss = Σ p·(log Σ exp logits − logits), dlogits = softmax·Σ p − p, and
    dp = log Σ exp logits − logits.

    Args:
        logits: (..., c) floating, one number a class, on the last axis unless `axis` says otherwise.
        labels: (...) of any integer dtype: classes from 0 to c - 1, or `ignore_index`. Or (..., c) floating, of the
            shape of logits: probabilities of the classes, which have a gradient, as in
            `torch.nn.functional.cross_entropy`; nothing checks that those of a row add up to 1. Each is multiplied by
            its class's weight, the mean divides by the number of rows, and no row can be ignored.
        weight: (c,) floating, a constant to the derivative, or None for 1 throughout: the loss of a row is
            multiplied by the number of its label's class, and the mean divides by the sum of these numbers.
        ignore_index: rows of this label have loss 0 and gradient 0, whatever their logits are, and do not count in
            the mean; a Python int.
        reduction: "mean" over the rows that count, "sum", or "none", which gives one loss a row; a Python string.
        label_smoothing: from 0 to 1; with ε of it the loss is (1 − ε) times that of the label and ε times the mean over
            all classes, each multiplied by its weight, as in `torch.nn.functional.cross_entropy`; a Python number.
        z_loss: at least 0; that times (log Σ exp logits)² is added to the loss of each row that counts, whatever its
            weight; a Python number.
        axis: the axis of the classes; a Python int.

    Returns:
        () or, for "none", (...), of the dtype of logits; computed in float32 if that is narrower. The mean of no rows
        is NaN and its gradient 0, as in `torch.nn.functional.cross_entropy`. In a trace, where the values of labels are
        not there to be checked, a row whose label is no class has loss NaN and gradient NaN.

    Saves:
        logits: (..., c), an input, no new bytes.
        weight: (c,), an input, no new bytes; only if given.
        labels: (...), an input, no new bytes; (..., c) if probabilities.
        maximum: (...), new, 4 bytes a row (8 in float64): the largest logit; without it the backward would look for it
            again.
        log_sum: (...), new, 4 bytes a row (8 in float64): log Σ exp(logits − maximum); without it the backward would
            reduce again. The two are one log-sum-exp, but that is rounded where it is saved, and its rounding is a
            relative error of the softmax: in float32 2e-7 where it is about 4, and 5e-4 where it is about 1e4, as for
            logits with a common offset.
        counted: (), new, 4 bytes (8 in float64): how many labels count, or the sum of their classes' weights; without
            it the backward would count them again. Only for "mean" of
            classes.
        mean_weight: (), new, 4 bytes (8 in float64): the mean of `weight`; without it the backward would sum
            again. Only where labels are classes that are smoothed and have weights.
        mass: (...), new, 4 bytes a row (8 in float64): the sum of a row's probabilities, smoothed and weighted; without
            it the backward would sum them again. Only for probabilities.

    Raises:
        TypeError: logits or weight is not floating, labels is neither of integers nor floating, ignore_index or axis
            is not an int, or label_smoothing or z_loss is not a number.
        ValueError: logits has no such axis, labels has another shape than the rows, or than logits if floating, weight
            than (c,), ignore_index has more than 32 bits or is given with probabilities, label_smoothing or z_loss is
            out of its range, or reduction is none of the three.
            Also, outside of a trace, labels has a value that is neither a class nor
            ignore_index; to see that, the values are read on the host, which waits for a GPU that makes them.

    Source:
        Bridle, "Probabilistic Interpretation of Feedforward Classification Network Outputs" (1990), section 3.
    """
    logits = floating("logits", logits)
    if logits.ndim == 0:
        raise ValueError("logits: expected at least 1 axis, got a scalar")
    axis = axis_of("logits", logits, axis)
    check_reduction(reduction)
    ignore_index = integer("ignore_index", ignore_index, least=-(2**31))
    label_smoothing, z_loss = untraced("label_smoothing", label_smoothing, 1), untraced("z_loss", z_loss)
    weight = class_weights("weight", weight, logits.shape[axis])
    if is_soft(labels):
        labels = soft_labels("labels", labels, logits.shape, ignore_index)
    else:
        labels = beside(class_labels("labels", labels, logits.shape, axis, ignore_index), _rows(logits, axis))
    return _cross_entropy(logits, labels, weight, ignore_index, reduction, label_smoothing, z_loss, axis)

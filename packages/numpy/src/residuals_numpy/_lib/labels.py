"""Class labels, and what the two cross entropies make of a row of logits."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from residuals_numpy._lib.arrays import Array, Labels


def maximum_and_log_sum(a: Array) -> tuple[Array, Array]:
    """(...), (...): the maximum over the last axis, and log Σ exp(a − maximum); together they are log Σ exp a.

    Both are −∞ where the axis is empty. Where it is −∞ throughout, the second is NaN.
    """
    maximum = a.max(-1, initial=-np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):  # of −∞ − (−∞), and of log 0
        return maximum, np.log(np.exp(a - maximum[..., None]).sum(-1))


def targets(hot: NDArray[np.bool_], class_weight: Array | None, label_smoothing: float) -> Array:
    """(..., classes): by what the loss of a row weighs −log softmax of each class; 0 in a row that is ignored."""
    weight = np.ones(hot.shape[-1]) if class_weight is None else class_weight
    smooth = label_smoothing / max(hot.shape[-1], 1) * hot.any(-1, keepdims=True)
    return ((1 - label_smoothing) * hot + smooth) * weight


def cross_entropies(logits: Array, target: Array, z_loss: float) -> Array:
    """(...): −Σ target·log softmax + z_loss·(log Σ exp logits)² of each row, 0 where the target is."""
    maximum, log_sum = maximum_and_log_sum(logits)
    with np.errstate(invalid="ignore"):  # of ∞ − ∞ and 0·∞, in entries whose target is 0
        terms = np.where(target == 0, 0, target * ((maximum[..., None] - logits) + log_sum[..., None]))
        penalties = z_loss * (maximum + log_sum) ** 2 if z_loss else 0
    return np.where(_counts(target), terms.sum(-1) + penalties, 0)


def gradients(logits: Array, target: Array, z_loss: float, g: Array) -> Array:
    """(..., classes): those of the logits, for the cotangents `g` of `cross_entropies`."""
    maximum, log_sum = maximum_and_log_sum(logits)
    scale = target.sum(-1) + (2 * z_loss * (maximum + log_sum) if z_loss else 0)
    g = np.where(_counts(target), g, 0)
    return np.where(g == 0, 0, scale * g)[..., None] * np.where((g == 0)[..., None], 0, softmax(logits)) - (
        target * g[..., None]
    )


def _counts(target: Array) -> NDArray[np.bool_]:
    """(...): whether a row counts: one that is ignored has a target of 0 throughout."""
    return np.asarray((target != 0).any(-1))


def softmax(logits: Array) -> Array:
    """(..., classes): exp(logits − log Σ exp logits)."""
    maximum, log_sum = maximum_and_log_sum(logits)
    with np.errstate(invalid="ignore"):  # of ∞ − ∞
        return np.exp(logits - maximum[..., None] - log_sum[..., None])


def one_hot(labels: Any, classes: int, ignore_index: int) -> NDArray[np.bool_]:
    """(..., classes): True at each row's label, nowhere in a row that is ignored; ValueError if a label is no class."""
    labels = np.asarray(labels)
    wrong = labels[((labels < 0) | (labels >= classes)) & (labels != ignore_index)]
    if wrong.size:
        raise ValueError(
            f"labels: expected classes from 0 to {classes - 1}, or {ignore_index} to ignore, got {wrong.flat[0]}"
        )
    return (np.arange(classes) == labels[..., None]) & (labels != ignore_index)[..., None]


def counted(hot: NDArray[np.bool_], class_weight: Array | None) -> Array:
    """How many rows have a label, or the sum of the weights of their classes: by so much the mean divides; 1 for 0."""
    total = (hot if class_weight is None else hot * class_weight).sum()
    return np.asarray(total if total else 1, np.float64)


def reduced(losses: Array, hot: NDArray[np.bool_], class_weight: Array | None, reduction: str) -> Array:
    """The losses of rows, their sum, or their mean, which is NaN for none."""
    if reduction == "none":
        return losses
    total: Array = losses.sum()
    if reduction == "sum":
        return total
    return total / counted(hot, class_weight) if hot.any() else total * np.nan


def probabilities(labels: Labels | Array, axis: int) -> Array | None:
    """(..., classes): floating labels, with the classes on the last axis; None for labels that are classes."""
    return np.moveaxis(np.asarray(labels, np.float64), axis, -1) if labels.dtype.kind == "f" else None


def soft_targets(rows: Array, class_weight: Array | None, label_smoothing: float) -> Array:
    """(..., classes): as `targets` has them, of rows of probabilities."""
    weight = np.ones(rows.shape[-1]) if class_weight is None else class_weight
    return ((1 - label_smoothing) * rows + label_smoothing / max(rows.shape[-1], 1)) * weight


def soft_gradients(
    logits: Array, rows: Array, class_weight: Array | None, label_smoothing: float, z_loss: float, g: Array
) -> tuple[Array, Array]:
    """(..., classes) twice: those of the logits and of the probabilities, for the cotangents `g` of the row losses."""
    maximum, log_sum = maximum_and_log_sum(logits)
    target = soft_targets(rows, class_weight, label_smoothing)
    scale = target.sum(-1) + (2 * z_loss * (maximum + log_sum) if z_loss else 0)
    dlogits = (scale[..., None] * softmax(logits) - target) * g[..., None]
    each = (1 - label_smoothing) * (np.ones(rows.shape[-1]) if class_weight is None else class_weight)
    return dlogits, each * (maximum[..., None] - logits + log_sum[..., None]) * g[..., None]


def soft_losses(logits: Array, target: Array, z_loss: float) -> Array:
    """(...): −Σ target·log softmax + z_loss·(log Σ exp logits)² of each row."""
    maximum, log_sum = maximum_and_log_sum(logits)
    losses = (target * ((maximum[..., None] - logits) + log_sum[..., None])).sum(-1)
    return losses + z_loss * (maximum + log_sum) ** 2 if z_loss else losses

"""Class labels, and what the two cross entropies make of a row of logits."""

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


def cross_entropies(logits: Array, hot: NDArray[np.bool_]) -> Array:
    """(...): log Σ exp logits − logits[label] of each row; what it is in a row without a label nobody reads."""
    maximum, log_sum = maximum_and_log_sum(logits)
    return (maximum - np.where(hot, logits, 0).sum(-1)) + log_sum


def softmax(logits: Array) -> Array:
    """(..., classes): exp(logits − log Σ exp logits)."""
    maximum, log_sum = maximum_and_log_sum(logits)
    with np.errstate(invalid="ignore"):  # of ∞ − ∞
        return np.exp(logits - maximum[..., None] - log_sum[..., None])


def one_hot(labels: Labels, classes: int, ignore_index: int) -> NDArray[np.bool_]:
    """(..., classes): True at each row's label, nowhere in a row that is ignored; ValueError if a label is no class."""
    labels = np.asarray(labels)
    wrong = labels[((labels < 0) | (labels >= classes)) & (labels != ignore_index)]
    if wrong.size:
        raise ValueError(
            f"labels: expected classes from 0 to {classes - 1}, or {ignore_index} to ignore, got {wrong.flat[0]}"
        )
    return (np.arange(classes) == labels[..., None]) & (labels != ignore_index)[..., None]


def counted(labels: Labels, ignore_index: int) -> Array:
    """How many labels are not ignored, at least 1: by so much the mean divides."""
    return np.asarray(max((labels != ignore_index).sum(), 1), np.float64)

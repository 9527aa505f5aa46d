"""Class labels, and what the two cross entropies make of a row of logits."""

import numpy as np
from numpy.typing import NDArray

from residuals_numpy._lib.arrays import Array, Labels


def log_sum_exp(a: Array) -> Array:
    """(...): log Σ exp a over the last axis; −∞ where that is empty, NaN where it is −∞ throughout."""
    top = a.max(-1, initial=-np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):  # of −∞ − (−∞), and of log 0
        return top + np.log(np.exp(a - top[..., None]).sum(-1))


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

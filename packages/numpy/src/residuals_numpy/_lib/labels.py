"""Class labels, and the log-sum-exp of a row of logits."""

import numpy as np
from numpy.typing import NDArray

from residuals_numpy._lib.arrays import Array, Labels


def logsumexp(a: Array) -> Array:
    """(...): log Σ exp a over the last axis; −∞ where that is empty, NaN where it is −∞ throughout."""
    top = a.max(-1, initial=-np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):  # −∞ less −∞; the logarithm of 0
        return top + np.log(np.exp(a - top[..., None]).sum(-1))


def one_hot(labels: Labels, classes: int, ignore_index: int) -> NDArray[np.bool_]:
    """(..., classes): True at each row's label, nowhere where that is ignored; ValueError if there is no such class."""
    labels = np.asarray(labels)
    wrong = labels[((labels < 0) | (labels >= classes)) & (labels != ignore_index)]
    if wrong.size:
        raise ValueError(
            f"labels: expected classes from 0 to {classes - 1}, or {ignore_index} to ignore, got {wrong.flat[0]}"
        )
    return (np.arange(classes) == labels[..., None]) & (labels != ignore_index)[..., None]

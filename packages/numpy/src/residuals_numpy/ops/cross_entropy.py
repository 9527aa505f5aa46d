"""Cross entropy of class labels: loss = log Σ exp logits − logits[label], and its mean, sum, or one a row.

Source: Bridle, "Probabilistic Interpretation of Feedforward Classification Network Outputs" (1990), section 3.
"""

import numpy as np

from residuals_numpy._lib.arrays import Array, Labels, Samples
from residuals_numpy._lib.labels import counted, cross_entropies, maximum_and_log_sum, one_hot, softmax


def forward(logits: Array, labels: Labels, *, ignore_index: int = -100, reduction: str = "mean") -> Array:
    """The loss of `logits` (..., c) at the classes `labels` (...); NaN for the mean of none."""
    hot = one_hot(labels, logits.shape[-1], ignore_index)
    losses = np.where(labels == ignore_index, 0, cross_entropies(logits, hot))
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    mean: Array = losses.sum() / counted(labels, ignore_index)
    return mean if (labels != ignore_index).any() else mean * np.nan


def vjp(logits: Array, labels: Labels, g: Array, *, ignore_index: int = -100, reduction: str = "mean") -> tuple[Array]:
    """`dlogits` for the cotangent `g` of the loss, from the inputs alone; 0 in rows that are ignored."""
    hot = one_hot(labels, logits.shape[-1], ignore_index)
    if reduction == "mean":
        g = g / counted(labels, ignore_index)
    g = np.where(labels == ignore_index, 0, g)[..., None]
    return ((np.where(g == 0, 0, softmax(logits)) - hot) * g,)


def residuals(
    logits: Array, labels: Labels, *, ignore_index: int = -100, reduction: str = "mean"
) -> dict[str, Array | Labels | None]:
    """The value each residual must have."""
    number = counted(labels, ignore_index) if reduction == "mean" else None
    maximum, log_sum = maximum_and_log_sum(logits)
    return {"logits": logits, "labels": labels, "maximum": maximum, "log_sum": log_sum, "counted": number}


def samples(rng: np.random.Generator) -> Samples:
    """Named calls: ordinary shapes first, then the awkward ones. A label in three is ignored where the name says so.

    No call has a row that is −∞ throughout, whose loss is NaN and has no finite differences.
    """

    def call(
        *shape: int, ignored: bool = False, scale: float = 1.0, offset: float = 0.0, **others: str | int
    ) -> dict[str, Array | Labels | str | int]:
        labels = np.asarray(rng.integers(shape[-1], size=shape[:-1]), np.int32)
        if ignored:
            labels = np.where(np.arange(labels.size).reshape(labels.shape) % 3 == 1, -100, labels).astype(np.int32)
        return {"logits": offset + scale * rng.standard_normal(shape), "labels": labels, **others}

    masked = call(3, 4, ignored=True)
    masked["logits"] = np.array([[0.5, -np.inf, 1.0, 0.0], [-np.inf, -1.0, -np.inf, 2.0], [0.0, 1.0, 2.0, -np.inf]])
    masked["labels"] = np.array([2, 1, 0], np.int32)
    none = np.zeros((3, 0))
    return {
        "4x5-ignored": call(4, 5, ignored=True),
        "2x3x4-none-ignored": call(2, 3, 4, ignored=True, reduction="none"),
        "4x5-sum-ignored-0": call(4, 5, reduction="sum", ignore_index=0),
        "5": call(5),
        "512x33": call(512, 33),
        "3x5-all-ignored": {**call(3, 5), "labels": np.full(3, -100, np.int32)},
        "0x5-none": call(0, 5, reduction="none"),
        "3x0-none": {"logits": none, "labels": np.full(3, -100, np.int32), "reduction": "none"},
        "minus-infinity": masked,
        "huge": call(4, 6, ignored=True, scale=1e4),
        "offset": call(4, 6, ignored=True, offset=1e4),
    }

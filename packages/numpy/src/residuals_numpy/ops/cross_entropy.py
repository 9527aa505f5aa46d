"""Cross entropy of class labels: loss = log Σ exp logits − logits[label], and its mean, sum, or one a row.

Of labels that are probabilities p, floating and of the shape of logits, it is Σ p·(log Σ exp logits − logits).

Source: Bridle, "Probabilistic Interpretation of Feedforward Classification Network Outputs" (1990), section 3.
"""

from typing import Any

import numpy as np

from residuals_numpy._lib.arrays import Array, Labels, Samples
from residuals_numpy._lib.labels import (
    counted,
    cross_entropies,
    gradients,
    maximum_and_log_sum,
    one_hot,
    probabilities,
    reduced,
    soft_gradients,
    soft_losses,
    soft_targets,
    targets,
)


def forward(
    logits: Array,
    labels: Labels | Array,
    weight: Array | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    axis: int = -1,
) -> Array:
    """The loss of `logits` (..., c) at the classes `labels` (...); NaN for the mean of none."""
    rows, soft = np.moveaxis(logits, axis, -1), probabilities(labels, axis)
    if soft is not None:
        losses = soft_losses(rows, soft_targets(soft, weight, label_smoothing), z_loss)
        total = losses if reduction == "none" else losses.sum()
        return total if reduction != "mean" else total / losses.size if losses.size else total * np.nan
    hot = one_hot(labels, rows.shape[-1], ignore_index)
    losses = cross_entropies(rows, targets(hot, weight, label_smoothing), z_loss)
    return reduced(losses, hot, weight, reduction)


def vjp(
    logits: Array,
    labels: Labels | Array,
    weight: Array | None,
    g: Array,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    axis: int = -1,
) -> tuple[Array, ...]:
    """`dlogits` for the cotangent `g` of the loss, from the inputs alone; 0 in rows that are ignored.

    And `dlabels` if they are probabilities.
    """
    rows, soft = np.moveaxis(logits, axis, -1), probabilities(labels, axis)
    if soft is not None:
        number = max(rows[..., :1].size, 1) if reduction == "mean" else 1
        g = np.broadcast_to(g / number, rows.shape[:-1])
        found = soft_gradients(rows, soft, weight, label_smoothing, z_loss, g)
        return tuple(np.moveaxis(d, -1, axis) for d in found)
    hot = one_hot(labels, rows.shape[-1], ignore_index)
    if reduction == "mean":
        g = g / counted(hot, weight)
    return (np.moveaxis(gradients(rows, targets(hot, weight, label_smoothing), z_loss, g), -1, axis),)


def residuals(
    logits: Array,
    labels: Labels | Array,
    weight: Array | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    axis: int = -1,
) -> dict[str, Array | Labels | None]:
    """The value each residual must have."""
    rows, soft = np.moveaxis(logits, axis, -1), probabilities(labels, axis)
    maximum, log_sum = maximum_and_log_sum(rows)
    hot = one_hot(labels, rows.shape[-1], ignore_index) if soft is None else None
    return {
        "logits": logits,
        "weight": weight,
        "labels": labels,
        "maximum": maximum,
        "log_sum": log_sum,
        "counted": counted(hot, weight) if hot is not None and reduction == "mean" else None,
        "mean_weight": np.asarray(weight.mean()) if weight is not None and soft is None and label_smoothing else None,
        "mass": None if soft is None else soft_targets(soft, weight, label_smoothing).sum(-1),
    }


def samples(rng: np.random.Generator) -> Samples:
    """Named calls: ordinary shapes first, then the awkward ones. A label in three is ignored where the name says so.

    No call has a row that is −∞ throughout, whose loss is NaN and has no finite differences.
    """

    def call(
        *shape: int, ignored: bool = False, scale: float = 1.0, offset: float = 0.0, axis: int = -1, **others: Any
    ) -> dict[str, Any]:
        rows = np.delete(shape, axis)
        labels = np.asarray(rng.integers(shape[axis], size=rows), np.int32)
        if ignored:
            labels = np.where(np.arange(labels.size).reshape(labels.shape) % 3 == 1, -100, labels).astype(np.int32)
        return {"logits": offset + scale * rng.standard_normal(shape), "labels": labels, "axis": axis, **others}

    def soft(*shape: int, **others: Any) -> dict[str, Any]:
        return {**call(*shape, **others), "labels": rng.random(shape)}  # their sum need not be 1

    masked = call(3, 4, ignored=True)
    masked["logits"] = np.array([[0.5, -np.inf, 1.0, 0.0], [-np.inf, -1.0, -np.inf, 2.0], [0.0, 1.0, 2.0, -np.inf]])
    masked["labels"] = np.array([2, 1, 0], np.int32)
    none = np.zeros((3, 0))
    all_options = {"label_smoothing": 0.3, "z_loss": 0.2}
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
        "4x5-smooth": call(4, 5, ignored=True, label_smoothing=0.2),
        "4x5-z-none": call(4, 5, ignored=True, z_loss=0.1, reduction="none"),
        "4x5-weight": call(4, 5, ignored=True, weight=0.5 + rng.random(5)),
        "2x5x3-axis-2": call(2, 5, 3, ignored=True, axis=-2),
        "2x5x3-all-options": call(2, 5, 3, ignored=True, axis=-2, weight=0.5 + rng.random(5), **all_options),
        "4x5-soft": soft(4, 5),
        "0x5-soft": soft(0, 5),
        "2x5x3-soft-all-options": soft(2, 5, 3, axis=-2, weight=0.5 + rng.random(5), reduction="none", **all_options),
        "offset-soft-sum": soft(4, 6, offset=1e4, label_smoothing=0.3, reduction="sum"),
        "offset-all-options": call(4, 6, ignored=True, offset=1e4, weight=0.5 + rng.random(6), label_smoothing=0.3),
    }

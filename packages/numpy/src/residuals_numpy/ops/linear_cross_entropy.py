"""Cross entropy of a linear layer: the loss of logits = x·weightᵀ at class labels.

Source: Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models" (2024), section 3.
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
    reduced,
    targets,
)


def _counted_rows(x: Array, labels: Labels, ignore_index: int) -> Array:
    """x, and 0 in rows whose label is ignored: such a row may hold anything, and 0 · NaN is NaN."""
    return np.where((labels == ignore_index)[..., None], 0, x)


def _logits(x: Array, weight: Array, bias: Array | None) -> Array:
    return x @ weight.T + (0 if bias is None else bias)


def forward(
    x: Array,
    weight: Array,
    labels: Labels,
    bias: Array | None = None,
    class_weight: Array | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    chunk: int = 2048,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Array:
    """The loss of `x` (..., d) and `weight` (v, d) at the classes `labels` (...); NaN for the mean of none."""
    logits = _logits(_counted_rows(x, labels, ignore_index), weight, bias)
    hot = one_hot(labels, len(weight), ignore_index)
    losses = cross_entropies(logits, targets(hot, class_weight, label_smoothing), z_loss)
    return reduced(losses, hot, class_weight, reduction)


def vjp(
    x: Array,
    weight: Array,
    bias: Array | None,
    labels: Labels,
    class_weight: Array | None,
    g: Array,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    chunk: int = 2048,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[Array, Array, Array | None]:
    """`dx, dweight, dbias` for the cotangent `g` of the loss, from the inputs alone; rows that are ignored give 0."""
    x = _counted_rows(x, labels, ignore_index)
    hot = one_hot(labels, len(weight), ignore_index)
    if reduction == "mean":
        g = g / counted(hot, class_weight)
    dlogits = gradients(_logits(x, weight, bias), targets(hot, class_weight, label_smoothing), z_loss, g)
    rows = tuple(range(x.ndim - 1))
    dbias = None if bias is None else dlogits.sum(rows)
    return dlogits @ weight, np.tensordot(dlogits, x, (rows, rows)), dbias


def residuals(
    x: Array,
    weight: Array,
    labels: Labels,
    bias: Array | None = None,
    class_weight: Array | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    chunk: int = 2048,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> dict[str, Array | Labels | None]:
    """The value each residual must have."""
    maximum, log_sum = maximum_and_log_sum(_logits(_counted_rows(x, labels, ignore_index), weight, bias))
    hot = one_hot(labels, len(weight), ignore_index)
    return {
        "x": x,
        "weight": weight,
        "bias": bias,
        "class_weight": class_weight,
        "labels": labels,
        "maximum": maximum,
        "log_sum": log_sum,
        "counted": counted(hot, class_weight) if reduction == "mean" else None,
        "mean_weight": np.asarray(class_weight.mean()) if class_weight is not None and label_smoothing else None,
    }


def samples(rng: np.random.Generator) -> Samples:
    """Named calls: ordinary shapes first, then the awkward ones. A label in three is ignored where the name says so."""

    def call(*shape: int, v: int, ignored: bool = False, scale: float = 1.0, **others: Any) -> dict[str, Any]:
        labels = np.asarray(rng.integers(max(v, 1), size=shape[:-1]), np.int32)
        if ignored or v == 0:
            is_ignored = (np.arange(labels.size).reshape(labels.shape) % 3 == 1) | (v == 0)
            labels = np.where(is_ignored, -100, labels).astype(np.int32)
        weight = rng.standard_normal((v, shape[-1]))
        return {"x": scale * rng.standard_normal(shape), "weight": weight, "labels": labels, **others}

    offset = call(4, 3, v=7, ignored=True, chunk=3)
    # Whole numbers, whose product is exact in float32; the first of each adds 1e4 to all logits.
    for name, rows in (("x", 4), ("weight", 7)):
        offset[name] = np.c_[np.full(rows, 100.0), np.rint(2 * rng.standard_normal((rows, 2)))]
    all_options = {
        "bias": rng.standard_normal(7),
        "class_weight": 0.5 + rng.random(7),
        "label_smoothing": 0.3,
        "z_loss": 0.2,
    }
    return {
        "4x3-v7-chunk-3-ignored": call(4, 3, v=7, ignored=True, chunk=3),
        "2x2x3-v6-chunk-2-none": call(2, 2, 3, v=6, ignored=True, reduction="none", chunk=2),
        "4x3-v5-sum-ignored-0": call(4, 3, v=5, reduction="sum", ignore_index=0),
        "3-v4-chunk-1": call(3, v=4, chunk=1),
        "256x8-v33-chunk-10": call(256, 8, v=33, scale=0.3, chunk=10),
        "3x2-v5-all-ignored": {**call(3, 2, v=5, chunk=3), "labels": np.full(3, -100, np.int32)},
        "0x3-v5": call(0, 3, v=5),
        "3x2-v0": call(3, 2, v=0, chunk=3),
        "huge": call(4, 3, v=7, scale=1e3, chunk=3),
        "offset": offset,
        "4x3-v7-bias": call(4, 3, v=7, ignored=True, chunk=3, bias=rng.standard_normal(7)),
        "4x3-v7-smooth": call(4, 3, v=7, ignored=True, chunk=3, label_smoothing=0.2),
        "4x3-v7-z-none": call(4, 3, v=7, ignored=True, chunk=3, z_loss=0.1, reduction="none"),
        "4x3-v7-class-weight": call(4, 3, v=7, ignored=True, chunk=3, class_weight=0.5 + rng.random(7)),
        "2x2x3-v7-all-options": {**call(2, 2, 3, v=7, ignored=True, chunk=3), **all_options},
        "offset-all-options": {**offset, **all_options, "z_loss": 0.0},
    }

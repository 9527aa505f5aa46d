"""Cross entropy of a linear layer: the loss of logits = x·weightᵀ at class labels.

Source: Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models" (2024), section 3.
"""

import numpy as np

from residuals_numpy._lib.arrays import Array, Labels, Samples
from residuals_numpy._lib.labels import counted, cross_entropies, maximum_and_log_sum, one_hot, softmax


def _counted_rows(x: Array, labels: Labels, ignore_index: int) -> Array:
    """x, and 0 in rows whose label is ignored: such a row may hold anything, and 0 · NaN is NaN."""
    return np.where((labels == ignore_index)[..., None], 0, x)


def forward(
    x: Array, weight: Array, labels: Labels, *, ignore_index: int = -100, reduction: str = "mean", chunk: int = 2048
) -> Array:
    """The loss of `x` (..., d) and `weight` (v, d) at the classes `labels` (...); NaN for the mean of none."""
    logits = _counted_rows(x, labels, ignore_index) @ weight.T
    hot = one_hot(labels, len(weight), ignore_index)
    losses = np.where(labels == ignore_index, 0, cross_entropies(logits, hot))
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    mean: Array = losses.sum() / counted(labels, ignore_index)
    return mean if (labels != ignore_index).any() else mean * np.nan


def vjp(
    x: Array,
    weight: Array,
    labels: Labels,
    g: Array,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    chunk: int = 2048,
) -> tuple[Array, Array]:
    """`dx, dweight` for the cotangent `g` of the loss, from the inputs alone; rows that are ignored give 0."""
    x = _counted_rows(x, labels, ignore_index)
    logits = x @ weight.T
    if reduction == "mean":
        g = g / counted(labels, ignore_index)
    g = np.where(labels == ignore_index, 0, g)[..., None]
    hot = one_hot(labels, len(weight), ignore_index)
    dlogits = (softmax(logits) - hot) * g
    rows = range(x.ndim - 1)
    return dlogits @ weight, np.tensordot(dlogits, x, (rows, rows))


def residuals(
    x: Array, weight: Array, labels: Labels, *, ignore_index: int = -100, reduction: str = "mean", chunk: int = 2048
) -> dict[str, Array | Labels | None]:
    """The value each residual must have."""
    number = counted(labels, ignore_index) if reduction == "mean" else None
    maximum, log_sum = maximum_and_log_sum(_counted_rows(x, labels, ignore_index) @ weight.T)
    statistics = {"maximum": maximum, "log_sum": log_sum, "counted": number}
    return {"x": x, "weight": weight, "labels": labels, **statistics}


def samples(rng: np.random.Generator) -> Samples:
    """Named calls: ordinary shapes first, then the awkward ones. A label in three is ignored where the name says so."""

    def call(
        *shape: int, v: int, ignored: bool = False, scale: float = 1.0, **others: str | int
    ) -> dict[str, Array | Labels | str | int]:
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
    }

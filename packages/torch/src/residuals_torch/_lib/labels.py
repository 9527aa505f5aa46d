"""Class labels, and the log-sum-exp of a row of logits."""

import torch
from torch import Tensor

from residuals_torch._lib.checks import _described
from residuals_torch._lib.modes import is_ordinary


def class_labels(name: str, labels: Tensor, shape: torch.Size, classes: int, ignored: int) -> Tensor:
    """`labels` itself; TypeError unless integers, ValueError unless of this shape, each right if it can be read."""
    if not isinstance(labels, Tensor) or "int" not in str(labels.dtype):
        raise TypeError(f"{name}: expected an integer tensor, got {_described(labels)}")
    if labels.shape != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, one label a row, got {list(labels.shape)}")
    found = signed(labels)
    if is_ordinary(labels) and (wrong := labels[((found < 0) | (found >= classes)) & (found != ignored)]).numel():
        raise ValueError(f"{name}: expected classes from 0 to {classes - 1}, or {ignored} to ignore, got {wrong[0]}")
    return labels


def signed(labels: Tensor) -> Tensor:
    """Labels in int64; one that is too large for it stays too large."""
    index = labels.long()
    return torch.where(index < 0, 2**63 - 1, index) if labels.dtype == torch.uint64 else index

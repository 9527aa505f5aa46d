"""Class labels, and what the two cross entropies make of a row of logits."""

import torch
from torch import Tensor

from residuals_torch._lib.checks import described
from residuals_torch._lib.modes import is_ordinary


def class_labels(name: str, labels: Tensor, shape: torch.Size, classes: int, ignore_index: int) -> Tensor:
    """`labels` itself; TypeError unless integers, ValueError unless of this shape, each a class or ignored.

    The values are checked only where a program can read them: not in compiled code, under vmap, nor in a DTensor.
    """
    if not isinstance(labels, Tensor) or "int" not in str(labels.dtype):
        raise TypeError(f"{name}: expected an integer tensor, got {described(labels)}")
    if labels.shape != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, one label a row, got {list(labels.shape)}")
    if is_ordinary(labels):
        values = signed(labels)
        wrong = labels[((values < 0) | (values >= classes)) & (values != ignore_index)]
        if wrong.numel():
            expected = f"classes from 0 to {classes - 1}, or {ignore_index} to ignore"
            raise ValueError(f"{name}: expected {expected}, got {wrong[0]}")
    return labels


def signed(labels: Tensor) -> Tensor:
    """Labels in int64; one too large for it becomes its largest, no class."""
    index = labels.long()
    return torch.where(index < 0, 2**63 - 1, index) if labels.dtype == torch.uint64 else index


def where_counted(a: Tensor, index: Tensor, classes: int, ignore_index: int) -> Tensor:
    """`a`, one number a row, where the row's `signed` label counts: 0 where it is ignored, NaN where it is no class."""
    is_class = (index >= 0) & (index < classes)
    return torch.where(index != ignore_index, torch.where(is_class, a, torch.nan), 0)

"""Class labels, and what the two cross entropies make of a row of logits."""

import torch
from torch import Tensor

from residuals_torch._lib.checks import described
from residuals_torch._lib.modes import is_autocast, is_distributed, is_ordinary


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


def loss_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the loss of x: float32 at least under autocast, where the sum of a batch would overflow float16."""
    return torch.promote_types(x.dtype, torch.float32) if is_autocast(x.device.type) else x.dtype


def signed(labels: Tensor) -> Tensor:
    """Labels in int64; one too large for it becomes its largest, no class."""
    index = labels.long()
    return torch.where(index < 0, 2**63 - 1, index) if labels.dtype == torch.uint64 else index


def is_compared(a: Tensor) -> bool:
    """Whether the label's number in a row of `a` is found by comparing each class with the label, not by its index.

    In compiled code a gather or scatter is not fused with what is around it, and is deferred to the end, for which the
    rows of all chunks are held; a DTensor has neither along an axis that is sharded.
    """
    return torch.compiler.is_compiling() or is_distributed(a)


def at_class(index: Tensor, a: Tensor) -> Tensor:
    """(..., classes), as `a` is: True at each row's label, nowhere in a row whose label is none of these classes."""
    classes = a.new_ones(a.shape[-1], dtype=torch.int64).cumsum(0) - 1  # an arange would not be a DTensor
    return classes == index.unsqueeze(-1)


def maximum_and_sum(a: Tensor) -> tuple[Tensor, Tensor]:
    """(...), (...): the maximum over the last axis, and Σ exp(a − maximum); it and log of the sum add to log Σ exp a.

    They are −∞ and 0 where the axis is empty, or −∞ throughout, as a chunk of a row may be.
    """
    # Any shift gives the same log Σ exp a, so the maximum is a constant to the derivative.
    maximum = a.detach().amax(-1) if a.shape[-1] else a.detach().sum(-1) - torch.inf
    shifted = a - _finite(maximum).unsqueeze(-1)
    return maximum, torch.sum(torch.exp(shifted) if is_distributed(a) else shifted.exp_(), dim=-1)


def of_chunks(each: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(...), (...): the maximum and sum of whole rows, from those of their chunks."""
    if len(each) == 1:
        return each[0]
    maxima, sums = map(torch.stack, zip(*each, strict=True))
    maximum = maxima.amax(0)
    return maximum, torch.sum(sums * torch.exp(maxima - _finite(maximum)), dim=0)


def _finite(maximum: Tensor) -> Tensor:
    """What may be subtracted from a row: −∞ − (−∞) is NaN, and a row or a chunk of −∞ has a sum of 0."""
    return torch.where(maximum == -torch.inf, 0, maximum)


def where_read(maximum: Tensor, log_sum: Tensor, index: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """What the backward subtracts from logits: ∞ in a row that is ignored, whose softmax is then 0, not NaN.

    The maximum has no derivative here either.
    """
    is_ignored = index == ignore_index
    return torch.where(is_ignored, 0, maximum.detach()), torch.where(is_ignored, torch.inf, log_sum)


def where_counted(a: Tensor, index: Tensor, classes: int, ignore_index: int) -> Tensor:
    """`a`, one number a row, where the row's `signed` label counts: 0 where it is ignored, NaN where it is no class."""
    is_class = (index >= 0) & (index < classes)
    return torch.where(index != ignore_index, torch.where(is_class, a, torch.nan), 0)

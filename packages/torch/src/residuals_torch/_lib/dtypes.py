"""The dtype in which an op computes."""

import torch
from torch import Tensor


def to_dtype(a: Tensor, dtype: torch.dtype) -> Tensor:
    """`a` in this dtype, itself where that is its own.

    `Tensor.to` without a change breaks a rule in PyTorch 2.11: under torch.compile its gradient is 0.
    """
    return a if a.dtype == dtype else a.to(dtype)


def wider(a: Tensor) -> torch.dtype:
    """The dtype that `wide` gives."""
    return torch.promote_types(a.dtype, torch.float32)


def wide(a: Tensor) -> Tensor:
    """`a` in float32 if it is narrower, so that statistics and sums accumulate there."""
    return to_dtype(a, wider(a))

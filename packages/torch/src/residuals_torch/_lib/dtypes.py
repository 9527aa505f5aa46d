"""In which dtype an op computes."""

import torch
from torch import Tensor


def to_dtype(a: Tensor, dtype: torch.dtype) -> Tensor:
    """`a` in this dtype. A forward that ends in a `.to` of no change has gradient 0 in PyTorch 2.11's torch.compile."""
    return a if a.dtype == dtype else a.to(dtype)


def wide(a: Tensor) -> Tensor:
    """`a` in float32 if it is narrower, so that statistics and sums accumulate there."""
    return to_dtype(a, torch.promote_types(a.dtype, torch.float32))

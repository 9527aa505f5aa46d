"""Products of matrices whose operands may have 16 bits and whose sums are in float32."""

import torch
from torch import Tensor

from residuals_torch._lib.dtypes import wide
from residuals_torch._lib.modes import is_distributed, may_write


def operand(a: Tensor) -> Tensor:
    """`a` as `matmul` takes it: in its 16 bits where the device sums their products in float32, else in float32.

    That is in CUDA, whose tensor cores multiply 16 bits many times faster; a CPU of PyTorch would round the product to
    16 bits. The operator that gives it in float32 has no derivative and no rule for vmap or a DTensor.
    """
    has_operator = a.is_cuda and torch.version.hip is None and may_write(a) and not is_distributed(a)
    return a if has_operator else wide(a)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a·b in float32 or wider, of two matrices from `operand`."""
    if a.dtype == b.dtype and a.dtype.itemsize == 2:
        return torch.mm(a, b, out_dtype=torch.float32)
    return wide(a) @ wide(b)


def add_matmul(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """total + a·b, where None is zero, without an array for the product if a and b have 32 bits or more."""
    if total is None:
        return matmul(a, b)
    if a.dtype == b.dtype and a.dtype.itemsize == 2:
        return total + matmul(a, b)
    return torch.addmm(total, wide(a), wide(b))

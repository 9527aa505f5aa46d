"""Booleans as bits, eight in a byte."""

import torch
from torch import Tensor

from residuals_torch._lib.dtypes import to_dtype


def pack_bits(a: Tensor) -> Tensor:
    """(..., n) booleans as (..., ⌈n/8⌉) bytes, the first in the lowest bit; a scalar counts as n = 1."""
    bits = to_dtype(a.reshape(a.shape or (1,)), torch.uint8)
    bits = torch.nn.functional.pad(bits, (0, -bits.shape[-1] % 8))
    for i in (1, 2, 4):  # neighbours join to 2 bits, 4, a byte; by products, since a DTensor shifts wrongly
        bits = torch.add(bits[..., 0::2], bits[..., 1::2], alpha=2**i)
    return bits


def unpack_bits(packed: Tensor, shape: torch.Size) -> Tensor:
    """The booleans of this shape that `pack_bits` packed."""
    bits = torch.stack([packed & 2**i for i in range(8)], dim=-1) != 0
    if packed.shape[-1] == 0:  # the flatten of an empty DTensor never ends
        return bits[..., 0]
    return bits.flatten(-2)[..., : shape[-1] if shape else 1].reshape(shape)

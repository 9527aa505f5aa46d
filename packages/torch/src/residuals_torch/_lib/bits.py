"""Booleans as bits, eight in a byte."""

import torch
from torch import Tensor

from residuals_torch._lib.dtypes import to_dtype


def pack_bits(a: Tensor) -> Tensor:
    """(..., n) booleans as (..., ⌈n/8⌉) bytes, the first in the lowest bit; a scalar counts as n = 1.

    `torch.export` gets the booleans as they are. Its program is of a forward, where nobody reads them; and a tensor of
    ⌈n/8⌉ bytes would bind the program to an n above 8.
    """
    if torch.compiler.is_exporting():
        return a
    bits = to_dtype(a.reshape(a.shape or (1,)), torch.uint8)
    bits = torch.nn.functional.pad(bits, (0, -bits.shape[-1] % 8))
    packed = bits[..., 0::8]
    for i in range(1, 8):  # by products, since a DTensor shifts wrongly
        packed = torch.add(packed, bits[..., i::8], alpha=2**i)
    return packed


def where_set(mask: Tensor, a: Tensor) -> Tensor:
    """`a` where the mask is set, 0 elsewhere even where `a` is infinite or NaN, laid out in memory as `a` is."""
    if not a.is_contiguous():  # the first argument decides how `where` lays out its result
        mask = torch.ones_like(a, dtype=torch.bool) & mask
    return torch.where(mask, a, 0)


def unpack_bits(packed: Tensor, shape: torch.Size) -> Tensor:
    """The booleans of this shape that `pack_bits` packed."""
    if packed.dtype == torch.bool:  # in `torch.export`
        return packed
    bits = torch.stack([packed & 2**i for i in range(8)], dim=-1) != 0
    if packed.shape[-1] == 0:  # the flatten of an empty DTensor never ends
        return bits[..., 0]
    return bits.flatten(-2)[..., : shape[-1] if shape else 1].reshape(shape)

"""Functions of tensors that several ops need; nothing here knows about an op."""

from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Like(NamedTuple):
    """What a gradient has to look like: metadata that outlives a primal nobody saves."""

    shape: torch.Size
    dtype: torch.dtype


Wanted = tuple[Like | None, ...]  # one for each input, None where there is none or it needs no gradient


def floating(name: str, a: Tensor) -> Tensor:
    """`a` itself; TypeError unless it is a real floating tensor of 16 bits or more (float8 has no arithmetic)."""
    if not isinstance(a, Tensor):
        raise TypeError(f"{name}: expected a floating tensor, got {type(a).__name__}")
    if not a.dtype.is_floating_point or a.dtype.itemsize < 2:
        raise TypeError(f"{name}: expected a floating tensor, got {str(a.dtype).removeprefix('torch.')}{list(a.shape)}")
    return a


def nonnegative(name: str, value: float) -> float:
    """`value` as a float; TypeError unless it is a number, ValueError if it is < 0."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a Python number, got {type(value).__name__}")
    if not value >= 0:
        raise ValueError(f"{name}: expected a number >= 0, got {value}")
    return float(value)


def wide(a: Tensor) -> Tensor:
    """`a` in float32 if it is narrower, so that statistics and sums accumulate there."""
    return a.to(torch.promote_types(a.dtype, torch.float32))


def match(cotangent: Tensor, primal: Tensor | Like) -> Tensor:
    """The cotangent as its primal needs it: of the same shape and dtype.

    An axis along which the primal was broadcast is summed. The engine would do both without a word, and so hide it.
    """
    return cotangent.sum_to_size(primal.shape).to(primal.dtype)


def add(a: Tensor | None, b: Tensor) -> Tensor:
    """The sum of two cotangents, where None is zero."""
    return b if a is None else a + b


def likes(*inputs: Tensor | None) -> Wanted:
    """What the gradient of each input has to look like; to be kept on ctx in place of the inputs."""
    return tuple(None if a is None else Like(a.shape, a.dtype) for a in inputs)


def wanted(ctx: Any) -> Wanted:
    """`ctx.like` with None where no gradient is needed: for an input that is frozen, or that nobody asks about now."""
    return tuple(like if need else None for like, need in zip(ctx.like, ctx.needs_input_grad, strict=False))


def pack_bits(a: Tensor) -> Tensor:
    """(..., n) booleans as (..., ⌈n/8⌉) bytes, the first in the lowest bit; a scalar counts as n = 1.

    With products of Python scalars, since a DTensor's shifts give wrong values.
    """
    bits = a.reshape(a.shape or (1,)).to(torch.uint8)
    bits = torch.nn.functional.pad(bits, (0, -bits.shape[-1] % 8))
    packed = bits[..., 0::8]
    for i in range(1, 8):
        packed = packed + bits[..., i::8] * 2**i
    return packed


def unpack_bits(packed: Tensor, shape: torch.Size) -> Tensor:
    """The booleans of this shape that `pack_bits` packed."""
    bits = torch.stack([packed & 2**i for i in range(8)], dim=-1) != 0
    if packed.shape[-1] == 0:  # where a DTensor's flatten never ends
        return bits[..., 0]
    return bits.flatten(-2)[..., : shape[-1] if shape else 1].reshape(shape)

"""Which elements dropout keeps, and what becomes of them."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.jit._trace import is_tracing

from residuals_torch._lib.bits import unpack_bits, where_set
from residuals_torch._lib.blocks import block_size, in_blocks
from residuals_torch._lib.checks import described
from residuals_torch._lib.dtypes import to_dtype, wide


def axes(name: str, broadcast: Sequence[int], ndim: int) -> tuple[int, ...]:
    """`broadcast` as a tuple; TypeError unless it is a tuple or list of ints, ValueError unless x has these axes."""
    if not isinstance(broadcast, tuple | list) or any(isinstance(i, bool) or not isinstance(i, int) for i in broadcast):
        raise TypeError(f"{name}: expected a tuple of ints, got {broadcast!r}")
    if any(not -ndim <= i < ndim for i in broadcast):
        raise ValueError(f"{name}: expected some of the {ndim} axes of x, got {broadcast}")
    return tuple(broadcast)


def two_words(name: str, key: Tensor | None) -> Tensor:
    """`key` itself; TypeError unless it is two uint32."""
    if not isinstance(key, Tensor) or key.dtype != torch.uint32 or key.shape != (2,):
        raise TypeError(f"{name}: expected two uint32, got {described(key)}")
    return key


@torch.library.custom_op("residuals_torch::threefry_keep", mutates_args=())
def _keep(key: Tensor, shape: Sequence[int], rate: float, device: str) -> Tensor:
    """`jax.random.uniform(key, shape, "float32") < 1 - rate`: of 23 bits of Threefry-2x32 of each flat 64-bit index.

    It is one operation to Inductor, which would never finish fusing the 20 rounds. Inside it goes in blocks that fit a
    cache. The device is a name, since `torch.jit.trace` records no `torch.device`.

    Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).
    """
    k0, k1 = key.view(torch.int32).unbind()  # uint32 has no arithmetic, and int32's gives the same bits
    keys = (k0, k1, k0 ^ k1 ^ 0x1BD11BDA)
    out = torch.empty(math.prod(shape), dtype=torch.bool, device=device)
    block = block_size(out)
    for start in range(0, out.numel(), block):
        part = out[start : start + block]
        low = (start + 2**31) % 2**32 - 2**31
        x1 = torch.arange(low, low + part.numel(), dtype=torch.int32, device=device).add_(keys[1])
        x0 = torch.full_like(x1, start >> 32).add_(keys[0])
        for i in range(5):
            for r in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
                x0.add_(x1)
                wrapped = (x1 >> (32 - r)).bitwise_and_((1 << r) - 1)  # `>>` repeats the sign, `&` removes it
                x1.bitwise_left_shift_(r).bitwise_or_(wrapped).bitwise_xor_(x0)
            x0.add_(keys[(i + 1) % 3])
            x1.add_(keys[(i + 2) % 3]).add_(i + 1)
        bits = x0.bitwise_xor_(x1).bitwise_right_shift_(9).bitwise_and_(2**23 - 1)
        torch.lt(bits * 2**-23, 1 - rate, out=part)
    return out.reshape(shape)


_keep.register_fake(lambda key, shape, rate, device: torch.empty(shape, dtype=torch.bool, device=device))
_keep.register_vmap(
    lambda info, in_dims, key, *rest: (torch.stack([_keep(k, *rest) for k in key.unbind(in_dims[0])]), 0)
)


def drawn(a: Tensor, broadcast: tuple[int, ...]) -> Tensor:
    """A part of `a` with the shape of its mask: 1 along the axes that share one draw."""
    shared = [axis % a.ndim for axis in broadcast]
    return a[tuple(slice(0, 1) if i in shared else slice(None) for i in range(a.ndim))] if shared else a


def keep_mask(key: Tensor | None, like: Tensor, rate: float) -> Tensor | None:
    """Which elements dropout keeps: those whose uniform number in [0, 1) is below 1 - rate, both in float32.

    None at the rates 0 and 1, where there is nothing to draw. Without a key the global generator draws.
    """
    if rate in (0.0, 1.0):
        return None
    if key is None:
        return in_blocks(lambda like: torch.rand_like(like, dtype=torch.float32) < 1 - rate, like)
    # Under torch.jit.trace a size is a tensor, and an operator takes integers alone.
    shape = [int(n) for n in like.shape] if is_tracing() else like.shape
    mask = _keep(key, shape, rate, str(like.device))
    if hasattr(like, "device_mesh"):  # a DTensor: every process draws the whole mask and takes its part
        whole: Tensor = cast(Any, type(like)).from_local(mask, like.device_mesh)
        return whole & torch.ones_like(like, dtype=torch.bool)
    return mask


def drop(a: Tensor, mask: Tensor | None, rate: float) -> Tensor:
    """`a` / (1 - rate) where the mask keeps it, 0 elsewhere even where `a` is infinite or NaN."""
    if mask is None:
        mask = torch.full_like(a, rate == 0.0, dtype=torch.bool)
    return in_blocks(lambda a, mask: to_dtype(where_set(mask, wide(a) * _scale(rate)), a.dtype), a, mask)


def drop_again(a: Tensor, bits: Tensor | None, rate: float) -> Tensor:
    """What `drop` makes of `a`, which is not narrow, with a mask that `pack_bits` packed; `a` itself at the rate 0.

    Its layout may be the mask's: under torch.compile the backward of a rule that has None for an output cannot ask how
    a tensor lies in memory.
    """
    if rate == 0.0:
        return a
    if bits is None:
        return torch.zeros_like(a)
    return in_blocks(lambda a, bits: torch.where(unpack_bits(bits, a.shape), a * _scale(rate), 0), a, bits, axis=-1)


def _scale(rate: float) -> float:
    """What is kept is multiplied by; at the rate 1 nothing is kept."""
    return 1 / (1 - rate) if rate < 1 else 1.0

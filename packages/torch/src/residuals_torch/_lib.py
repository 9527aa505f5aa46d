"""Functions of tensors that several ops need; nothing here knows about an op."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor


class Like(NamedTuple):
    """What a gradient has to look like: metadata that outlives a primal nobody saves."""

    shape: torch.Size
    dtype: torch.dtype


# One for each input: None where there is none, or nobody asks for its gradient. A `bwd` that is given none of this, as
# when it is called by hand, makes every gradient.
Wanted = tuple[Like | None, ...]


def floating(name: str, a: Tensor) -> Tensor:
    """`a` itself; TypeError unless it is a real floating tensor of 16 bits or more (float8 has no arithmetic)."""
    if not isinstance(a, Tensor) or not a.dtype.is_floating_point or a.dtype.itemsize < 2:
        raise TypeError(f"{name}: expected a floating tensor, got {_described(a)}")
    return a


def two_words(name: str, key: Tensor) -> Tensor:
    """`key` itself; TypeError unless it is two uint32."""
    if not isinstance(key, Tensor) or key.dtype != torch.uint32 or key.shape != (2,):
        raise TypeError(f"{name}: expected two uint32, got {_described(key)}")
    return key


def _described(a: Any) -> str:
    return f"{str(a.dtype).removeprefix('torch.')}{list(a.shape)}" if isinstance(a, Tensor) else type(a).__name__


def nonnegative(name: str, value: float, most: float = math.inf) -> float:
    """`value` as a float; TypeError unless it is a number, ValueError unless in [0, most]."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a Python number, got {type(value).__name__}")
    expected = ">= 0" if most == math.inf else f"from 0 to {most}"
    if not 0 <= value <= most:
        raise ValueError(f"{name}: expected a number {expected}, got {value}")
    return float(value)


def whole(name: str, value: int, least: int) -> int:
    """`value` as an int; TypeError unless it is one, ValueError unless from `least` on, in 32 bits."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}")
    if not least <= value < 2**31:
        raise ValueError(f"{name}: expected an int from {least} to {2**31 - 1}, got {value}")
    return int(value)


def class_labels(name: str, labels: Tensor, shape: torch.Size, classes: int, ignored: int) -> Tensor:
    """`labels` itself; TypeError unless integers, ValueError unless of this shape, each right if it can be read."""
    if not isinstance(labels, Tensor) or "int" not in str(labels.dtype):
        raise TypeError(f"{name}: expected an integer tensor, got {_described(labels)}")
    if labels.shape != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, one label a row, got {list(labels.shape)}")
    found = labels.long()
    if is_ordinary(labels) and (wrong := found[((found < 0) | (found >= classes)) & (found != ignored)]).numel():
        raise ValueError(f"{name}: expected classes from 0 to {classes - 1}, or {ignored} to ignore, got {wrong[0]}")
    return labels


def is_ordinary(a: Tensor) -> bool:
    """Whether values are there to be read, memory to be written: not compiled, under vmap, in a DTensor or the like."""
    if torch.compiler.is_compiling() or type(a) not in (Tensor, torch.nn.Parameter) or a.is_meta:
        return False
    wrapped = torch._C._functorch
    return not (wrapped.is_functorch_wrapped_tensor(a) or wrapped.is_legacy_batchedtensor(a))


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


@torch.library.custom_op("residuals_torch::threefry_uniform", mutates_args=())
def _uniform(key: Tensor, shape: Sequence[int], device: torch.device) -> Tensor:
    """`jax.random.uniform(key, shape, "float32")`: 23 bits of Threefry-2x32 of each element's flat 64-bit index.

    One operation to Inductor, which would never finish to fuse 20 rounds; inside, blocks that fit a cache.
    Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).
    """
    k0, k1 = key.view(torch.int32).unbind()  # uint32 has no arithmetic; that of int32 has the same bits
    keys = (k0, k1, k0 ^ k1 ^ 0x1BD11BDA)
    out = torch.empty(math.prod(shape), dtype=torch.float32, device=device)
    block = 2**18 if device.type == "cpu" else 2**24
    for start in range(0, out.numel(), block):
        part = out[start : start + block]
        low = (start + 2**31) % 2**32 - 2**31
        x1 = torch.arange(low, low + part.numel(), dtype=torch.int32, device=device).add_(keys[1])
        x0 = torch.full_like(x1, start >> 32).add_(keys[0])
        for i in range(5):
            for r in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
                x0.add_(x1)
                wrapped = (x1 >> (32 - r)).bitwise_and_((1 << r) - 1)  # without the sign, which `>>` repeats
                x1.bitwise_left_shift_(r).bitwise_or_(wrapped).bitwise_xor_(x0)
            x0.add_(keys[(i + 1) % 3])
            x1.add_(keys[(i + 2) % 3]).add_(i + 1)
        torch.mul((x0 ^ x1).bitwise_right_shift_(9).bitwise_and_(2**23 - 1), 2**-23, out=part)
    return out.reshape(shape)


_uniform.register_fake(lambda key, shape, device: torch.empty(shape, dtype=torch.float32, device=device))
_uniform.register_vmap(
    lambda info, in_dims, key, *rest: (torch.stack([_uniform(k, *rest) for k in key.unbind(in_dims[0])]), 0)
)


def keep_mask(key: Tensor | None, like: Tensor, rate: float) -> Tensor | None:
    """Which elements dropout keeps: those whose uniform number in [0, 1) is below 1 - rate, both in float32.

    None at the rates 0 and 1, where there is nothing to draw. Without a key the global generator draws.
    """
    if rate in (0.0, 1.0):
        return None
    if key is None:
        return torch.rand_like(like, dtype=torch.float32) < 1 - rate
    mask = _uniform(key, like.shape, like.device) < 1 - rate
    if hasattr(like, "device_mesh"):  # a DTensor: every process draws the whole mask and takes its part
        whole: Tensor = cast(Any, type(like)).from_local(mask, like.device_mesh)
        return whole & torch.ones_like(like, dtype=torch.bool)
    return mask


def drop(a: Tensor, mask: Tensor | None, rate: float) -> Tensor:
    """`a` / (1 - rate) where it is kept, 0 elsewhere whatever `a` is there."""
    if mask is None:
        mask = torch.full_like(a, rate == 0.0, dtype=torch.bool)
    return torch.where(mask, wide(a) * (1 / (1 - rate) if rate < 1 else 1.0), 0).to(a.dtype)


def pack_bits(a: Tensor) -> Tensor:
    """(..., n) booleans as (..., ⌈n/8⌉) bytes, the first in the lowest bit; a scalar counts as n = 1."""
    bits = a.reshape(a.shape or (1,)).to(torch.uint8)
    bits = torch.nn.functional.pad(bits, (0, -bits.shape[-1] % 8))
    for i in (1, 2, 4):  # neighbours join, to 2 bits, 4, a byte; by products, since a DTensor's shifts are wrong
        bits = torch.add(bits[..., 0::2], bits[..., 1::2], alpha=2**i)
    return bits


def unpack_bits(packed: Tensor, shape: torch.Size) -> Tensor:
    """The booleans of this shape that `pack_bits` packed."""
    bits = torch.stack([packed & 2**i for i in range(8)], dim=-1) != 0
    if packed.shape[-1] == 0:  # where a DTensor's flatten never ends
        return bits[..., 0]
    return bits.flatten(-2)[..., : shape[-1] if shape else 1].reshape(shape)

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
    if not least <= value < 2**31 - 1:
        raise ValueError(f"{name}: expected an int from {least} to {2**31 - 2}, got {value}")
    return int(value)


def class_labels(name: str, labels: Tensor, shape: torch.Size, classes: int, ignored: int) -> Tensor:
    """`labels` itself; TypeError unless integers, ValueError unless of this shape, each right if it can be read."""
    if not isinstance(labels, Tensor) or "int" not in str(labels.dtype):
        raise TypeError(f"{name}: expected an integer tensor, got {_described(labels)}")
    if labels.shape != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, one label a row, got {list(labels.shape)}")
    found = signed(labels)
    if is_ordinary(labels) and (wrong := labels[((found < 0) | (found >= classes)) & (found != ignored)]).numel():
        raise ValueError(f"{name}: expected classes from 0 to {classes - 1}, or {ignored} to ignore, got {wrong[0]}")
    return labels


def signed(labels: Tensor) -> Tensor:
    """Labels in int64; one that is too large for it stays too large."""
    index = labels.long()
    return torch.where(index < 0, 2**63 - 1, index) if labels.dtype == torch.uint64 else index


def is_ordinary(a: Tensor) -> bool:
    """Whether values are there to be read, memory to be written: not compiled, under vmap, in a DTensor or the like."""
    if torch.compiler.is_compiling() or type(a) not in (Tensor, torch.nn.Parameter) or a.is_meta:
        return False
    wrapped = torch._C._functorch
    return not (wrapped.is_functorch_wrapped_tensor(a) or wrapped.is_legacy_batchedtensor(a))


def may_write(*given: Tensor | None) -> bool:
    """Whether what is made of these may be written over: nothing differentiates it, nor has it an axis of vmap."""
    if torch.is_grad_enabled():
        return False
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return torch.compiler.is_compiling() or not any(a is not None and wrapped(a) for a in given)


def is_batched(a: Tensor) -> bool:
    """Whether `a` has an axis of vmap, outside of a compiler, that is."""
    return not torch.compiler.is_compiling() and bool(torch._C._functorch.is_batchedtensor(a))


def alike(y: Tensor, *saved: Tensor | None) -> tuple[Any, ...]:
    """The outputs of a rule, those that are residuals with the axis of vmap where y has it.

    One without it would be shared by all copies. PyTorch gives its cotangent, which a second derivative has, to each of
    them, and sums what they make of it: so many times too much.
    """
    if not is_batched(y):
        return y, *saved
    zero = torch.sum(y.detach().reshape(-1)[:0])
    return y, *(None if a is None else a + to_dtype(zero, a.dtype) for a in saved)


def to_dtype(a: Tensor, dtype: torch.dtype) -> Tensor:
    """`a` in this dtype. A forward that ends in a `.to` of no change has gradient 0 in PyTorch 2.11's torch.compile."""
    return a if a.dtype == dtype else a.to(dtype)


def wide(a: Tensor) -> Tensor:
    """`a` in float32 if it is narrower, so that statistics and sums accumulate there."""
    return to_dtype(a, torch.promote_types(a.dtype, torch.float32))


def match(cotangent: Tensor, primal: Tensor | Like) -> Tensor:
    """The cotangent as its primal needs it: of the same shape and dtype.

    An axis along which the primal was broadcast is summed. The engine would do both without a word, and so hide it.
    """
    return to_dtype(cotangent.sum_to_size(primal.shape), primal.dtype)


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
    return to_dtype(torch.where(mask, wide(a) * (1 / (1 - rate) if rate < 1 else 1.0), 0), a.dtype)


def pack_bits(a: Tensor) -> Tensor:
    """(..., n) booleans as (..., ⌈n/8⌉) bytes, the first in the lowest bit; a scalar counts as n = 1."""
    bits = to_dtype(a.reshape(a.shape or (1,)), torch.uint8)
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


def check_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    is_causal: bool,
    scale: float | None = None,
) -> None:
    """ValueError unless these are q (..., h, s, d), k (..., kv, t, d), v (..., kv, t, e), h a multiple of kv, and bias
    and mask broadcast to (..., h, s, t); TypeError unless mask and is_causal are boolean and scale is a number or None.
    """
    if not isinstance(is_causal, bool):
        raise TypeError(f"is_causal: expected True or False, got {is_causal!r}")
    if isinstance(scale, bool) or not isinstance(scale, Real | None):
        raise TypeError(f"scale: expected a Python number or None, got {type(scale).__name__}")
    if q.ndim < 3:
        raise ValueError(f"q: expected at least 3 axes, (..., heads, queries, features), got shape {list(q.shape)}")
    *lead, heads, rows, features = q.shape
    key_heads, keys = k.shape[-3:-1] if k.ndim == q.ndim else (0, 0)
    if k.shape != (*lead, key_heads, keys, features):
        raise ValueError(
            f"k: expected {[*lead, 'kv', 't', features]}, to go with q {list(q.shape)}, got {list(k.shape)}"
        )
    if heads != key_heads and (key_heads == 0 or heads % key_heads):
        raise ValueError(f"k: expected heads that divide the {heads} of q, got {key_heads}")
    if v.shape[:-1] != k.shape[:-1]:
        raise ValueError(f"v: expected {[*k.shape[:-1], 'e']}, as k is {list(k.shape)}, got {list(v.shape)}")
    for name, a in (("k", k), ("v", v), ("bias", bias)):
        if a is not None and a.dtype != q.dtype and torch.float64 in (a.dtype, q.dtype):
            raise TypeError(f"{name}: expected {q.dtype}, the dtype of q, got {a.dtype}")
    if mask is not None and (not isinstance(mask, Tensor) or mask.dtype != torch.bool):
        raise TypeError(f"mask: expected booleans, got {_described(mask)}")
    for name, a in (("bias", bias), ("mask", mask)):
        if a is not None:
            check_broadcasts(name, a, (*lead, heads, rows, keys))


def check_broadcasts(name: str, a: Tensor, shape: tuple[int, ...]) -> None:
    """ValueError unless `a` broadcasts to `shape`."""
    lead = len(shape) - a.ndim
    if lead < 0 or any(n not in (1, m) for n, m in zip(a.shape, shape[lead:], strict=True)):
        raise ValueError(f"{name}: expected a shape that broadcasts to {list(shape)}, got {list(a.shape)}")


def scaling(scale: float | None, q: Tensor) -> float:
    """`scale`, or 1/√d."""
    return max(q.shape[-1], 1) ** -0.5 if scale is None else float(scale)


def fold(a: Tensor, key_heads: int) -> Tensor:
    """(..., h, s, d) as (..., key_heads, h/key_heads·s, d): query heads that share a key head, one below the other."""
    *lead, heads, rows, columns = a.shape
    return a if heads == key_heads else a.reshape(*lead, key_heads, heads // key_heads * rows, columns)


def unfold(a: Tensor, like: Tensor) -> Tensor:
    """(..., key_heads, h/key_heads·s, d) as (..., h, s, d), where `like` is (..., h, s, any); never a view of what was
    folded, since autograd takes none for a residual.
    """
    return a if a.shape[:-1] == like.shape[:-1] else a.reshape(*like.shape[:-1], a.shape[-1]).clone()


def hide(scores: Tensor, mask: Tensor | None, is_causal: bool, first: int = 0) -> Tensor:
    """−∞ where `mask` is False, and if `is_causal` at keys after the query; the first query is at position `first`."""
    if mask is not None:
        scores = torch.where(mask, scores, -torch.inf)
    if is_causal:  # by what a DTensor can do too: it knows no constant tensors
        scores = torch.where(torch.ones_like(scores, dtype=torch.bool).tril(first), scores, -torch.inf)
    return scores


def attended(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each row of scores as e = exp(scores − their maximum), its (..., s, 1) sum, and its (..., s) log-sum-exp.

    The weights are e over the sum. Of a row without a key they are 0 over 1, and the log-sum-exp is −∞. Where nothing
    is recorded for a derivative, e is written over the scores.
    """
    if scores.shape[-1] == 0:  # which has no maximum
        total = torch.sum(scores, dim=-1, keepdim=True) + 1
        return scores, total, torch.log(total - 1).squeeze(-1)
    # Any shift gives the same, so the maximum is a constant to the derivative.
    top = torch.amax(scores.detach(), dim=-1, keepdim=True)
    top = torch.where(top == -torch.inf, 0, top)
    e = torch.exp(scores - top) if torch.is_grad_enabled() else scores.sub_(top).exp_()
    total = torch.sum(e, dim=-1, keepdim=True)
    is_none = total == 0
    total = torch.where(is_none, 1, total)
    return e, total, torch.where(is_none, -torch.inf, torch.log(total) + top).squeeze(-1)


def scores_gradient(weights: Tensor, dweights: Tensor) -> Tensor:
    """dscores = P·(dP − Σ P·dP), in dP's dtype, of weights P that may be narrower; dP may be written over.

    Rounded to few bits, a row no longer adds up to 1, and where one weight is nearly 1 the rest is all rounding: so it
    is (dP·Σ P − Σ P·dP) for those.
    """
    rows, in_place = wide(weights), may_write(weights, dweights)
    dot = torch.sum(rows * dweights, dim=-1, keepdim=True)
    if weights.dtype != rows.dtype:
        total = torch.sum(rows, dim=-1, keepdim=True)
        dweights = dweights.mul_(total) if in_place else dweights * total
    return dweights.sub_(dot).mul_(rows) if in_place else (dweights - dot) * rows


def autocasted(*inputs: Any) -> tuple[Any, ...]:
    """These as a contraction takes them: in autocast's dtype where it is on, unless they are None or float64."""
    kind = inputs[0].device.type
    if not torch.is_autocast_enabled(kind):
        return inputs
    dtype = torch.get_autocast_dtype(kind)
    return tuple(a if a is None or a.dtype == torch.float64 else to_dtype(a, dtype) for a in inputs)

"""What the three attentions share: their checks, heads that share keys, and the softmax of scores."""

import math
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor

from residuals_torch._lib.checks import described, floating, integer
from residuals_torch._lib.dtypes import to_dtype, wide
from residuals_torch._lib.modes import may_write

Causal = bool | Literal["lower_right"]
Band = tuple[int | None, int | None]


def check_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    is_causal: Causal,
    scale: Any = None,
) -> None:
    """ValueError unless q is (..., h, s, d), k (..., kv, t, d), v (..., kv, t, e), whose leading axes broadcast, h is a
    multiple of kv, and bias and mask broadcast to (..., h, s, t); TypeError unless mask is boolean, is_causal
    a bool or "lower_right", and scale a number or None.
    """
    if not isinstance(is_causal, bool) and is_causal != "lower_right":
        raise TypeError(f"is_causal: expected True, False or 'lower_right', got {is_causal!r}")
    if isinstance(scale, bool) or not isinstance(scale, Real | Tensor | None):
        raise TypeError(f"scale: expected a Python number or None, got {type(scale).__name__}")
    if q.ndim < 3:
        raise ValueError(f"q: expected at least 3 axes, (..., heads, queries, features), got shape {list(q.shape)}")
    heads, rows, features = q.shape[-3:]
    lead = _common(q.shape[:-3], k.shape[:-3])
    if k.ndim < 3 or lead is None or k.shape[-1] != features:
        expected = [*q.shape[:-3], "kv", "t", features]
        raise ValueError(f"k: expected {expected}, to go with q {list(q.shape)}, got {list(k.shape)}")
    key_heads, keys = k.shape[-3:-1]
    if heads != key_heads and (key_heads == 0 or heads % key_heads):
        raise ValueError(f"k: expected heads that divide the {heads} of q, got {key_heads}")
    lead = _common(lead, v.shape[:-3])
    if lead is None or v.shape[-3:-1] != k.shape[-3:-1]:
        raise ValueError(f"v: expected {[*k.shape[:-1], 'e']}, as k is {list(k.shape)}, got {list(v.shape)}")
    for name, a in (("k", k), ("v", v), ("bias", bias)):  # no product of float64 and another dtype, which JAX promotes
        if a is not None and a.dtype != q.dtype and torch.float64 in (a.dtype, q.dtype):
            raise TypeError(f"{name}: expected {q.dtype}, the dtype of q, got {a.dtype}")
    if mask is not None and (not isinstance(mask, Tensor) or mask.dtype != torch.bool):
        raise TypeError(f"mask: expected booleans, got {described(mask)}")
    for name, a in (("bias", bias), ("mask", mask)):
        if a is not None:
            check_broadcasts(name, a, (*lead, heads, rows, keys))


def check_options(softcap: float | None, window: int | None) -> None:
    """TypeError unless softcap is a number or None, and window an int or None; ValueError unless they are positive."""
    if softcap is not None and (isinstance(softcap, bool) or not isinstance(softcap, Real)):
        raise TypeError(f"softcap: expected a Python number or None, got {type(softcap).__name__}")
    if softcap is not None and not 0 < softcap < math.inf:
        raise ValueError(f"softcap: expected a number > 0, got {softcap}")
    if window is not None:
        integer("window", window, 1)


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape to which both broadcast; None where there is none."""
    try:
        return torch.broadcast_shapes(one, other)
    except RuntimeError:
        return None


def check_broadcasts(name: str, a: Tensor, shape: tuple[int, ...]) -> None:
    """ValueError unless `a` broadcasts to `shape`."""
    lead = len(shape) - a.ndim
    if lead < 0 or any(n not in (1, m) for n, m in zip(a.shape, shape[lead:], strict=True)):
        raise ValueError(f"{name}: expected a shape that broadcasts to {list(shape)}, got {list(a.shape)}")


def scaling(scale: float | None, q: Tensor) -> float:
    """`scale`, or 1/√d for None."""
    return max(q.shape[-1], 1) ** -0.5 if scale is None else float(scale)


def fold(a: Tensor, key_heads: int) -> Tensor:
    """(..., h, s, d) as (..., key_heads, h/key_heads·s, d): query heads that share a key head, one below the other."""
    *lead, heads, rows, columns = a.shape
    return a if heads == key_heads else a.reshape(*lead, key_heads, heads // key_heads * rows, columns)


def unfold(a: Tensor, like: Tensor) -> Tensor:
    """(..., key_heads, h/key_heads·s, d) as (..., h, s, d), where `like` has the h and s.

    A copy, not a view of the folded tensor: autograd takes no view as a residual.
    """
    rows = like.shape[-3:-1]
    return a if a.shape[-3:-1] == rows else a.reshape(*a.shape[:-3], *rows, a.shape[-1]).clone()


def band_of(is_causal: Causal | str, queries: int, keys: int, window: int | None = None) -> Band:
    """The keys that a query attends: query i those from i + the first number to i + the second; None for no bound."""
    at = keys - queries if is_causal == "lower_right" else 0  # the key at which query 0 is
    before = None if window is None else at + 1 - window
    after = None if window is None else window - 1
    return before, at if is_causal else after


def hide(scores: Tensor, mask: Tensor | None, band: Band, first: int = 0) -> Tensor:
    """−∞ where a query does not attend: where `mask` is False, and at keys outside of the band.

    `first` is the number of the first query, less that of the first key.
    """
    if mask is not None:
        scores = torch.where(mask, scores, -torch.inf)
    for bound, kept in zip(band, (Tensor.triu, Tensor.tril), strict=True):
        if bound is not None:  # by `ones_like`, since an op on a DTensor takes no constant tensors
            is_attended = kept(torch.ones_like(scores, dtype=torch.bool), first + bound)
            scores = torch.where(is_attended, scores, -torch.inf)
    return scores


def cap(scores: Tensor, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """c·tanh(scores/c) for a softcap c, and that tanh."""
    if softcap is None:
        return scores, None
    tanh = torch.tanh(scores / softcap)
    return softcap * tanh, tanh


def cap_gradient(dscores: Tensor, tanh: Tensor | None) -> Tensor:
    """The gradient of scores from that of the capped ones: d(c·tanh(x/c))/dx = 1 − tanh²."""
    return dscores if tanh is None else dscores * (1 - torch.square(wide(tanh)))


def attended(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each row of scores as e = exp(scores − their maximum), its (..., s, 1) sum, and its (..., s) log-sum-exp.

    The weights are e over the sum. In a row without a key they are 0 over 1, and the log-sum-exp is −∞. Where neither a
    program nor a derivative is recorded, e overwrites the scores.
    """
    if scores.shape[-1] == 0:  # no key, so no maximum
        total = torch.sum(scores, dim=-1, keepdim=True) + 1
        return scores, total, torch.log(total - 1).squeeze(-1)
    # Any shift gives the same, so the maximum is a constant to the derivative.
    top = torch.amax(scores.detach(), dim=-1, keepdim=True)
    top = torch.where(top == -torch.inf, 0, top)
    e = scores.sub_(top).exp_() if may_write() else torch.exp(scores - top)
    total = torch.sum(e, dim=-1, keepdim=True)
    is_none = total == 0
    total = torch.where(is_none, 1, total)
    return e, total, torch.where(is_none, -torch.inf, torch.log(total) + top).squeeze(-1)


# Narrow tensors are multiplied as float32 copies. PyTorch rounds a product of narrow tensors to their dtype, too coarse
# for scores, their gradients and sums over blocks; its `out_dtype` is for some devices alone.
def weights_gradient(g: Tensor, v: Tensor, weights: Tensor) -> Tensor:
    """dP = g·vᵀ, summed over leading axes that v has and the weights have not."""
    return unfold(fold(g, v.shape[-3]) @ v.mT, g).sum_to_size(weights.shape)


def apart(q: Tensor, scale: Tensor | float | None) -> tuple[Tensor, float | None]:
    """`q` and a Python number as scale; a tensor as scale is multiplied into q, and its gradient plain autograd's."""
    if not isinstance(scale, Tensor):
        return q, scale
    check_broadcasts("scale", floating("scale", scale), (*q.shape[:-1], 1))
    return to_dtype(wide(q) * wide(scale), q.dtype), 1.0


def scores_gradient(weights: Tensor, dweights: Tensor) -> Tensor:
    """dscores = P·(dP − Σ P·dP), in dP's dtype, of weights P that may be narrower; dP may be overwritten.

    A row of narrow weights is rounded, and no longer adds up to 1. Where one weight is nearly 1 that rounding would be
    all that is left of dP − Σ P·dP. So for narrow weights it is dP·Σ P − Σ P·dP.
    """
    rows, in_place = wide(weights), may_write(weights, dweights)
    dot = torch.sum(rows * dweights, dim=-1, keepdim=True)
    if weights.dtype != rows.dtype:
        total = torch.sum(rows, dim=-1, keepdim=True)
        dweights = dweights.mul_(total) if in_place else dweights * total
    return dweights.sub_(dot).mul_(rows) if in_place else (dweights - dot) * rows

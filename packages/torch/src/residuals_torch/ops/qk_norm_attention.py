"""Attention by directions: y = P·v, P = softmax(scale·q̂·k̂ᵀ + bias) row by row, q̂ = q/‖q‖, k̂ = k/‖k‖."""

from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.attention import (
    Causal,
    attended,
    band_of,
    check_attention,
    check_broadcasts,
    fold,
    hide,
    scores_gradient,
    unfold,
    weights_gradient,
)
from residuals_torch._lib.checks import floating, is_proxy
from residuals_torch._lib.cotangents import Likes, add, likes, match, wanted
from residuals_torch._lib.dtypes import to_dtype, wide
from residuals_torch._lib.modes import autocasted, batched_alike, may_write, without_autocast


class Residuals(NamedTuple):  # q, k and their norms are None where only v and bias need a gradient
    q: Tensor | None  # (..., h, s, d)  input: rebuilds q̂
    k: Tensor | None  # (..., kv, t, d)  input: rebuilds k̂
    v: Tensor | None  # (..., kv, t, e)  input: carries the cotangent to the weights; None if only v needs a gradient
    scale: Tensor | None  # broadcasts to (..., h, s, 1)  input: scales the scores' gradient; None if q and k are frozen
    q_norm: Tensor | None  # (..., h, s, 1)  new, float32 or wider: saved so that the backward reduces no q² again
    k_norm: Tensor | None  # (..., kv, t, 1)  new, float32 or wider: saved so that the backward reduces no k² again
    weights: Tensor  # (..., h, s, t)  new: quadratic in the sequence; all that the gradient needs of the softmax


RECOMPUTES: dict[str, str] = {}

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def _norm(a: Tensor) -> Tensor:
    squares = torch.sum(torch.square(wide(a)), dim=-1, keepdim=True)
    is_zero = squares == 0  # the root of 0 has no derivative
    return torch.where(is_zero, 0, torch.sqrt(torch.where(is_zero, 1, squares)))


def _inverse(norm: Tensor) -> Tensor:
    """1/norm, and 0 for a vector of zeros, which gets no direction and no gradient by that."""
    return torch.where(norm == 0, 0, 1 / torch.where(norm == 0, 1, norm))


def fwd(
    q: Tensor, k: Tensor, v: Tensor, scale: Tensor, bias: Tensor | None, mask: Tensor | None, is_causal: Causal
) -> tuple[Tensor, Residuals]:
    heads, q_norm, k_norm = k.shape[-3], _norm(q), _norm(k)
    unit_q, unit_k = wide(q) * _inverse(q_norm), wide(k) * _inverse(k_norm)
    scores = unfold(fold(wide(scale) * unit_q, heads) @ unit_k.mT, q)
    if bias is not None:
        scores = scores + wide(bias)
    e, total, _ = attended(hide(scores, mask, band_of(is_causal, q.shape[-2], k.shape[-2])))
    weights = e.div_(total) if may_write() else e / total
    y = unfold(fold(weights, heads) @ wide(v), q)
    return to_dtype(y, q.dtype), Residuals(q, k, v, scale, q_norm, k_norm, to_dtype(weights, q.dtype))


def bwd(
    is_causal: Causal,
    residuals: Residuals,
    g: Tensor | None,
    like: Likes | None = None,
    *,
    g_weights: Tensor | None = None,
) -> Gradients:
    """`g_weights` is the cotangent of that residual. Only a second derivative has one, and there g may be None."""
    q, k, v, scale, q_norm, k_norm, weights = residuals
    # No gradient depends on the bias, so it is not saved; `like` says whether there is one, and what it looks like.
    like_q, like_k, like_v, like_scale, like_bias = like or likes(q, k, v, scale, weights)
    rows = wide(weights)
    dq = dk = dv = dscale = dbias = None
    if like_v is not None and g is not None:
        heads = like_v.shape[-3]
        dv = match(fold(rows, heads).mT @ fold(wide(g), heads), like_v)
    if v is None or all(a is None for a in (like_q, like_k, like_scale, like_bias)):  # nobody asks for more than dv
        return dq, dk, dv, dscale, dbias
    heads = v.shape[-3]
    dweights = torch.zeros_like(rows) if g is None else weights_gradient(wide(g), wide(v), weights)
    if g_weights is not None:
        dweights = dweights + wide(g_weights)
    dscores = scores_gradient(weights, dweights)
    if like_bias is not None:
        dbias = match(dscores, like_bias)
    if q is None or k is None or q_norm is None or k_norm is None:
        return dq, dk, dv, dscale, dbias
    unit_q, unit_k = wide(q) * _inverse(q_norm), wide(k) * _inverse(k_norm)
    # The norm divides a vector's length out, so the part of a gradient along the vector is taken off.
    if like_q is not None or like_scale is not None:
        dproduct = unfold(fold(dscores, heads) @ unit_k, weights).sum_to_size(unit_q.shape)  # the gradient of scale·q̂
        along = torch.sum(unit_q * dproduct, dim=-1, keepdim=True)
        dscale = None if like_scale is None else match(along, like_scale)
        if like_q is not None and scale is not None:
            dq = match(wide(scale) * _inverse(q_norm) * (dproduct - unit_q * along), like_q)
    if like_k is not None and scale is not None:
        dunit = (fold(dscores, heads).mT @ fold(wide(scale) * unit_q, heads)).sum_to_size(unit_k.shape)
        along = torch.sum(unit_k * dunit, dim=-1, keepdim=True)
        dk = match(_inverse(k_norm) * (dunit - unit_k * along), like_k)
    return dq, dk, dv, dscale, dbias


def bwd_residuals(
    residuals: Residuals, like: Likes, *, g_q_norm: Tensor | None, g_k_norm: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """What reaches q and k through the residuals q_norm and k_norm: d‖q‖/dq = q̂."""
    q, k, _, _, q_norm, k_norm, _ = residuals
    like_q, like_k, *_ = like
    dq = dk = None
    if g_q_norm is not None and like_q is not None and q is not None and q_norm is not None:
        dq = match(g_q_norm * wide(q) * _inverse(q_norm), like_q)
    if g_k_norm is not None and like_k is not None and k is not None and k_norm is not None:
        dk = match(g_k_norm * wide(k) * _inverse(k_norm), like_k)
    return dq, dk


class QKNormAttention(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, scale: Tensor, bias: Tensor | None, mask: Tensor | None, is_causal: Causal
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        with without_autocast(q):
            y, residuals = fwd(q, k, v, scale, bias, mask, is_causal)
        return batched_alike(y, residuals.q_norm, residuals.k_norm, residuals.weights)

    @staticmethod
    def setup_context(
        ctx: Any,
        inputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Causal],
        output: tuple[Tensor, Tensor, Tensor, Tensor],
    ) -> None:
        (q, k, v, scale, bias, _, ctx.is_causal), (_, q_norm, k_norm, weights) = inputs, output
        need_q, need_k, _, need_scale, need_bias, *_ = ctx.needs_input_grad
        need_units = need_q or need_k or need_scale
        saved = Residuals(
            q if need_units else None,
            k if need_units else None,
            v if need_units or need_bias else None,
            scale if need_q or need_k else None,
            q_norm if need_units else None,
            k_norm if need_units else None,
            weights,
        )
        ctx.save_for_backward(*saved)
        ctx.like = likes(q, k, v, scale, bias)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, g: Tensor | None, g_q_norm: Tensor | None, g_k_norm: Tensor | None, g_weights: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        residuals, like = Residuals(*ctx.saved_tensors), wanted(ctx)
        dq = dk = dv = dscale = dbias = None
        with without_autocast(residuals.weights):
            if not (g is None and g_weights is None):
                dq, dk, dv, dscale, dbias = bwd(ctx.is_causal, residuals, g, like, g_weights=g_weights)
            if not (g_q_norm is None and g_k_norm is None):  # second order only: both are outputs
                more_q, more_k = bwd_residuals(residuals, like, g_q_norm=g_q_norm, g_k_norm=g_k_norm)
                dq, dk = add(dq, more_q), add(dk, more_k)
        return dq, dk, dv, dscale, dbias, None, None


def qk_norm_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: Tensor | float,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    is_causal: Causal = False,
) -> Tensor:
    """y = P·v with P = softmax(scale·q̂·k̂ᵀ + bias), row by row, of the directions q̂ = q/‖q‖ and k̂ = k/‖k‖.

    The layout is that of `F.scaled_dot_product_attention`. With fewer key heads than query heads, each key head
    serves several adjacent query heads, as `enable_gqa=True` has it there.

    Args:
        q: (..., h, s, d) floating; leading axes broadcast among q, k and v. Three tensors without heads, (s, d), (t, d)
            and (t, e), are of one head, and so is y. A vector of zeros has no direction: its scores, and its gradient,
            are 0. Neither has a vector whose squares are beyond float32: of numbers below 1e-22 or above 1e19.
        k: (..., kv, t, d) floating; kv divides h. A vector of zeros as in q.
        v: (..., kv, t, e) floating.
        scale: a number, or floating and broadcasts to (..., h, s, 1), such as a scalar or (h, 1, 1); it has no default,
            since 1/√d makes the weights of unit vectors nearly uniform.
        bias: floating, broadcasts to (..., h, s, t), or None for 0; −∞ hides a key as the mask does.
        mask: booleans, broadcasts to (..., h, s, t), or None; True attends.
        is_causal: True: query i attends only the keys 0 to i, both counted from the first. "lower_right": the keys 0
            to i + t − s, so that the last query attends all of them, as decoding with a cache of keys wants it.

    Returns:
        (..., h, s, e), of q's dtype; computed in float32 if that is narrower. A query that attends no key gets zeros,
        and its gradients are 0. Under autocast q, k, v and bias are first cast to its dtype.

    Saves:
        q: (..., h, s, d), an input, no new bytes; not saved if neither q, k nor scale needs a gradient, and then
            neither are k, q_norm and k_norm.
        k: (..., kv, t, d), an input, no new bytes; not saved where q is not.
        v: (..., kv, t, e), an input, no new bytes; not saved if it alone needs a gradient. Neither bias nor mask is
            saved: what they do is in the weights.
        scale: broadcasts to (..., h, s, 1), an input, no new bytes; not saved if neither q nor k needs a gradient.
        q_norm: (..., h, s, 1), new, 4 bytes a row (8 in float64): without it the backward would reduce q² again.
        k_norm: (..., kv, t, 1), new, 4 bytes a row (8 in float64): without it the backward would reduce k² again.
        weights: (..., h, s, t), new, of q's dtype: without them the backward would compute the scores again.

    Raises:
        TypeError: q, k, v, scale or bias is not floating, mask is not boolean, or is_causal is neither a bool nor
            "lower_right".
        ValueError: the shapes do not fit.

    Source:
        Henry et al., "Query-Key Normalization for Transformers" (2020), equation 6.
    """
    if is_proxy(q, k, v, bias, mask, scale):
        options: dict[str, Any] = {"scale": scale, "bias": bias, "mask": mask, "is_causal": is_causal}
        return handle_torch_function(qk_norm_attention, (q, k, v, bias, mask, scale), q, k, v, **options)
    q, k, v = floating("q", q), floating("k", k), floating("v", v)
    if isinstance(scale, bool) or not isinstance(scale, Real | Tensor):
        raise TypeError(f"scale: expected a floating tensor or a number, got {type(scale).__name__}")
    if not isinstance(scale, Tensor):
        scale = torch.full((), float(scale), dtype=torch.promote_types(q.dtype, torch.float32), device=q.device)
    scale = floating("scale", scale)
    if scale.ndim and scale.dtype != q.dtype and torch.float64 in (scale.dtype, q.dtype):
        raise TypeError(f"scale: expected {q.dtype}, the dtype of q, got {scale.dtype}")
    is_one_head = q.ndim == k.ndim == v.ndim == 2
    if is_one_head:
        q, k, v = q[None], k[None], v[None]
    bias = None if bias is None else floating("bias", bias)
    check_attention(q, k, v, bias, mask, is_causal)
    check_broadcasts("scale", scale, (*q.shape[:-1], 1))
    q, k, v, bias = autocasted(q, k, v, bias)
    y, *_ = QKNormAttention.apply(q, k, v, scale, bias, mask, is_causal)
    return y[0] if is_one_head else y

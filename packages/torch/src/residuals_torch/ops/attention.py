"""Attention that saves its weights: y = P·v, P = softmax(scale·q·kᵀ + bias) row by row.

With dropout y = (P·kept/(1 - rate))·v, and the gradient of P has the factor kept/(1 - rate) too.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.attention import (
    Causal,
    apart,
    attended,
    band_of,
    cap,
    cap_gradient,
    check_attention,
    check_options,
    fold,
    hide,
    scaling,
    scores_gradient,
    unfold,
    weights_gradient,
)
from residuals_torch._lib.bits import pack_bits
from residuals_torch._lib.blocks import in_blocks
from residuals_torch._lib.checks import Number, floating, is_proxy, read
from residuals_torch._lib.cotangents import Likes, likes, match, wanted
from residuals_torch._lib.dropout import drop, drop_again, keep_mask, two_words
from residuals_torch._lib.dtypes import to_dtype, wide
from residuals_torch._lib.modes import autocasted, batched_alike, may_write, without_autocast


class Residuals(NamedTuple):
    q: Tensor | None  # (..., h, s, d)  input: times the scores' gradient it is that of k; None if k is frozen
    k: Tensor | None  # (..., kv, t, d)  input: times the scores' gradient it is that of q; None if q is frozen
    v: Tensor | None  # (..., kv, t, e)  input: carries the cotangent to the weights; None if only v needs a gradient
    weights: Tensor  # (..., h, s, t)  new: quadratic in the sequence; all that the gradient needs of the softmax
    tanh: Tensor | None  # (..., h, s, t)  new, float32 or wider: a softcap's slope, 1 − tanh²; None with none, and if q
    # and k are frozen
    kept: Tensor | None  # (..., h, s, ⌈t/8⌉)  new, packed bits: what dropout kept; None at the rates 0 and 1


RECOMPUTES: dict[str, str] = {}

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def fwd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    key: Tensor | None,
    is_causal: Causal,
    scale: float | None,
    softcap: float | None,
    window: int | None,
    dropout: float,
) -> tuple[Tensor, Residuals]:
    heads = k.shape[-3]
    # q is scaled, and not the scores, of which there are more; XLA fuses the one and the other.
    scores, tanh = cap(unfold(fold(wide(q) * scaling(scale, q), heads) @ wide(k).mT, q), softcap)
    if bias is not None:
        scores = scores + wide(bias)
    e, total, _ = attended(hide(scores, mask, band_of(is_causal, q.shape[-2], k.shape[-2], window)))
    weights = e.div_(total) if may_write() else e / total
    kept = keep_mask(key, weights, dropout)
    dropped = drop(weights, kept, dropout) if dropout else weights
    y = unfold(fold(dropped, heads) @ wide(v), q)
    bits = None if kept is None else in_blocks(pack_bits, kept, axis=-1)
    return to_dtype(y, q.dtype), Residuals(q, k, v, to_dtype(weights, q.dtype), tanh, bits)


def bwd(
    is_causal: Causal,
    scale: float | None,
    softcap: float | None,
    window: int | None,
    dropout: float,
    residuals: Residuals,
    g: Tensor | None,
    like: Likes | None = None,
    *,
    g_weights: Tensor | None = None,
    g_tanh: Tensor | None = None,
) -> Gradients:
    """Those with a name are the cotangents of residuals. Only a second derivative has them; there g may be None."""
    q, k, v, weights, tanh, bits = residuals
    # No gradient depends on the bias, so it is not saved; `like` says whether there is one, and what it looks like.
    like_q, like_k, like_v, like_bias = like or likes(q, k, v, weights)
    rows = wide(weights)
    dq = dk = dv = dbias = None
    if like_v is not None and g is not None:
        heads = like_v.shape[-3]
        dv = match(fold(drop_again(rows, bits, dropout), heads).mT @ fold(wide(g), heads), like_v)
    if v is None or (like_q is None and like_k is None and like_bias is None):  # nobody asks for more than dv
        return dq, dk, dv, dbias
    heads = v.shape[-3]
    if g is None:
        dweights = torch.zeros_like(rows)
    else:
        dweights = drop_again(weights_gradient(wide(g), wide(v), weights), bits, dropout)
    if g_weights is not None:
        dweights = dweights + wide(g_weights)
    dscores = scores_gradient(weights, dweights)
    if like_bias is not None:
        dbias = match(dscores, like_bias)
    if tanh is not None and softcap is not None:
        dscores = cap_gradient(dscores.sum_to_size(tanh.shape), tanh)
        dscores = dscores if g_tanh is None else dscores + cap_gradient(wide(g_tanh) / softcap, tanh)
    if like_q is not None and k is not None:
        dq = match(unfold(fold(dscores, heads) @ wide(k), weights) * scaling(scale, k), like_q)
    if like_k is not None and q is not None:
        dk = match(fold(dscores, heads).mT @ fold(wide(q), heads) * scaling(scale, q), like_k)
    return dq, dk, dv, dbias


class Attention(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        mask: Tensor | None,
        key: Tensor | None,
        is_causal: Causal,
        scale: float | None,
        softcap: float | None,
        window: int | None,
        dropout: float,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        with without_autocast(q):
            y, residuals = fwd(q, k, v, bias, mask, key, is_causal, scale, softcap, window, dropout)
        return *batched_alike(y, residuals.weights, residuals.tanh), residuals.kept

    @staticmethod
    def setup_context(
        ctx: Any,
        inputs: tuple[Any, ...],  # those of `forward`
        output: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    ) -> None:
        (q, k, v, bias, _, _, *ctx.static), (_, weights, tanh, kept) = inputs, output
        need_q, need_k, _, need_bias, *_ = ctx.needs_input_grad
        need_scores = need_q or need_k or need_bias
        need_tanh = need_q or need_k
        inputs_saved = (q if need_k else None, k if need_q else None, v if need_scores else None)
        saved = Residuals(*inputs_saved, weights, tanh if need_tanh else None, kept)
        ctx.save_for_backward(*saved)
        ctx.like = likes(q, k, v, bias)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, g: Tensor | None, g_weights: Tensor | None, g_tanh: Tensor | None, _kept: None
    ) -> tuple[Tensor | None, ...]:
        if g is None and g_weights is None and g_tanh is None:
            return (None,) * 11
        is_causal, scale, softcap, window, dropout = ctx.static
        residuals, like = Residuals(*ctx.saved_tensors), wanted(ctx)
        with without_autocast(residuals.weights):
            gradients = bwd(
                is_causal, scale, softcap, window, dropout, residuals, g, like, g_weights=g_weights, g_tanh=g_tanh
            )
        return *gradients, *[None] * 7


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    is_causal: Causal = False,
    scale: Tensor | float | None = None,
    softcap: float | None = None,
    window: int | None = None,
    dropout: Number = 0.0,
    key: Tensor | None = None,
) -> Tensor:
    """y = P·v with P = softmax(scale·q·kᵀ + bias), row by row.

    The layout is that of `F.scaled_dot_product_attention`. With fewer key heads than query heads, each key head
    serves several adjacent query heads, as `enable_gqa=True` has it there.

    Args:
        q: (..., h, s, d) floating; leading axes broadcast among q, k and v. Three tensors without heads, (s, d), (t, d)
            and (t, e), are of one head, and so is y.
        k: (..., kv, t, d) floating; kv divides h.
        v: (..., kv, t, e) floating.
        bias: floating, broadcasts to (..., h, s, t), or None for 0; −∞ hides a key as the mask does.
        mask: booleans, broadcasts to (..., h, s, t), or None; True attends.
        is_causal: True: query i attends only the keys 0 to i, both counted from the first. "lower_right": the keys 0
            to i + t − s, so that the last query attends all of them, as decoding with a cache of keys wants it.
        scale: a number, or None for 1/√d. One that is a tensor, which may be learned and broadcasts to (..., h, s, 1),
            is multiplied into q first, and that product saved in place of q: new bytes.
        softcap: a number c > 0: the scaled scores become c·tanh(scores/c) before bias and mask, as in Gemma 2 and in
            flash-attn; None for no cap.
        window: an int n > 0: a query attends only keys less than n away from its own, which is key i, or key i + t − s
            if is_causal is "lower_right". With is_causal those are n keys, its own the last, as in Mistral's
            `sliding_window`; else also n − 1 after it. flash-attn, always lower right, has (n − 1, 0) and
            (n − 1, n − 1) for the two. None for no window.
        dropout: the rate at which weights are dropped, from 0 to 1; those that are kept are divided by 1 - rate. It
            always applies: `dropout=rate if training else 0.0`. A Python number, or a
            tensor of no axes that can be read: not in compiled code, nor under vmap. It is a constant to the
            derivative.
        key: two uint32: it drops weights as the op `dropout` drops elements of a tensor of their shape. None: the
            global generator draws.

    Returns:
        (..., h, s, e), of q's dtype; computed in float32 if that is narrower. A query that attends no key gets zeros,
        and its gradients are 0. Under autocast q, k, v and bias are first cast to its dtype.

    Saves:
        q: (..., h, s, d), an input, no new bytes; not saved if k needs no gradient.
        k: (..., kv, t, d), an input, no new bytes; not saved if q needs no gradient.
        v: (..., kv, t, e), an input, no new bytes; not saved if it alone needs a gradient. Neither bias nor mask is
            saved: what they do is in the weights.
        weights: (..., h, s, t), new, of q's dtype: without them the backward would compute the scores again, as
            `flash_attention` does.
        tanh: (..., h, s, t), new, only with a softcap c: tanh(scores/c), since the gradient has the factor
            1 − tanh², for which 16 bits of it are too few: float32 or wider; not saved if neither q nor k needs a
            gradient.
        kept: (..., h, s, ⌈t/8⌉), new, uint8, only with dropout: one bit a weight, as the mask of `dropout`, so that the
            backward draws nothing. The weights are those before it.

    Raises:
        TypeError: q, k, v or bias is not floating, mask is not boolean, is_causal is neither a bool nor
            "lower_right", scale, softcap or dropout is not a number, window is not an int, or key is not two uint32.
        ValueError: the shapes do not fit, softcap or window is not positive, or dropout is not from 0 to 1.

    Source:
        Vaswani et al., "Attention Is All You Need" (2017), equation 1.
    """
    if is_proxy(q, k, v, bias, mask, scale, key):
        options: dict[str, Any] = {
            "bias": bias,
            "mask": mask,
            "is_causal": is_causal,
            "scale": scale,
            "softcap": softcap,
            "window": window,
            "dropout": dropout,
            "key": key,
        }
        return handle_torch_function(attention, (q, k, v, bias, mask, scale, key), q, k, v, **options)
    q, k, v = floating("q", q), floating("k", k), floating("v", v)
    is_one_head = q.ndim == k.ndim == v.ndim == 2
    if is_one_head:
        q, k, v = q[None], k[None], v[None]
    bias = None if bias is None else floating("bias", bias)
    check_attention(q, k, v, bias, mask, is_causal, scale)
    check_options(softcap, window)
    dropout = read("dropout", dropout, most=1)
    key = None if key is None else two_words("key", key)
    q, k, v, bias = autocasted(q, k, v, bias)
    q, scale = apart(q, scale)
    y, *_ = Attention.apply(q, k, v, bias, mask, key, is_causal, scale, softcap, window, dropout)
    return y[0] if is_one_head else y

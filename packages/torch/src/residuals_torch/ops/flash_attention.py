"""Attention that saves one number a row: y = softmax(scale·q·kᵀ + bias)·v, block after block of queries."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.attention import (
    Band,
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
    unfold,
    weights_gradient,
)
from residuals_torch._lib.checks import floating, is_proxy
from residuals_torch._lib.cotangents import Like, Likes, likes, match, wanted
from residuals_torch._lib.dtypes import to_dtype, wide
from residuals_torch._lib.modes import autocasted, batched_alike, is_program, may_write, without_autocast

BLOCK = 256  # queries at a time: their scores are the only array that grows with queries times keys


class Residuals(NamedTuple):
    q: Tensor  # (..., h, s, d)  input: the scores are computed again from it
    k: Tensor  # (..., kv, t, d)  input: the scores are computed again from it
    v: Tensor | None  # (..., kv, t, e)  input: carries the cotangent to the weights; None if only v needs a gradient
    bias: Tensor | None  # broadcasts to (..., h, s, t)  input: part of the scores
    mask: Tensor | None  # broadcasts to (..., h, s, t)  input: hides scores
    out: Tensor | None  # (..., h, s, e)  output: with the cotangent it gives Σ P·dP of a row; None in dtypes narrower
    # than float32, whose rounding is too coarse for that; None if only v needs a gradient
    logsumexp: Tensor  # (..., h, s)  new, float32 or wider: makes weights of scores, with no sum; an output if returned


RECOMPUTES = {
    "matmul": "the scores, block after block, where an array of them would be quadratic in the sequence",
    "tanh": "of the scores in a softcap, for the same reason",
}

Results = tuple[Tensor, Tensor]  # out and logsumexp
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def _blocks(q: Tensor, k: Tensor, band: Band) -> Iterator[tuple[slice, slice]]:
    """The queries of each block, and the keys that one of them may attend."""
    queries, keys, (first, last) = q.shape[-2], k.shape[-2], band
    for start in range(0, max(queries, 1), BLOCK):
        stop = min(start + BLOCK, queries)
        end = keys if last is None else max(min(stop + last, keys), 0)
        yield slice(start, stop), slice(0 if first is None else min(max(start + first, 0), end), end)


def _queries(a: Tensor, rows: slice) -> Tensor:
    """The rows of a block; not by an index: of all rows that is an alias, and gradcheck's vmap has no rule for one."""
    return a.narrow(-2, rows.start, rows.stop - rows.start)


def _has_rows(a: Tensor | None) -> bool:
    """Whether a bias or mask has a row for each query, not one for all."""
    return a is not None and a.ndim > 1 and a.shape[-2] > 1


def _part(a: Tensor | None, rows: slice, keys: slice) -> Tensor | None:
    """A block's part of a bias or mask, which may have one row for all queries, or one column for all keys."""
    a = _queries(a, rows) if a is not None and _has_rows(a) else a
    return a[..., keys] if a is not None and a.ndim > 0 and a.shape[-1] > 1 else a


def _scores(
    q: Tensor, k: Tensor, bias: Tensor | None, mask: Tensor | None, band: Band, first: int, softcap: float | None
) -> tuple[Tensor, Tensor | None]:
    """(..., h, b, t): the scores of a block of b scaled queries, and the tanh of a softcap."""
    scores, tanh = cap(unfold(fold(q, k.shape[-3]) @ k.mT, q), softcap)
    return hide(scores if bias is None else scores + wide(bias), mask, band, first), tanh


def fwd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    is_causal: Causal | str,
    scale: float | None,
    softcap: float | None,
    window: int | None,
) -> tuple[Results, Residuals]:
    scaled, wide_k, wide_v = wide(q) * scaling(scale, q), wide(k), wide(v)
    band = band_of(is_causal, q.shape[-2], k.shape[-2], window)
    outs, sums = [], []
    for rows, keys in _blocks(q, k, band):
        parts = (_part(bias, rows, keys), _part(mask, rows, keys))
        first = rows.start - keys.start
        scores, _ = _scores(_queries(scaled, rows), wide_k[..., keys, :], *parts, band, first, softcap)
        e, total, logsumexp = attended(scores)
        outs.append(to_dtype(unfold(fold(e, k.shape[-3]) @ wide_v[..., keys, :], e) / total, q.dtype))
        sums.append(logsumexp)
    out, logsumexp = torch.cat(outs, dim=-2), torch.cat(sums, dim=-1)
    is_narrow = out.dtype != logsumexp.dtype
    return (out, logsumexp), Residuals(q, k, v, bias, mask, None if is_narrow else out, logsumexp)


def bwd(
    is_causal: Causal | str,
    scale: float | None,
    softcap: float | None,
    window: int | None,
    residuals: Residuals,
    g: Tensor | None,
    like: Likes | None = None,
    *,
    g_logsumexp: Tensor | None = None,
) -> Gradients:
    q, k, v, bias, mask, out, logsumexp = residuals
    like_q, like_k, like_v, like_bias = like or likes(q, k, v, bias)
    need_scores = v is not None and not (like_q is None and like_k is None and like_bias is None)
    heads, band = k.shape[-3], band_of(is_causal, q.shape[-2], k.shape[-2], window)
    in_place = may_write(q, k, v, bias, mask, logsumexp, g, g_logsumexp)
    bias = bias.reshape(1) if bias is not None and bias.ndim == 0 else bias
    scaled, wide_k, wide_v = wide(q) * scaling(scale, q), wide(k), None if v is None else wide(v)
    is_none = logsumexp == -torch.inf  # no key attended
    shift = torch.where(is_none, 0, logsumexp).unsqueeze(-1)
    # dscores = P·(dP − Σ P·dP), where Σ P·dP = Σ g·out; and dlogsumexp/dscores = P.
    dot = torch.zeros_like(shift) if g_logsumexp is None else -torch.where(is_none, 0, g_logsumexp).unsqueeze(-1)
    if g is not None and out is not None:
        dot = dot + torch.sum(wide(g) * wide(out), dim=-1, keepdim=True).sum_to_size(shift.shape)

    dqs, dbiases = [], []
    dk = dv = dbias = None
    for rows, keys in reversed(list(_blocks(q, k, band))):  # the last keys are the last one's; the others add to it
        parts = (_part(bias, rows, keys), _part(mask, rows, keys))
        first = rows.start - keys.start
        weights, tanh = _scores(_queries(scaled, rows), wide_k[..., keys, :], *parts, band, first, softcap)
        weights = weights.sub_(_queries(shift, rows)) if in_place else weights - _queries(shift, rows)
        weights = weights.exp_() if in_place else torch.exp(weights)
        g_rows = None if g is None else wide(_queries(g, rows))
        if g_rows is not None and like_v is not None:
            dv = _add(dv, fold(weights, heads).mT @ fold(g_rows, heads), -2, keys.start)
        if not need_scores:
            continue
        v_keys = None if wide_v is None else wide_v[..., keys, :]
        dscores = _scores_gradient(weights, _queries(dot, rows), g_rows, v_keys, out is None, in_place)
        if like_bias is not None and bias is not None and parts[0] is not None:
            part, start = dscores.sum_to_size(parts[0].shape), keys.start if bias.shape[-1] > 1 else 0
            if _has_rows(bias):
                dbiases.append(_padded(part, bias.shape[-1], -1, start))
            else:  # a sum over no axis is `dscores` itself, which other blocks must not be added to
                dbias = _add(dbias, part.clone() if part is dscores else part, -1, start)
        dscores = cap_gradient(dscores, tanh)
        if like_q is not None:
            dqs.append(unfold(fold(dscores, heads) @ wide_k[..., keys, :], weights))
        if like_k is not None:
            dk = _add(dk, fold(dscores, heads).mT @ fold(_queries(scaled, rows), heads), -2, keys.start)
    dq = None if like_q is None or not dqs else match(torch.cat(dqs[::-1], dim=-2) * scaling(scale, q), like_q)
    dk, dv = _fitted(dk, like_k), _fitted(dv, like_v)
    if like_bias is not None and bias is not None and need_scores:
        dbias = torch.cat(dbiases[::-1], dim=-2) if dbiases else dbias
        dbias = None if dbias is None else match(_padded(dbias, bias.shape[-1], -1), like_bias)
    return dq, dk, dv, dbias


def _scores_gradient(
    weights: Tensor,
    dot: Tensor,
    g: Tensor | None,
    v: Tensor | None,
    is_out_missing: bool,
    in_place: bool,
) -> Tensor:
    """P·(dP − dot) of one block, where dP = g·vᵀ; dot has Σ P·dP in it, unless `out`, which gives it, is not saved."""
    if g is None or v is None:
        return -dot * weights
    dweights = weights_gradient(g, v, weights)
    if is_out_missing:
        dot = dot + torch.sum(weights * dweights, dim=-1, keepdim=True)
    dscores = dweights.sub_(dot) if in_place else dweights - dot
    return dscores.mul_(weights) if in_place else dscores * weights


def _fitted(total: Tensor | None, like: Like | None) -> Tensor | None:
    """The gradient of k or v, with zeros for the keys that no query attends, as its array is."""
    return None if like is None or total is None else match(_padded(total, like.shape[-2], -2), like)


def _add(total: Tensor | None, part: Tensor, axis: int, start: int) -> Tensor:
    """The sum, in place; `part` has the keys from `start` on, and none after those of the sum."""
    if total is None:
        return _padded(part, start + part.shape[axis], axis, start)
    total.narrow(axis, start, part.shape[axis]).add_(part)
    return total


def _padded(a: Tensor, keys: int, axis: int, start: int = 0) -> Tensor:
    """`a`, of the keys from `start` on, with zeros for the other keys, which no query attends."""
    sides = (start, keys - start - a.shape[axis])
    return torch.nn.functional.pad(a, sides if axis == -1 else (0, 0, *sides)) if any(sides) else a


class FlashAttention(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        mask: Tensor | None,
        is_causal: str,
        scale: float | None,
        softcap: float | None,
        window: int | None,
    ) -> Results:
        with without_autocast(q):
            return batched_alike(*fwd(q, k, v, bias, mask, is_causal, scale, softcap, window)[0])

    @staticmethod
    def setup_context(
        ctx: Any,
        inputs: tuple[
            Tensor, Tensor, Tensor, Tensor | None, Tensor | None, str, float | None, float | None, int | None
        ],
        output: Results,
    ) -> None:
        q, k, v, bias, _, *ctx.static = inputs
        saved = _saved(ctx, inputs, output)  # a variable: by its fields an audit knows what they are
        ctx.save_for_backward(*saved)
        ctx.like = likes(q, k, v, bias)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, g_logsumexp: Tensor | None) -> tuple[Tensor | None, ...]:
        if g is None and g_logsumexp is None:
            return (None,) * 9
        is_causal, scale, softcap, window = ctx.static
        residuals = Residuals(*ctx.saved_tensors)
        with without_autocast(residuals.q):
            gradients = bwd(is_causal, scale, softcap, window, residuals, g, wanted(ctx), g_logsumexp=g_logsumexp)
        return *gradients, *[None] * 5


def _saved(ctx: Any, inputs: tuple[Any, ...], output: Results) -> Residuals:
    (q, k, v, bias, mask, *_), (out, logsumexp) = inputs, output
    need_q, need_k, _, need_bias, *_ = ctx.needs_input_grad
    need_scores = need_q or need_k or need_bias
    need_out = need_scores and out.dtype == logsumexp.dtype
    return Residuals(q, k, v if need_scores else None, bias, mask, out if need_out else None, logsumexp)


# The loop over blocks would be unrolled in a compiled program, which then had one length; two operators have any.
# An operator's argument has one type: there `is_causal` is a word, and "" for False.
_forward = torch.library.custom_op("residuals_torch::flash_attention", mutates_args=())(FlashAttention.forward)


@torch.library.custom_op("residuals_torch::flash_attention_backward", mutates_args=())
def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    bias: Tensor | None,
    mask: Tensor | None,
    out: Tensor | None,
    logsumexp: Tensor,
    g: Tensor,
    g_logsumexp: Tensor,
    wanted: list[bool],
    v_shape: list[int],
    v_dtype: torch.dtype,
    is_causal: str,
    scale: float | None,
    softcap: float | None,
    window: int | None,
) -> list[Tensor]:
    """The gradients that are wanted, of q, k, v and bias."""
    residuals = Residuals(q, k, v, bias, mask, out, logsumexp)
    each = *likes(q, k), Like(torch.Size(v_shape), v_dtype), *likes(bias)
    like = tuple(one if need else None for one, need in zip(each, wanted, strict=True))
    with without_autocast(q):
        gradients = bwd(is_causal, scale, softcap, window, residuals, g, like, g_logsumexp=g_logsumexp)
    return [d.contiguous() for d in gradients if d is not None]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Results) -> None:
    _, _, v, _, _, *ctx.static = inputs
    ctx.save_for_backward(*_saved(ctx, inputs, output))
    ctx.like_v = Like(v.shape, v.dtype)


def _gradients(ctx: Any, g: Tensor, g_logsumexp: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[:4])
    gradients = iter(_backward(*ctx.saved_tensors, g, g_logsumexp, needs, *ctx.like_v, *ctx.static))
    return *(next(gradients) if need else None for need in needs), *[None] * 5


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None, *others: Any) -> Results:
    leads = [a.shape[:-3] for a in (q, k, bias, mask) if a is not None]
    lead, rows = torch.broadcast_shapes(*leads), q.shape[-3:-1]
    out = q.new_empty(*torch.broadcast_shapes(lead, v.shape[:-3]), *rows, v.shape[-1])
    return out, wide(q).new_empty(*lead, *rows)


@_backward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor | None, bias: Tensor | None, *others: Any) -> list[Tensor]:
    *_, wanted, v_shape, v_dtype, _, _, _, _ = others
    every = [(q.shape, q.dtype), (k.shape, k.dtype), (v_shape, v_dtype)]
    every += [] if bias is None else [(bias.shape, bias.dtype)]
    return [q.new_empty(shape, dtype=dtype) for (shape, dtype), need in zip(every, wanted, strict=False) if need]


_forward.register_autograd(_gradients, setup_context=_save)


def flash_attention(
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
    return_logsumexp: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = P·v with P = softmax(scale·q·kᵀ + bias), row by row, without a tensor of queries times keys.

    Forward and backward go over blocks of queries, each with all keys that it may attend. The layout is that of
    `F.scaled_dot_product_attention`. With fewer key heads than query heads, each key head serves several
    adjacent query heads, as `enable_gqa=True` has it there. A second derivative keeps the scores of every block, and
    makes memory quadratic again.

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
        return_logsumexp: whether to return the log-sum-exp of each row's scores too; a Python bool.

    Returns:
        y: (..., h, s, e), of q's dtype; computed in float32 if that is narrower. A query that attends no key gets
            zeros, and its gradients are 0. Under autocast q, k, v and bias are first cast to its dtype.
        logsumexp: (..., h, s), float32 or wider, differentiable, only if asked for; −∞ where no key is attended. With
            it, attention to parts of the keys can be merged.

    Saves:
        q: (..., h, s, d), an input, no new bytes.
        k: (..., kv, t, d), an input, no new bytes.
        v: (..., kv, t, e), an input, no new bytes; not saved if it alone needs a gradient.
        bias: broadcasts to (..., h, s, t), an input, no new bytes: the scores are computed again.
        mask: broadcasts to (..., h, s, t), an input, no new bytes.
        out: (..., h, s, e), the output, no new bytes where the next operation saves its input anyway; not saved in
            dtypes narrower than float32, where its rounding would spoil the gradients, nor if v alone needs a gradient.
        logsumexp: (..., h, s), new, 4 bytes a row (8 in float64), an output if returned: without it the backward
            would look for the largest score of each row again. Its rounding is a relative error of the
            weights in the backward: in float32 2e-7 where it is about 4, 5e-4 where it is about 1e4, and all of them
            where a bias is -1e9 in a whole row; hide keys by the mask, or by −∞.

    Raises:
        TypeError: q, k, v or bias is not floating, mask is not boolean, is_causal is neither a bool nor
            "lower_right", scale or softcap is not a number, or window is not an int.
        ValueError: the shapes do not fit, or softcap or window is not positive.

    Source:
        Dao et al., "FlashAttention" (2022), algorithms 1 and 4, with blocks of queries alone; Milakov & Gimelshein,
        "Online normalizer calculation for softmax" (2018) for the log-sum-exp.
    """
    if is_proxy(q, k, v, bias, mask, scale):
        options: dict[str, Any] = {
            "bias": bias,
            "mask": mask,
            "is_causal": is_causal,
            "scale": scale,
            "softcap": softcap,
            "window": window,
            "return_logsumexp": return_logsumexp,
        }
        return handle_torch_function(flash_attention, (q, k, v, bias, mask, scale), q, k, v, **options)
    q, k, v = floating("q", q), floating("k", k), floating("v", v)
    is_one_head = q.ndim == k.ndim == v.ndim == 2
    if is_one_head:
        q, k, v = q[None], k[None], v[None]
    bias = None if bias is None else floating("bias", bias)
    check_attention(q, k, v, bias, mask, is_causal, scale)
    check_options(softcap, window)
    q, k, v, bias = autocasted(q, k, v, bias)
    q, scale = apart(q, scale)
    rule = _forward if is_program() else FlashAttention.apply
    word = "upper_left" if is_causal is True else is_causal or ""
    out, logsumexp = rule(q, k, v, bias, mask, word, scale, softcap, window)
    if is_one_head:
        out, logsumexp = out[0], logsumexp[0]
    return (out, logsumexp) if return_logsumexp else out

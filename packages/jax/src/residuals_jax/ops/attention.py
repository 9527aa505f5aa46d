"""Attention that saves its weights: y = P·v, P = softmax(scale·q·kᵀ + bias) row by row.

With dropout y = (P·kept/(1 - rate))·v, and the gradient of P has the factor kept/(1 - rate) too.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike

from residuals_jax._lib.attention import (
    Causal,
    apart,
    attended,
    band_of,
    cap,
    cap_gradient,
    check_attention,
    check_options,
    rounded,
    scaling,
    scores_gradient,
    scores_of,
    sum_of_queries,
    times_keys,
    weights_gradient,
)
from residuals_jax._lib.bits import pack_bits, unpack_bits
from residuals_jax._lib.checks import Number, floating, joined, nonnegative, plain
from residuals_jax._lib.checks import apart as rate_apart
from residuals_jax._lib.cotangents import Likes, likes, match, to_rank
from residuals_jax._lib.dropout import drawing_key, draws, drop, keep_mask
from residuals_jax._lib.dtypes import to_dtype, wide, wider


class Residuals(NamedTuple):
    q: Array  # (..., h, s, d)  input: times the scores' gradient it is that of k
    k: Array  # (..., kv, t, d)  input: times the scores' gradient it is that of q
    v: Array  # (..., kv, t, e)  input: carries the cotangent to the weights
    weights: Array  # (..., h, s, t)  new: quadratic in the sequence; all that the gradient needs of the softmax
    tanh: Array | None  # (..., h, s, t)  new, float32 or wider: a softcap's slope, 1 − tanh²; None with no softcap
    kept: Array | None  # (..., h, s, ⌈t/8⌉)  new, packed bits: what dropout kept; None at the rates 0 and 1


RECOMPUTES: dict[str, str] = {}


def fwd(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    mask: Array | None,
    key: Array | None,
    is_causal: Causal,
    scale: float | None,
    softcap: float | None,
    window: int | None,
    dropout: Number,
) -> tuple[Array, Residuals]:
    scores, tanh = cap(scores_of(q, k, scaling(scale, q)), softcap)
    if bias is not None:
        scores = scores + to_rank(wide(bias), scores.ndim)
    e, total, *_ = attended(scores, mask, band_of(is_causal, q.shape[-2], k.shape[-2], window))
    weights = checkpoint_name(e / total, "attention.weights")
    kept = keep_mask(key, weights.shape, dropout)
    y = times_keys(rounded(drop(weights, kept, dropout), v, q), v)
    bits = None if kept is None else pack_bits(kept)
    return to_dtype(y, q.dtype), Residuals(q, k, v, to_dtype(weights, q.dtype), tanh, bits)


def bwd(
    is_causal: Causal,
    scale: float | None,
    softcap: float | None,
    window: int | None,
    dropout: Number,
    residuals: Residuals,
    g: Array,
    like: Likes | None = None,
) -> tuple[Array, Array, Array, Array | None, None, None]:
    q, k, v, weights, tanh, bits = residuals
    # No gradient depends on the bias, so it is not saved; `like` says whether there is one, and what it looks like.
    _, _, _, like_bias = like or likes(q, k, v, weights)
    heads = k.shape[-3]
    kept = None if bits is None else unpack_bits(bits, weights.shape)
    dv = match(sum_of_queries(drop(weights, kept, dropout), g, heads), v)
    dscores = scores_gradient(weights, drop(weights_gradient(g, v, weights), kept, dropout))
    dbias = None if like_bias is None else match(dscores, like_bias)
    dscores = cap_gradient(dscores, tanh)
    dq = match(times_keys(dscores, k) * scaling(scale, q), q)
    dk = match(sum_of_queries(rounded(dscores, q, k), q, heads) * scaling(scale, q), k)
    return dq, dk, dv, dbias, None, None


@partial(jax.custom_vjp, nondiff_argnums=(7, 8, 9, 10, 11, 12))
def _attention(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    mask: Array | None,
    key: Array | None,
    traced: Array | None,
    is_causal: Causal,
    scale: float | None,
    softcap: float | None,
    window: int | None,
    rate: float,
    like: Likes,
) -> Array:
    return fwd(q, k, v, bias, mask, key, is_causal, scale, softcap, window, joined(traced, rate))[0]


def _saving_rate(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    mask: Array | None,
    key: Array | None,
    traced: Array | None,
    is_causal: Causal,
    scale: float | None,
    softcap: float | None,
    window: int | None,
    rate: float,
    like: Likes,
) -> tuple[Array, tuple[Residuals, Array | None]]:
    y, residuals = fwd(q, k, v, bias, mask, key, is_causal, scale, softcap, window, joined(traced, rate))
    return y, (residuals, traced)


_attention.defvjp(
    _saving_rate,
    lambda is_causal, scale, softcap, window, rate, like, saved, g: (
        *bwd(is_causal, scale, softcap, window, joined(saved[1], rate), saved[0], g, like),
        None,
    ),
)


def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    is_causal: Causal = False,
    scale: ArrayLike | None = None,
    softcap: float | None = None,
    window: int | None = None,
    dropout: ArrayLike = 0.0,
    key: ArrayLike | None = None,
) -> Array:
    """y = P·v with P = softmax(scale·q·kᵀ + bias), row by row.

    The layout is PyTorch's, heads before the sequence; `jax.nn.dot_product_attention` has (b, s, h, d): swap the axes
    -2 and -3. With fewer key heads than query heads, each key head serves several adjacent query heads.

    Args:
        q: (..., h, s, d) floating; leading axes broadcast among q, k and v. Three arrays without heads, (s, d), (t, d)
            and (t, e), are of one head, and so is y.
        k: (..., kv, t, d) floating; kv divides h.
        v: (..., kv, t, e) floating.
        bias: floating, broadcasts to (..., h, s, t), or None for 0; −∞ hides a key as the mask does.
        mask: booleans, broadcasts to (..., h, s, t), or None; True attends.
        is_causal: True: query i attends only the keys 0 to i, both counted from the first. "lower_right": the keys 0
            to i + t − s, so that the last query attends all of them, as decoding with a cache of keys wants it.
        scale: a number, or None for 1/√d. One that is an array, which may be traced and learned and broadcasts to
            (..., h, s, 1), is multiplied into q first, and that product saved in place of q: new bytes.
        softcap: a number c > 0: the scaled scores become c·tanh(scores/c) before bias and mask, as in Gemma 2 and in
            flash-attn; None for no cap.
        window: an int n > 0: a query attends only keys less than n away from its own, which is key i, or key i + t − s
            if is_causal is "lower_right". With is_causal those are n keys, its own the last, as in Mistral's
            `sliding_window`; else also n − 1 after it. flash-attn, always lower right, has (n − 1, 0) and
            (n − 1, n − 1) for the two. None for no window.
        dropout: the rate at which weights are dropped, from 0 to 1; those that are kept are divided by 1 - rate. It
            always applies: `dropout=rate if training else 0.0`. One that is traced is saved, 4 bytes (8 in
            float64), and is a constant to the derivative.
        key: two uint32, or a `jax.random.key`: it drops weights as the op `dropout` drops elements of an array of their
            shape; under `shard_map` devices with the same key draw the same. It may be None at the rates 0 and 1, where
            nothing is drawn.

    Returns:
        (..., h, s, e), of q's dtype; computed in float32 if that is narrower, but that in bfloat16 the weights are
        rounded to be multiplied by v, and added up in float32. A query that attends no key gets zeros, and its
        gradients are 0.

    Saves:
        q: (..., h, s, d), an input, no new bytes.
        k: (..., kv, t, d), an input, no new bytes.
        v: (..., kv, t, e), an input, no new bytes. Neither bias nor mask is saved: what they do is in the weights.
        weights: (..., h, s, t), new, of q's dtype: without them the backward would compute the scores again, as
            `flash_attention` does.
        tanh: (..., h, s, t), new, only with a softcap c: tanh(scores/c), since the gradient has the factor
            1 − tanh², for which 16 bits of it are too few: float32 or wider.
        kept: (..., h, s, ⌈t/8⌉), new, uint8, only with dropout: one bit a weight, as the mask of `dropout`, so that the
            backward draws nothing. The weights are those before it.

    Raises:
        TypeError: q, k, v or bias is not floating, mask is not boolean, is_causal is neither a bool nor
            "lower_right", scale, softcap or dropout is not a number, window is not an int, or key is neither two uint32
            nor a `jax.random.key`.
        ValueError: the shapes do not fit, softcap or window is not positive, or dropout is not from 0 to 1.

    Source:
        Vaswani et al., "Attention Is All You Need" (2017), equation 1.
    """
    q, k, v = floating("q", q), floating("k", k), floating("v", v)
    is_one_head = q.ndim == k.ndim == v.ndim == 2
    if is_one_head:
        q, k, v = q[None], k[None], v[None]
    bias = None if bias is None else floating("bias", bias)
    mask = None if mask is None else jnp.asarray(mask)
    scale, softcap = plain(scale), plain(softcap)
    check_attention(q, k, v, bias, mask, is_causal, scale)
    check_options(softcap, window)
    rate = nonnegative("dropout", dropout, most=1, dtype=wider(q))
    key = drawing_key("key", key, rate) if draws(rate) else None
    q, scale = apart(q, scale)
    traced, rate = rate_apart(rate)
    y = _attention(q, k, v, bias, mask, key, traced, is_causal, scale, softcap, window, rate, likes(q, k, v, bias))
    return y[0] if is_one_head else y

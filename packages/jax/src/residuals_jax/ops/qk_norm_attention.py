"""Attention by directions: y = P·v, P = softmax(scale·q̂·k̂ᵀ + bias) row by row, q̂ = q/‖q‖, k̂ = k/‖k‖."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike

from residuals_jax._lib.attention import (
    Causal,
    attended,
    band_of,
    check_attention,
    check_broadcasts,
    rounded,
    scores_gradient,
    sum_of_queries,
    times_keys,
    weights_gradient,
)
from residuals_jax._lib.checks import floating
from residuals_jax._lib.cotangents import Likes, likes, match, sum_to, to_rank
from residuals_jax._lib.dtypes import to_dtype, wide


class Residuals(NamedTuple):
    q: Array  # (..., h, s, d)  input: rebuilds q̂
    k: Array  # (..., kv, t, d)  input: rebuilds k̂
    v: Array  # (..., kv, t, e)  input: carries the cotangent to the weights
    scale: Array  # broadcasts to (..., h, s, 1)  input: scales the scores' gradient
    q_norm: Array  # (..., h, s, 1)  new, float32 or wider: saved so that the backward reduces no q² again
    k_norm: Array  # (..., kv, t, 1)  new, float32 or wider: saved so that the backward reduces no k² again
    weights: Array  # (..., h, s, t)  new: quadratic in the sequence; all that the gradient needs of the softmax


RECOMPUTES: dict[str, str] = {}


def _norm(a: Array) -> Array:
    squares = jnp.sum(jnp.square(wide(a)), axis=-1, keepdims=True)
    is_zero = squares == 0  # the root of 0 has no derivative
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squares)))


def _inverse(norm: Array) -> Array:
    """1/norm, and 0 for a vector of zeros, which gets no direction and no gradient by that."""
    return jnp.where(norm == 0, 0, 1 / jnp.where(norm == 0, 1, norm))


def fwd(
    q: Array,
    k: Array,
    v: Array,
    scale: Array,
    bias: Array | None,
    mask: Array | None,
    is_causal: Causal,
) -> tuple[Array, Residuals]:
    q_norm = checkpoint_name(_norm(q), "qk_norm_attention.q_norm")
    k_norm = checkpoint_name(_norm(k), "qk_norm_attention.k_norm")
    unit_q, unit_k = wide(q) * _inverse(q_norm), wide(k) * _inverse(k_norm)
    scores = times_keys(to_rank(wide(scale), q.ndim) * unit_q, unit_k.mT)
    if bias is not None:
        scores = scores + to_rank(wide(bias), scores.ndim)
    e, total, *_ = attended(scores, mask, band_of(is_causal, q.shape[-2], k.shape[-2]))
    weights = checkpoint_name(e / total, "qk_norm_attention.weights")
    y = times_keys(rounded(weights, v, q), v)
    return to_dtype(y, q.dtype), Residuals(q, k, v, scale, q_norm, k_norm, to_dtype(weights, q.dtype))


def bwd(
    is_causal: Causal, residuals: Residuals, g: Array, like: Likes | None = None
) -> tuple[Array, Array, Array, Array, Array | None, None]:
    q, k, v, scale, q_norm, k_norm, weights = residuals
    # No gradient depends on the bias, so it is not saved; `like` says whether there is one, and what it looks like.
    _, _, _, _, like_bias = like or likes(q, k, v, scale, weights)
    heads, wide_scale = k.shape[-3], to_rank(wide(scale), q.ndim)
    dv = match(sum_of_queries(weights, g, heads), v)
    dscores = scores_gradient(weights, weights_gradient(g, v, weights))
    dbias = None if like_bias is None else match(dscores, like_bias)
    unit_q, unit_k = wide(q) * _inverse(q_norm), wide(k) * _inverse(k_norm)
    # The norm divides a vector's length out, so the part of a gradient along the vector is taken off.
    dproduct = sum_to(times_keys(dscores, unit_k), q.shape)  # the gradient of scale·q̂
    along = jnp.sum(unit_q * dproduct, axis=-1, keepdims=True)
    dscale = match(along, scale)
    dq = match(wide_scale * _inverse(q_norm) * (dproduct - unit_q * along), q)
    dunit = sum_to(sum_of_queries(dscores, wide_scale * unit_q, heads), k.shape)
    along = jnp.sum(unit_k * dunit, axis=-1, keepdims=True)
    dk = match(_inverse(k_norm) * (dunit - unit_k * along), k)
    return dq, dk, dv, dscale, dbias, None


@partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def _qk_norm_attention(
    q: Array,
    k: Array,
    v: Array,
    scale: Array,
    bias: Array | None,
    mask: Array | None,
    is_causal: Causal,
    like: Likes,
) -> Array:
    return fwd(q, k, v, scale, bias, mask, is_causal)[0]


_qk_norm_attention.defvjp(
    lambda q, k, v, scale, bias, mask, is_causal, like: fwd(q, k, v, scale, bias, mask, is_causal),
    lambda is_causal, like, residuals, g: bwd(is_causal, residuals, g, like),
)


def qk_norm_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    scale: ArrayLike,
    bias: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    is_causal: Causal = False,
) -> Array:
    """y = P·v with P = softmax(scale·q̂·k̂ᵀ + bias), row by row, of the directions q̂ = q/‖q‖ and k̂ = k/‖k‖.

    The layout is PyTorch's, heads before the sequence; `jax.nn.dot_product_attention` has (b, s, h, d): swap the axes
    -2 and -3. With fewer key heads than query heads, each key head serves several adjacent query heads.

    Args:
        q: (..., h, s, d) floating; leading axes broadcast among q, k and v. Three arrays without heads, (s, d), (t, d)
            and (t, e), are of one head, and so is y. A vector of zeros has no direction: its scores, and its gradient,
            are 0. Neither has a vector whose squares are beyond float32: of numbers below 1e-22 or above 1e19.
        k: (..., kv, t, d) floating; kv divides h. A vector of zeros as in q.
        v: (..., kv, t, e) floating.
        scale: floating, broadcasts to (..., h, s, 1), such as a scalar or (h, 1, 1); it has no default, since 1/√d
            makes the weights of unit vectors nearly uniform.
        bias: floating, broadcasts to (..., h, s, t), or None for 0; −∞ hides a key as the mask does.
        mask: booleans, broadcasts to (..., h, s, t), or None; True attends.
        is_causal: True: query i attends only the keys 0 to i, both counted from the first. "lower_right": the keys 0
            to i + t − s, so that the last query attends all of them, as decoding with a cache of keys wants it.

    Returns:
        (..., h, s, e), of q's dtype; computed in float32 if that is narrower, but that in bfloat16 the weights are
        rounded to be multiplied by v, and added up in float32. A query that attends no key gets zeros, and its
        gradients are 0.

    Saves:
        q: (..., h, s, d), an input, no new bytes.
        k: (..., kv, t, d), an input, no new bytes.
        v: (..., kv, t, e), an input, no new bytes. Neither bias nor mask is saved: what they do is in the weights.
        scale: broadcasts to (..., h, s, 1), an input, no new bytes.
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
    q, k, v, scale = floating("q", q), floating("k", k), floating("v", v), floating("scale", scale)
    is_one_head = q.ndim == k.ndim == v.ndim == 2
    if is_one_head:
        q, k, v = q[None], k[None], v[None]
    bias = None if bias is None else floating("bias", bias)
    mask = None if mask is None else jnp.asarray(mask)
    check_attention(q, k, v, bias, mask, is_causal)
    check_broadcasts("scale", scale, (*q.shape[:-1], 1))
    y = _qk_norm_attention(q, k, v, scale, bias, mask, is_causal, likes(q, k, v, scale, bias))
    return y[0] if is_one_head else y

"""Attention that saves one number a row: y = softmax(scale·q·kᵀ + bias)·v, block after block of queries."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike

from residuals_jax._lib.attention import (
    Band,
    Causal,
    apart,
    attended,
    attended_again,
    band_of,
    cap,
    cap_gradient,
    check_attention,
    check_options,
    rounded,
    scaling,
    scores_of,
    sum_of_queries,
    times_keys,
    weights_gradient,
)
from residuals_jax._lib.checks import floating, plain
from residuals_jax._lib.cotangents import match, sum_to, to_rank
from residuals_jax._lib.dtypes import to_dtype, wide

BLOCK = 256  # queries at a time: their scores are the only array that grows with queries times keys
SPANS = 8  # branches of the loop, with more and more keys, if a query attends no later ones: 9/16 of the square


class Residuals(NamedTuple):
    q: Array  # (..., h, s, d)  input: the scores are computed again from it
    k: Array  # (..., kv, t, d)  input: the scores are computed again from it
    v: Array  # (..., kv, t, e)  input: carries the cotangent to the weights
    bias: Array | None  # broadcasts to (..., h, s, t)  input: part of the scores
    mask: Array | None  # broadcasts to (..., h, s, t)  input: hides scores
    out: Array | None  # (..., h, s, e)  output: with the cotangent it gives Σ P·dP of a row; None in dtypes narrower
    # than float32, whose rounding is too coarse for that
    logsumexp: Array  # (..., h, s)  new, float32 or wider: makes weights of scores, with no sum; an output if returned


RECOMPUTES = {
    "matmul": "the scores, block after block, where an array of them would be quadratic in the sequence",
    "tanh": "of the scores in a softcap, for the same reason",
}

Results = tuple[Array, Array]  # out and logsumexp
Rows = dict[str, Any]  # arrays by name, or None; an array has a row for each query, or one for all, or no rows


def _spans(q: Array, k: Array, band: Band) -> list[tuple[int, int]]:
    """How many keys are looked at by each block up to a query, for each span of queries; a span ends with a block."""
    queries, keys, (first, last) = q.shape[-2], k.shape[-2], band
    head = queries - max(queries - 1, 0) // BLOCK * BLOCK
    if last is None or jax.typeof(k).sharding.spec[-2] is not None:  # an axis that an Explicit mesh splits is not cut
        return [(queries, keys)]
    if first is not None:
        return [(queries, min(BLOCK + last - first, keys))]
    blocks = -(-max(min(queries, keys - last) - head, 0) // BLOCK)  # after the first, until all keys are attended
    stops = sorted({head + blocks * (i + 1) // SPANS * BLOCK for i in range(SPANS)})
    return [(queries if stop == stops[-1] else stop, max(min(stop + last, keys), min(1, keys))) for stop in stops]


def _start(first: Array | int, keys: int, size: int, band: Band) -> Array | int:
    """The first of the `size` keys that a block looks at; with no window that is key 0."""
    return 0 if band[0] is None else jnp.clip(first + band[0], 0, keys - size)


def _blockwise(
    body: Callable[[Array | int, Array | int, Rows], tuple[Any, Any]], arrays: Rows, band: Band
) -> tuple[Any, Any]:
    """`body(first, start, arrays)` for block after block of queries: its first results, rows, joined, its second
    summed. `first` is the number of its first query, and `start` that of its first key.

    The first block may be shorter. It runs outside of the loop, so that the sums start with the right type. A block
    sees the keys of its span: the loop is one, and has a branch for each span.
    """
    queries, spans = arrays["q"].shape[-2], _spans(arrays["q"], arrays["k"], band)
    rest = max(queries - 1, 0) // BLOCK
    head = queries - rest * BLOCK
    split = {name: a for name, a in arrays.items() if _has_rows(name, a, queries)}
    first = arrays | {name: a[..., :head, :] for name, a in split.items()}

    def part(first: Array | int, some: Rows, size: int) -> tuple[Any, Any]:
        start = _start(first, arrays["k"].shape[-2], size, band)
        return body(first, start, _of_keys(arrays | some, start, size))

    rows, sums = part(0, first, _spans(first["q"], first["k"], band)[0][1])
    if rest == 0:
        return rows, sums
    blocks = {
        name: jnp.moveaxis(a[..., head:, :].reshape(*a.shape[:-2], rest, BLOCK, a.shape[-1]), -3, 0)
        for name, a in split.items()
    }
    branches = [partial(part, size=size) for _, size in spans]

    def step(total: Any, block: tuple[Array, Rows]) -> tuple[Any, Any]:
        i, some = block
        first = head + i * BLOCK
        span = sum((first >= stop).astype(jnp.int32) for stop, _ in spans[:-1])
        more_rows, more = jax.lax.switch(span, branches, first, some)
        return jax.tree.map(jnp.add, total, more), more_rows

    def join(first: Array, others: Array) -> Array:
        others = jnp.moveaxis(others, 0, -3)
        return jnp.concatenate([first, others.reshape(*first.shape[:-2], rest * BLOCK, first.shape[-1])], axis=-2)

    sums, others = jax.lax.scan(step, sums, (jnp.arange(rest, dtype=jnp.int32), blocks))
    return jax.tree.map(join, rows, others), sums


def _has_rows(name: str, a: Array | None, queries: int) -> bool:
    """Whether an array has a row for each query, not one for all."""
    return name not in "kv" and a is not None and a.ndim > 1 and a.shape[-2] == queries > 1


def _of_keys(arrays: Rows, start: Array | int, size: int) -> Rows:
    """The arrays, with these keys alone; a bias or mask may have one column for all."""
    if size == arrays["k"].shape[-2]:
        return arrays

    def cut(a: Array, axis: int) -> Array:
        if isinstance(start, int):
            return jax.lax.slice_in_dim(a, start, start + size, axis=axis)
        return jax.lax.dynamic_slice_in_dim(a, start, size, axis)

    columns = {name: a for name in ("bias", "mask") if (a := arrays[name]) is not None and a.ndim and a.shape[-1] > 1}
    return arrays | {name: cut(a, -1) for name, a in columns.items()} | {name: cut(arrays[name], -2) for name in "kv"}


def _padded(a: Array, like: Array, axis: int, start: Array | int) -> Array:
    """`a`, of the keys from `start` on, with zeros for the other keys of `like`, which the block does not attend."""
    missing = like.shape[axis] - a.shape[axis]
    sides = [(0, 0)] * a.ndim
    sides[axis] = (0, missing)
    if not missing or isinstance(start, int):
        return jnp.pad(a, sides) if missing else a
    return jax.lax.dynamic_update_slice_in_dim(jnp.pad(jnp.zeros_like(a), sides), a, start, axis)


def _scores(rows: Rows, scale: float | None, softcap: float | None) -> tuple[Array, Array | None]:
    """(..., h, b, t): the scores of a block of b queries, before any is hidden, and the tanh of a softcap."""
    q, bias = rows["q"], rows["bias"]
    scores, tanh = cap(scores_of(q, rows["k"], scaling(scale, q)), softcap)
    return scores if bias is None else scores + to_rank(wide(bias), scores.ndim), tanh


def fwd(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    mask: Array | None,
    is_causal: Causal,
    scale: float | None,
    softcap: float | None,
    window: int | None,
) -> tuple[Results, Residuals]:
    band = band_of(is_causal, q.shape[-2], k.shape[-2], window)

    def block(first: Array | int, start: Array | int, rows: Rows) -> tuple[Any, None]:
        scores, _ = _scores(rows, scale, softcap)
        e, total, top, is_none = attended(scores, rows["mask"], band, first - start)
        out = times_keys(rounded(e, v, q), rows["v"])
        return (to_dtype(out / to_rank(total, out.ndim), q.dtype), jnp.log(total) + top, is_none), None

    arrays = {"q": q, "k": k, "v": v, "bias": bias, "mask": mask}
    (out, logsumexp, is_none), _ = _blockwise(block, arrays, band)
    out = checkpoint_name(out, "flash_attention.out")
    with jax.debug_infs(False):  # −∞ where no key is attended, the one infinity that is meant
        logsumexp = jnp.where(is_none, -jnp.inf, logsumexp)[..., 0]
        logsumexp = checkpoint_name(logsumexp, "flash_attention.logsumexp")
    is_narrow = out.dtype != logsumexp.dtype
    return (out, logsumexp), Residuals(q, k, v, bias, mask, None if is_narrow else out, logsumexp)


def bwd(
    is_causal: Causal,
    scale: float | None,
    softcap: float | None,
    window: int | None,
    residuals: Residuals,
    g: Array,
    *,
    g_logsumexp: Array | None = None,
) -> tuple[Array, Array, Array, Array | None, None]:
    q, k, v, bias, mask, out, logsumexp = residuals
    heads, band = k.shape[-3], band_of(is_causal, q.shape[-2], k.shape[-2], window)
    is_none = logsumexp == -jnp.inf  # no key attended
    # dscores = P·(dP − Σ P·dP), where Σ P·dP = Σ g·out; and dlogsumexp/dscores = P.
    dot = jnp.zeros_like(logsumexp) if out is None else sum_to(jnp.sum(wide(g) * wide(out), axis=-1), logsumexp.shape)
    dot = dot if g_logsumexp is None else dot - jnp.where(is_none, 0, g_logsumexp)

    def block(first: Array | int, start: Array | int, rows: Rows) -> tuple[Any, Any]:
        g, (scores, tanh) = rows["g"], _scores(rows, scale, softcap)
        weights = attended_again(scores, rows["logsumexp"], rows["mask"], band, first - start)
        dweights = weights_gradient(g, rows["v"], weights)
        dot = rows["dot"] if out is not None else rows["dot"] + jnp.sum(weights * dweights, axis=-1, keepdims=True)
        dcapped = weights * (dweights - dot)
        dscores = cap_gradient(dcapped, tanh)
        dq = times_keys(dscores, rows["k"]) * scaling(scale, q)
        dk = sum_of_queries(rounded(dscores, q, k), rows["q"], heads) * scaling(scale, q)
        dv = sum_of_queries(rounded(weights, g, v), g, heads)
        dbias = None if bias is None else sum_to(dcapped, rows["bias"].shape)
        of_a_row = bias is not None and bias.ndim > 1 and bias.shape[-2] > 1
        if dq.shape[:-2] == q.shape[:-2]:  # else it is summed before it is rounded
            dq = to_dtype(dq, q.dtype)
        if dbias is not None and bias is not None and bias.ndim and bias.shape[-1] > 1:
            dbias = _padded(dbias, bias, -1, start)
        dk, dv = _padded(dk, k, -2, start), _padded(dv, v, -2, start)
        return (dq, dbias if of_a_row else None), (dk, dv, None if of_a_row else dbias)

    arrays = {"q": q, "k": k, "v": v, "bias": bias, "mask": mask, "g": g, "dot": dot[..., None]}
    arrays["logsumexp"] = jnp.where(is_none, 0, logsumexp)[..., None]
    (dq, dbias_rows), (dk, dv, dbias_sum) = _blockwise(block, arrays, band)
    dbias = dbias_sum if dbias_rows is None else dbias_rows
    return match(dq, q), match(dk, k), match(dv, v), None if bias is None else match(dbias, bias), None


@partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7, 8))
def _flash_attention(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    mask: Array | None,
    is_causal: Causal,
    scale: float | None,
    softcap: float | None,
    window: int | None,
) -> Results:
    return fwd(q, k, v, bias, mask, is_causal, scale, softcap, window)[0]


_flash_attention.defvjp(
    fwd,
    lambda is_causal, scale, softcap, window, residuals, gs: bwd(
        is_causal, scale, softcap, window, residuals, gs[0], g_logsumexp=gs[1]
    ),
)


def flash_attention(
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
    return_logsumexp: bool = False,
) -> Array | tuple[Array, Array]:
    """y = P·v with P = softmax(scale·q·kᵀ + bias), row by row, without an array of queries times keys.

    Forward and backward go over blocks of queries, each with the keys of its span of blocks, or of its windows. The
    layout is PyTorch's, heads before the sequence; `jax.nn.dot_product_attention` has (b, s, h, d): swap the axes -2
    and -3. With fewer key heads than query heads, each key head serves several adjacent query heads. The checkpoint
    policy `dots_saveable` keeps the scores of every block, and makes memory quadratic again.

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
        return_logsumexp: whether to return the log-sum-exp of each row's scores too; a Python bool.

    Returns:
        y: (..., h, s, e), of q's dtype; computed in float32 if that is narrower, but that in bfloat16 the weights are
            rounded to be multiplied by v, and added up in float32. A query that attends no key gets zeros, and its
            gradients are 0.
        logsumexp: (..., h, s), float32 or wider, differentiable, only if asked for; −∞ where no key is attended. With
            it, attention to parts of the keys can be merged.

    Saves:
        q: (..., h, s, d), an input, no new bytes.
        k: (..., kv, t, d), an input, no new bytes.
        v: (..., kv, t, e), an input, no new bytes.
        bias: broadcasts to (..., h, s, t), an input, no new bytes: the scores are computed again.
        mask: broadcasts to (..., h, s, t), an input, no new bytes.
        out: (..., h, s, e), the output, no new bytes where the next operation saves its input anyway; not saved in
            dtypes narrower than float32, where its rounding would spoil the gradients.
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
    q, k, v = floating("q", q), floating("k", k), floating("v", v)
    is_one_head = q.ndim == k.ndim == v.ndim == 2
    if is_one_head:
        q, k, v = q[None], k[None], v[None]
    bias = None if bias is None else floating("bias", bias)
    mask = None if mask is None else jnp.asarray(mask)
    scale, softcap = plain(scale), plain(softcap)
    check_attention(q, k, v, bias, mask, is_causal, scale)
    check_options(softcap, window)
    q, scale = apart(q, scale)
    out, logsumexp = _flash_attention(q, k, v, bias, mask, is_causal, scale, softcap, window)
    if is_one_head:
        out, logsumexp = out[0], logsumexp[0]
    return (out, logsumexp) if return_logsumexp else out

"""What the three attentions share: their checks, products of heads that share keys, and the softmax of scores."""

import math
from functools import partial
from numbers import Real
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from residuals_jax._lib.checks import described, floating, integer
from residuals_jax._lib.cotangents import sum_to, to_rank
from residuals_jax._lib.dtypes import to_dtype, wide, wider

Causal = bool | Literal["lower_right"]
Band = tuple[int | None, int | None]


def check_attention(
    q: Array, k: Array, v: Array, bias: Array | None, mask: Array | None, is_causal: Causal, scale: Any = None
) -> None:
    """ValueError unless q is (..., h, s, d), k (..., kv, t, d), v (..., kv, t, e), whose leading axes broadcast, h is a
    multiple of kv, and bias and mask broadcast to (..., h, s, t); TypeError unless mask is boolean, is_causal
    a bool or "lower_right", and scale a number or None.
    """
    if not isinstance(is_causal, bool) and is_causal != "lower_right":
        raise TypeError(f"is_causal: expected True, False or 'lower_right', got {is_causal!r}")
    if isinstance(scale, bool) or not isinstance(scale, Real | Array | None):
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
    if mask is not None and mask.dtype != bool:
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
        return jnp.broadcast_shapes(one, other)
    except ValueError:
        return None


def check_broadcasts(name: str, a: Array, shape: tuple[int, ...]) -> None:
    """ValueError unless `a` broadcasts to `shape`."""
    lead = len(shape) - a.ndim
    if lead < 0 or any(n not in (1, m) for n, m in zip(a.shape, shape[lead:], strict=True)):
        raise ValueError(f"{name}: expected a shape that broadcasts to {list(shape)}, got {list(a.shape)}")


def apart(q: Array, scale: Any) -> tuple[Array, float | None]:
    """`q` and a Python number as scale; an array as scale is multiplied into q, and its gradient plain autodiff's."""
    if not isinstance(scale, Array):
        return q, scale
    scale = floating("scale", scale)
    check_broadcasts("scale", scale, (*q.shape[:-1], 1))
    return to_dtype(wide(q) * to_rank(wide(scale), q.ndim), q.dtype), 1.0


def scaling(scale: float | None, q: Array) -> float:
    """`scale`, or 1/√d for None."""
    return max(q.shape[-1], 1) ** -0.5 if scale is None else float(scale)


def product(a: Array, b: Array) -> Array:
    """a @ b in float32 or wider; two arrays of one narrow dtype are multiplied as they are, and added up in float32."""
    a, b = (a, b) if a.dtype == b.dtype else (wide(a), wide(b))
    return jnp.matmul(a, b, preferred_element_type=wider(a))


def rounded(a: Array, b: Array, result: Array) -> Array:
    """`a`, weights or their scores' gradient in float32, as it is multiplied by `b`: in bfloat16 if all three are.

    Each element gets a relative error of 2⁻⁹, and their sum less than an ulp of the result. That holds for y, dk and
    dv. It does not for dq = dscores·k: a row of dscores adds up to 0, and what all keys have in common cancels, but
    for the rounding. Nor does it in float16, where dscores below 6e-8 would be 0.
    """
    return to_dtype(a, b.dtype) if b.dtype == result.dtype == jnp.bfloat16 else a


def grouped(a: Array, key_heads: int) -> Array:
    """(..., h, s, d) as (..., key_heads, h/key_heads, s, d).

    The reshape splits one axis and merges none, which an Explicit sharding can follow.
    """
    *lead, heads, rows, columns = a.shape
    return a.reshape(*lead, key_heads, heads // key_heads, rows, columns)


def times_keys(a: Array, b: Array) -> Array:
    """(..., h, s, d): each head of a (..., h, s, t) times the head of b (..., kv, t, d) that it shares."""
    if a.shape[-3] == b.shape[-3]:
        return product(a, b)
    y = product(grouped(a, b.shape[-3]), b[..., None, :, :])
    return y.reshape(*y.shape[:-4], a.shape[-3], *y.shape[-2:])


def scores_of(q: Array, k: Array, scale: float) -> Array:
    """scale·q·kᵀ, of float32 or wider.

    q is scaled, and not the scores: XLA would fuse that product with the subtraction of their maximum, into one that is
    rounded once, and no longer at most 0. In a narrow dtype the scaled q would be rounded, or multiplied in float32; so
    there the scores are scaled, and a floor that no score reaches keeps the two apart.
    """
    if q.dtype != k.dtype or q.dtype == wider(q):
        return times_keys(wide(q) * scale, k.mT)
    scores = times_keys(q, k.mT) * scale
    return jnp.maximum(scores, jnp.finfo(scores.dtype).min)


def cap(scores: Array, softcap: float | None) -> tuple[Array, Array | None]:
    """c·tanh(scores/c) for a softcap c, and that tanh."""
    if softcap is None:
        return scores, None
    tanh = jnp.tanh(scores / softcap)
    return softcap * tanh, tanh


def cap_gradient(dscores: Array, tanh: Array | None) -> Array:
    """The gradient of scores from that of the capped ones: d(c·tanh(x/c))/dx = 1 − tanh²."""
    return dscores if tanh is None else dscores * (1 - jnp.square(wide(tanh)))


def weights_gradient(g: Array, v: Array, weights: Array) -> Array:
    """dP = g·vᵀ, summed over leading axes that v has and the weights have not."""
    return sum_to(times_keys(g, v.mT), weights.shape)


def sum_of_queries(a: Array, b: Array, key_heads: int) -> Array:
    """(..., kv, t, d): aᵀ·b of a (..., h, s, t) and b (..., h, s, d), summed over the heads that share a key head."""
    if a.shape[-3] == key_heads:
        return product(a.mT, b)
    a, b = (a, b) if a.dtype == b.dtype else (wide(a), wide(b))
    a, b = grouped(a, key_heads), grouped(b, key_heads)
    sharding, of_b = jax.typeof(a).sharding, jax.typeof(b).sharding.spec
    *lead, in_group, rows, keys = sharding.spec
    out = None
    if in_group or rows:  # a sum over an axis that an Explicit mesh splits has to be told how its result is split
        out = jax.sharding.NamedSharding(sharding.mesh, jax.P(*lead, keys, of_b[-1]))
    sums = "...gst,...gsd->...td"
    return jnp.einsum(sums, a, b, preferred_element_type=wider(a), out_sharding=out)


def band_of(is_causal: Causal | str, queries: int, keys: int, window: int | None = None) -> Band:
    """The keys that a query attends: query i those from i + the first number to i + the second; None for no bound."""
    at = keys - queries if is_causal == "lower_right" else 0  # the key at which query 0 is
    before = None if window is None else at + 1 - window
    after = None if window is None else window - 1
    return before, at if is_causal else after


def hide(scores: Array, mask: Array | None, band: Band, first: Array | int = 0) -> Array:
    """−∞ where a query does not attend: where `mask` is False, and at keys outside of the band.

    `first` is the number of the first query, less that of the first key.
    """
    if mask is not None:
        scores = jnp.where(to_rank(mask, scores.ndim), scores, -jnp.inf)
    for bound, is_outside in zip(band, (jnp.less, jnp.greater), strict=True):
        if bound is not None:
            rows, keys = (jax.lax.broadcasted_iota(jnp.int32, scores.shape[-2:], axis) for axis in (0, 1))
            scores = jnp.where(to_rank(is_outside(keys - rows, first + bound), scores.ndim), -jnp.inf, scores)
    return scores


# These two are programs of their own for `jax_debug_infs`, which looks at what leaves one: −∞ does not.
@partial(jax.jit, static_argnames="band")
def attended(
    scores: Array, mask: Array | None, band: Band, first: Array | int = 0
) -> tuple[Array, Array, Array, Array]:
    """Each row of scores, of which some are hidden, as e = exp(scores − their maximum), and, (..., s, 1), the sum of e,
    that maximum, and whether no key is attended.

    The weights are e over the sum, and the log-sum-exp is that of the sum plus the maximum. In a row without a key the
    weights are 0 over 1, and the maximum counts as 0.
    """
    scores = hide(scores, mask, band, first)
    # Any shift gives the same, so the maximum is a constant to the derivative.
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf))
    top = jnp.where(top == -jnp.inf, 0, top)
    e = jnp.exp(scores - top)
    total = jnp.sum(e, axis=-1, keepdims=True)
    is_none = total == 0
    total = jnp.where(is_none, 1, total)
    return e, total, top, is_none


@partial(jax.jit, static_argnames="band")
def attended_again(scores: Array, logsumexp: Array, mask: Array | None, band: Band, first: Array | int = 0) -> Array:
    """The weights, from the (..., s, 1) log-sum-exp of each row; it is 0 in a row without a key."""
    return jnp.exp(hide(scores, mask, band, first) - logsumexp)


def scores_gradient(weights: Array, dweights: Array) -> Array:
    """dscores = P·(dP − Σ P·dP), in dP's dtype, of weights P that may be narrower.

    A row of narrow weights is rounded, and no longer adds up to 1. Where one weight is nearly 1 that rounding would be
    all that is left of dP − Σ P·dP. So for narrow weights it is dP·Σ P − Σ P·dP.
    """
    rows = wide(weights)
    dot = jnp.sum(rows * dweights, axis=-1, keepdims=True)
    if weights.dtype != rows.dtype:
        dweights = dweights * jnp.sum(rows, axis=-1, keepdims=True)
    return rows * (dweights - dot)

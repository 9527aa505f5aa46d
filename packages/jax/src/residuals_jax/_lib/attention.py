"""What the three attentions share: their checks, heads that share keys, and the softmax of scores."""

from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from residuals_jax._lib.checks import described
from residuals_jax._lib.dtypes import wide


def check_attention(
    q: Array, k: Array, v: Array, bias: Array | None, mask: Array | None, is_causal: bool, scale: Any = None
) -> None:
    """ValueError unless q is (..., h, s, d), k (..., kv, t, d), v (..., kv, t, e), h a multiple of kv, and bias and
    mask broadcast to (..., h, s, t); TypeError unless mask and is_causal are boolean and scale is a number or None.
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
    if mask is not None and mask.dtype != bool:
        raise TypeError(f"mask: expected booleans, got {described(mask)}")
    for name, a in (("bias", bias), ("mask", mask)):
        if a is not None:
            check_broadcasts(name, a, (*lead, heads, rows, keys))


def check_broadcasts(name: str, a: Array, shape: tuple[int, ...]) -> None:
    """ValueError unless `a` broadcasts to `shape`."""
    lead = len(shape) - a.ndim
    if lead < 0 or any(n not in (1, m) for n, m in zip(a.shape, shape[lead:], strict=True)):
        raise ValueError(f"{name}: expected a shape that broadcasts to {list(shape)}, got {list(a.shape)}")


def scaling(scale: float | None, q: Array) -> float:
    """`scale`, or 1/√d for None."""
    return max(q.shape[-1], 1) ** -0.5 if scale is None else float(scale)


def fold(a: Array, key_heads: int) -> Array:
    """(..., h, s, d) as (..., key_heads, h/key_heads·s, d): query heads that share a key head, one below the other."""
    *lead, heads, rows, columns = a.shape
    return a if heads == key_heads else a.reshape(*lead, key_heads, heads // key_heads * rows, columns)


def unfold(a: Array, like: Array) -> Array:
    """(..., key_heads, h/key_heads·s, d) as (..., h, s, d), where `like` is (..., h, s, any)."""
    return a if a.shape[:-1] == like.shape[:-1] else a.reshape(*like.shape[:-1], a.shape[-1])


def hide(scores: Array, mask: Array | None, is_causal: bool, first: Array | int = 0) -> Array:
    """−∞ where a query does not attend: where `mask` is False, and at keys after the query if `is_causal`.

    `first` is the position of the first query.
    """
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    if is_causal:
        rows, keys = (jax.lax.broadcasted_iota(jnp.int32, scores.shape[-2:], axis) for axis in (0, 1))
        scores = jnp.where(keys <= rows + first, scores, -jnp.inf)
    return scores


def attended(scores: Array) -> tuple[Array, Array, Array]:
    """Each row of scores as e = exp(scores − their maximum), its (..., s, 1) sum, and its (..., s) log-sum-exp.

    The weights are e over the sum. In a row without a key they are 0 over 1, and the log-sum-exp is −∞.
    """
    # Any shift gives the same, so the maximum is a constant to the derivative.
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf))
    top = jnp.where(top == -jnp.inf, 0, top)
    e = jnp.exp(scores - top)
    total = jnp.sum(e, axis=-1, keepdims=True)
    is_none = total == 0
    total = jnp.where(is_none, 1, total)
    return e, total, jnp.where(is_none, -jnp.inf, jnp.log(total) + top)[..., 0]


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

"""What the three attentions share: heads that share keys, and the softmax of scores."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from residuals_numpy._lib.arrays import Array, Mask
from residuals_numpy._lib.cotangents import sum_to

Causal = bool | Literal["lower_right"]


def fold(a: NDArray[Any], key_heads: int) -> NDArray[Any]:
    """(..., h, s, d) as (..., key_heads, h/key_heads·s, d): query heads that share a key head, one below the other."""
    *lead, heads, rows, columns = a.shape
    return a.reshape(*lead, key_heads, heads // max(key_heads, 1) * rows, columns)


def unfold(a: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
    """(..., key_heads, h/key_heads·s, d) as (..., h, s, d), where `like` has the h and s."""
    return a.reshape(*a.shape[:-3], *like.shape[-3:-1], a.shape[-1])


def weights_gradient(g: Array, v: Array, weights: Array) -> Array:
    """dP = g·vᵀ, summed over leading axes that v has and the weights have not."""
    return sum_to(unfold(fold(g, v.shape[-3]) @ v.mT, g), weights.shape)


def cap(scores: Array, softcap: float | None) -> tuple[Array, Array | None]:
    """c·tanh(scores/c) for a softcap c, and that tanh."""
    if softcap is None:
        return scores, None
    tanh = np.tanh(scores / softcap)
    return softcap * tanh, tanh


def hide(scores: Array, mask: Mask | None, is_causal: Causal, window: int | None = None) -> Array:
    """−∞ where a query does not attend: where `mask` is False, at keys after the query if `is_causal`, and at those
    that are `window` or more away from it.

    Query i is at key i, or at key i + (t − s) where `is_causal` is "lower_right".
    """
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    queries, keys = scores.shape[-2:]
    at = np.arange(queries)[:, None] + (keys - queries if is_causal == "lower_right" else 0)
    after = np.arange(keys) - at
    if is_causal:
        scores = np.where(after <= 0, scores, -np.inf)
    return scores if window is None else np.where(abs(after) < window, scores, -np.inf)


def attended(scores: Array) -> tuple[Array, Array, Array]:
    """Each row of scores as e = exp(scores − their maximum), its (..., s, 1) sum, and its (..., s) log-sum-exp.

    The weights are e over the sum. In a row without a key they are 0 over 1, and the log-sum-exp is −∞.
    """
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    top = np.where(top == -np.inf, 0, top)
    e = np.exp(scores - top)
    total = e.sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        logsumexp = np.log(total) + top
    return e, np.where(total == 0, 1, total), logsumexp[..., 0]

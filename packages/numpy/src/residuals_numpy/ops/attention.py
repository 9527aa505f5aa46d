"""Attention that saves its weights: y = P·v, P = softmax(scale·q·kᵀ + bias) row by row.

With dropout y = (P·kept/(1 - rate))·v, where `kept` is the mask that the op `dropout` draws for an array of P's shape.

Source: Vaswani et al., "Attention Is All You Need" (2017), equation 1.
"""

from typing import Any

import numpy as np

from residuals_numpy._lib.arrays import Array, Bits, Key, Mask, Samples
from residuals_numpy._lib.attention import Causal, attended, cap, fold, hide, unfold, weights_gradient
from residuals_numpy._lib.bits import pack_bits
from residuals_numpy._lib.cotangents import sum_to
from residuals_numpy._lib.dropout import drop, keep_mask


def _weights(
    q: Array,
    k: Array,
    bias: Array | None,
    mask: Mask | None,
    is_causal: Causal,
    scale: float | None,
    softcap: float | None,
    window: int | None,
) -> tuple[Array, Array | None, float]:
    """P (..., h, s, t), the tanh of a softcap, and the scale."""
    scale = max(q.shape[-1], 1) ** -0.5 if scale is None else scale
    scores, tanh = cap(scale * unfold(fold(q, k.shape[-3]) @ k.mT, q), softcap)
    e, total, _ = attended(hide(scores if bias is None else scores + bias, mask, is_causal, window))
    return e / total, tanh, scale


def _kept(weights: Array, key: Key | None, rate: float) -> Mask:
    """Which weights dropout keeps: all of them at the rate 0, none at 1."""
    if rate in (0, 1):
        return np.full(weights.shape, rate == 0)
    assert key is not None
    return keep_mask(key, weights.shape, rate)


def forward(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None = None,
    mask: Mask | None = None,
    key: Key | None = None,
    *,
    is_causal: Causal = False,
    scale: float | None = None,
    softcap: float | None = None,
    window: int | None = None,
    dropout: float = 0.0,
) -> Array:
    """y (..., h, s, e) for `q` (..., h, s, d), `k` (..., kv, t, d) and `v` (..., kv, t, e)."""
    weights, *_ = _weights(q, k, bias, mask, is_causal, scale, softcap, window)
    weights = drop(weights, _kept(weights, key, dropout), dropout)
    return unfold(fold(weights, k.shape[-3]) @ v, q)


def vjp(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    mask: Mask | None,
    key: Key | None,
    g: Array,
    *,
    is_causal: Causal = False,
    scale: float | None = None,
    softcap: float | None = None,
    window: int | None = None,
    dropout: float = 0.0,
) -> tuple[Array, Array, Array, Array | None]:
    """`dq, dk, dv, dbias` for the cotangent `g` of y, from the inputs alone; None for what is None."""
    heads = k.shape[-3]
    weights, tanh, scale = _weights(q, k, bias, mask, is_causal, scale, softcap, window)
    kept = _kept(weights, key, dropout)
    dweights = drop(weights_gradient(g, v, weights), kept, dropout)
    dscores = weights * (dweights - (weights * dweights).sum(-1, keepdims=True))
    dcapped = dscores
    if tanh is not None:
        dscores = dscores * (1 - tanh * tanh)
    dq = scale * unfold(fold(dscores, heads) @ k, q)
    dk = scale * (fold(dscores, heads).mT @ fold(q, heads))
    dv = fold(drop(weights, kept, dropout), heads).mT @ fold(g, heads)
    dq, dk, dv = sum_to(dq, q.shape), sum_to(dk, k.shape), sum_to(dv, v.shape)  # leading axes broadcast
    return dq, dk, dv, None if bias is None else sum_to(dcapped, bias.shape)


def residuals(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None = None,
    mask: Mask | None = None,
    key: Key | None = None,
    *,
    is_causal: Causal = False,
    scale: float | None = None,
    softcap: float | None = None,
    window: int | None = None,
    dropout: float = 0.0,
) -> dict[str, Array | Bits | None]:
    """The value each residual must have."""
    weights, tanh, _ = _weights(q, k, bias, mask, is_causal, scale, softcap, window)
    kept = pack_bits(_kept(weights, key, dropout)) if 0 < dropout < 1 else None
    return {"q": q, "k": k, "v": v, "weights": weights, "tanh": tanh, "kept": kept}


def samples(rng: np.random.Generator) -> Samples:
    """Named calls: an ordinary shape first, then the awkward ones.

    No call has fewer keys than features: the weights are the largest array.
    """

    def call(*lead: int, heads: int = 2, kv: int = 2, s: int = 4, t: int = 5, d: int = 3, e: int = 2) -> dict[str, Any]:
        shapes = {"q": (*lead, heads, s, d), "k": (*lead, kv, t, d), "v": (*lead, kv, t, e)}
        return {name: rng.standard_normal(shape) for name, shape in shapes.items()}

    def bias(*shape: int) -> dict[str, Array]:
        return {"bias": rng.standard_normal(shape)}

    def key() -> Key:
        return rng.integers(2**32, size=2, dtype=np.uint32)

    rows = np.arange(4)[:, None] != 1  # no key for one query
    spread = {**call(heads=4), "q": rng.standard_normal((2, 4, 4, 3)), "v": rng.standard_normal((3, 1, 2, 5, 2))}
    huge = call()
    huge["q"][:, 2:] *= 1e4  # beside ordinary ones, as the gradients of a saturated row are all rounding
    return {
        "6x2h4s5t": call(6),
        "bias-mask": {**call(2), **bias(2, 4, 5), "mask": (rng.random((4, 5)) < 0.7) & rows},
        "bias-of-keys": {**call(2, 3), **bias(3, 1, 1, 5), "scale": 0.3},
        "causal": {**call(), "is_causal": True},
        "causal-more-queries": {**call(s=6, t=3), "is_causal": True},
        "lower-right": {**call(s=3), "is_causal": "lower_right"},
        "lower-right-more-queries": {**call(heads=4, s=6), **bias(6, 5), "is_causal": "lower_right"},
        "softcap": {**call(2), **bias(4, 5), "mask": (rng.random((4, 5)) < 0.7) & rows, "softcap": 0.8},
        "window": {**call(heads=4, s=6, t=7), "is_causal": True, "window": 3},
        "window-both-sides": {**call(2, s=6, t=3), **bias(3), "window": 2},
        "softcap-window-lower-right": {
            **call(heads=4),
            "is_causal": "lower_right",
            "softcap": 2.0,
            "window": 2,
        },
        "grouped": {**call(2, heads=6), **bias(6, 1, 5), "mask": rng.random((2, 6, 4, 5)) < 0.7},
        "one-key-head": {**call(heads=3, kv=1), "is_causal": True},
        "broadcast": {**spread, **bias(2, 1, 1, 5)},
        "nothing-attended": {**call(), "mask": np.zeros((4, 5), bool)},
        "no-keys": call(t=0),
        "no-queries": call(s=0),
        "huge-scores": huge,
        "dropout": {**call(2), "key": key(), "dropout": 0.25},
        "dropout-grouped": {**call(heads=4, t=9), "mask": rng.random((4, 4, 9)) < 0.7, "key": key(), "dropout": 0.5},
    }

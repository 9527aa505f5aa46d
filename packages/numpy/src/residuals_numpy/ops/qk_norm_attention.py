"""Attention by directions: y = P·v, P = softmax(scale·q̂·k̂ᵀ + bias) row by row, q̂ = q/‖q‖, k̂ = k/‖k‖.

Source: Henry et al., "Query-Key Normalization for Transformers" (2020), equation 6.
"""

from typing import Any

import numpy as np

from residuals_numpy._lib.arrays import Array, Mask, Samples
from residuals_numpy._lib.attention import Causal, attended, fold, hide, unfold, weights_gradient
from residuals_numpy._lib.cotangents import sum_to


def _norm(a: Array) -> Array:
    return np.sqrt((a * a).sum(-1, keepdims=True))


def _unit(a: Array) -> tuple[Array, Array]:
    """The direction of each vector, and one over its norm; both 0 for a vector of zeros."""
    norm = _norm(a)
    inverse = np.where(norm == 0, 0, 1 / np.where(norm == 0, 1, norm))
    return a * inverse, inverse


def _weights(
    q: Array, k: Array, scale: Array | float, bias: Array | None, mask: Mask | None, is_causal: Causal
) -> Array:
    """P (..., h, s, t)."""
    scores = unfold(fold(scale * _unit(q)[0], k.shape[-3]) @ _unit(k)[0].mT, q)
    e, total, _ = attended(hide(scores if bias is None else scores + bias, mask, is_causal))
    return e / total


def forward(
    q: Array,
    k: Array,
    v: Array,
    scale: Array | float,
    bias: Array | None = None,
    mask: Mask | None = None,
    *,
    is_causal: Causal = False,
) -> Array:
    """y (..., h, s, e) for `q` (..., h, s, d), `k` (..., kv, t, d), `v` (..., kv, t, e), `scale` to (..., h, s, 1)."""
    weights = _weights(q, k, scale, bias, mask, is_causal)
    return unfold(fold(weights, k.shape[-3]) @ v, q)


def vjp(
    q: Array,
    k: Array,
    v: Array,
    scale: Array | float,
    bias: Array | None,
    mask: Mask | None,
    g: Array,
    *,
    is_causal: Causal = False,
) -> tuple[Array, Array, Array, Array, Array | None]:
    """`dq, dk, dv, dscale, dbias` for the cotangent `g` of y, from the inputs alone; None for what is None."""
    heads = k.shape[-3]
    (unit_q, inverse_q), (unit_k, inverse_k) = _unit(q), _unit(k)
    weights = _weights(q, k, scale, bias, mask, is_causal)
    dweights = weights_gradient(g, v, weights)
    dscores = weights * (dweights - (weights * dweights).sum(-1, keepdims=True))
    dproduct = unfold(fold(dscores, heads) @ unit_k, q)  # of scale·q̂
    dunit_q = scale * dproduct
    dunit_k = fold(dscores, heads).mT @ fold(scale * unit_q, heads)
    dq = inverse_q * (dunit_q - unit_q * (unit_q * dunit_q).sum(-1, keepdims=True))
    dk = inverse_k * (dunit_k - unit_k * (unit_k * dunit_k).sum(-1, keepdims=True))
    dv = fold(weights, heads).mT @ fold(g, heads)
    dscale = sum_to((unit_q * dproduct).sum(-1, keepdims=True), np.shape(scale))
    dq, dk, dv = sum_to(dq, q.shape), sum_to(dk, k.shape), sum_to(dv, v.shape)  # leading axes broadcast
    return dq, dk, dv, dscale, None if bias is None else sum_to(dscores, bias.shape)


def residuals(
    q: Array,
    k: Array,
    v: Array,
    scale: Array | float,
    bias: Array | None = None,
    mask: Mask | None = None,
    *,
    is_causal: Causal = False,
) -> dict[str, Array | None]:
    """The value each residual must have."""
    weights = _weights(q, k, scale, bias, mask, is_causal)
    norms = {"q_norm": _norm(q), "k_norm": _norm(k)}
    return {"q": q, "k": k, "v": v, "scale": np.asarray(scale), **norms, "weights": weights}


def samples(rng: np.random.Generator) -> Samples:
    """Named calls: an ordinary shape first, then the awkward ones.

    No call has fewer keys than features: the weights are the largest array. No call has a vector of zeros: its
    direction jumps, and finite differences say nothing there. The gradient of a scale that many rows share all but
    cancels, so the call in which all rows share one has few.
    """

    def call(*lead: int, heads: int = 2, kv: int = 2, s: int = 4, t: int = 5, d: int = 3, e: int = 2) -> dict[str, Any]:
        shapes = {"q": (*lead, heads, s, d), "k": (*lead, kv, t, d), "v": (*lead, kv, t, e)}
        return {name: rng.standard_normal(shape) for name, shape in shapes.items()} | {
            "scale": 3 * rng.standard_normal((heads, s, 1))
        }

    def bias(*shape: int) -> dict[str, Array]:
        return {"bias": rng.standard_normal(shape)}

    rows = np.arange(4)[:, None] != 1  # no key for one query
    spread = {**call(heads=4), "q": rng.standard_normal((2, 4, 4, 3)), "v": rng.standard_normal((3, 1, 2, 5, 2))}
    huge = call()
    huge["scale"][:, 2:] *= 100
    return {
        "6x2h4s5t": call(6),
        "bias-mask": {**call(2), **bias(2, 4, 5), "mask": (rng.random((4, 5)) < 0.7) & rows},
        "one-scale": {**call(heads=1, kv=1, s=3), "scale": np.array(3.0)},
        "causal-more-queries": {**call(s=6, t=3), "is_causal": True},
        "lower-right": {**call(heads=4, s=6), **bias(6, 5), "is_causal": "lower_right"},
        "grouped": {**call(2, heads=6), **bias(6, 1, 5), "mask": rng.random((2, 6, 4, 5)) < 0.7},
        "broadcast": {**spread, **bias(2, 1, 1, 5)},
        "nothing-attended": {**call(), "mask": np.zeros((4, 5), bool)},
        "no-keys": call(t=0),
        "no-queries": call(s=0),
        "huge-scale": huge,
    }

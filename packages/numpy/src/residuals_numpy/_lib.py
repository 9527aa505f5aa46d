"""Functions of arrays that several ops need; nothing here knows about an op."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bits = NDArray[np.uint8]
Key = NDArray[np.uint32]  # (2,)
Labels = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]
Samples = dict[str, dict[str, Any]]  # name of a call -> its arguments by name


def sum_to(a: Array, shape: tuple[int, ...]) -> Array:
    """Sum `a` over the axes along which an array of `shape` was broadcast to it."""
    lead = a.ndim - len(shape)
    stretched = tuple(i + lead for i, n in enumerate(shape) if n == 1)
    return a.sum(axis=(*range(lead), *stretched), keepdims=True).reshape(shape)


def pack_bits(a: NDArray[np.bool_]) -> Bits:
    """(..., n) booleans as (..., ⌈n/8⌉) bytes, the first in the lowest bit; a scalar counts as n = 1."""
    return np.packbits(a.reshape(a.shape or (1,)), axis=-1, bitorder="little")


def random_bits(key: Key, shape: tuple[int, ...]) -> NDArray[np.uint32]:
    """32 random bits for each element: Threefry-2x32 of its flat 64-bit index, the two words xored.

    They are those of `jax.random.bits(key, shape, "uint32")`.

    Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).
    """
    index = np.arange(math.prod(shape), dtype=np.uint64)
    keys = (*key, key[0] ^ key[1] ^ np.uint32(0x1BD11BDA))
    x0, x1 = (index >> np.uint64(32)).astype(np.uint32) + keys[0], index.astype(np.uint32) + keys[1]
    for i in range(5):
        for r in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
            x0 = x0 + x1
            x1 = (x1 << r | x1 >> (32 - r)) ^ x0
        x0, x1 = x0 + keys[(i + 1) % 3], x1 + keys[(i + 2) % 3] + np.uint32(i + 1)
    return (x0 ^ x1).reshape(shape)


def keep_mask(key: Key, shape: tuple[int, ...], rate: float) -> Mask:
    """Which elements dropout keeps: those whose number of 23 bits, in [0, 1), is below 1 - rate, both in float32."""
    return (random_bits(key, shape) >> 9).astype(np.float32) * np.float32(2**-23) < np.float32(1 - rate)


def drop(a: Array, mask: Mask, rate: float) -> Array:
    """`a` / (1 - rate) where it is kept, 0 elsewhere whatever `a` is there."""
    return np.where(mask, a * (1 / (1 - rate) if rate < 1 else 0), 0)


def fold(a: NDArray[Any], key_heads: int) -> NDArray[Any]:
    """(..., h, s, d) as (..., key_heads, h/key_heads·s, d): query heads that share a key head, one below the other."""
    *lead, heads, rows, columns = a.shape
    return a.reshape(*lead, key_heads, heads // max(key_heads, 1) * rows, columns)


def hide(scores: Array, mask: Mask | None, is_causal: bool) -> Array:
    """−∞ where a query does not attend: where `mask` is False, and at keys after the query if `is_causal`."""
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    return np.where(np.tri(*scores.shape[-2:]) > 0, scores, -np.inf) if is_causal else scores


def attended(scores: Array) -> tuple[Array, Array, Array]:
    """Each row of scores as e = exp(scores − their maximum), its (..., s, 1) sum, and its (..., s) log-sum-exp.

    The weights are e over the sum. Of a row without a key they are 0 over 1, and the log-sum-exp is −∞.
    """
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    top = np.where(top == -np.inf, 0, top)
    e = np.exp(scores - top)
    total = e.sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        logsumexp = np.log(total) + top
    return e, np.where(total == 0, 1, total), logsumexp[..., 0]


def logsumexp(a: Array) -> Array:
    """(...): log Σ exp a over the last axis; −∞ where that is empty, NaN where it is −∞ throughout."""
    top = a.max(-1, initial=-np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):  # −∞ less −∞; the logarithm of 0
        return top + np.log(np.exp(a - top[..., None]).sum(-1))


def one_hot(labels: Labels, classes: int, ignore_index: int) -> NDArray[np.bool_]:
    """(..., classes): True at each row's label, nowhere where that is ignored; ValueError if there is no such class."""
    labels = np.asarray(labels)
    wrong = labels[((labels < 0) | (labels >= classes)) & (labels != ignore_index)]
    if wrong.size:
        raise ValueError(
            f"labels: expected classes from 0 to {classes - 1}, or {ignore_index} to ignore, got {wrong.flat[0]}"
        )
    return (np.arange(classes) == labels[..., None]) & (labels != ignore_index)[..., None]

"""Which elements dropout keeps, and what becomes of them."""

import math

import numpy as np
from numpy.typing import NDArray

from residuals_numpy._lib.arrays import Array, Key, Mask


def random_bits(key: Key, shape: tuple[int, ...]) -> NDArray[np.uint32]:
    """32 random bits for each element: Threefry-2x32 of its flat 64-bit index, the two words xored.

    `jax.random.bits(key, shape, "uint32")` gives the same bits.

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


def drawn_shape(shape: tuple[int, ...], broadcast: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the mask for an array of `shape`: 1 along the axes that share one draw."""
    shared = [axis % len(shape) for axis in broadcast]
    return tuple(min(n, 1) if i in shared else n for i, n in enumerate(shape))


def keep_mask(key: Key, shape: tuple[int, ...], rate: float) -> Mask:
    """Which elements dropout keeps: those whose uniform number in [0, 1) is below 1 - rate, both in float32."""
    return (random_bits(key, shape) >> 9).astype(np.float32) * np.float32(2**-23) < np.float32(1 - rate)


def drop(a: Array, mask: Mask, rate: float) -> Array:
    """`a` / (1 - rate) where the mask keeps it, 0 elsewhere even where `a` is infinite or NaN."""
    return np.where(mask, a * (1 / (1 - rate) if rate < 1 else 0), 0)

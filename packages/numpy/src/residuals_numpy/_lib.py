"""Functions of arrays that several ops need; nothing here knows about an op."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bits = NDArray[np.uint8]
Samples = dict[str, dict[str, Any]]  # name of a call -> its arguments by name


def sum_to(a: Array, shape: tuple[int, ...]) -> Array:
    """Sum `a` over the axes along which an array of `shape` was broadcast to it."""
    lead = a.ndim - len(shape)
    stretched = tuple(i + lead for i, n in enumerate(shape) if n == 1)
    return a.sum(axis=(*range(lead), *stretched), keepdims=True).reshape(shape)


def pack_bits(a: NDArray[np.bool_]) -> Bits:
    """(..., n) booleans as (..., ⌈n/8⌉) bytes, the first in the lowest bit; a scalar counts as n = 1."""
    return np.packbits(a.reshape(a.shape or (1,)), axis=-1, bitorder="little")

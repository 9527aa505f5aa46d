"""Booleans as bits, eight in a byte."""

import numpy as np
from numpy.typing import NDArray

from residuals_numpy._lib.arrays import Bits


def pack_bits(a: NDArray[np.bool_]) -> Bits:
    """(..., n) booleans as (..., ⌈n/8⌉) bytes, the first in the lowest bit; a scalar counts as n = 1."""
    return np.packbits(a.reshape(a.shape or (1,)), axis=-1, bitorder="little")

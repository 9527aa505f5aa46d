"""Rectified linear unit that saves a bit an element: y = x where x > 0, else 0; dx = g where the bit is set, else 0.

Source: Jain et al., "Gist: Efficient Data Encoding for Deep Neural Network Training" (2018), section 4.1.
"""

import numpy as np

from residuals_numpy._lib.arrays import Array, Bits, Samples
from residuals_numpy._lib.bits import pack_bits


def forward(x: Array) -> Array:
    """y = 0 where x ≤ 0, else x: a NaN stays."""
    return np.where(x <= 0, 0, x)


def vjp(x: Array, g: Array) -> tuple[Array]:
    """`dx` for the cotangent `g` of y, from the inputs alone."""
    return (np.where(x <= 0, 0, g),)


def residuals(x: Array) -> dict[str, Bits]:
    """The value each residual must have."""
    return {"mask": pack_bits(~(x <= 0))}


def samples(rng: np.random.Generator) -> Samples:
    """Named calls: ordinary shapes first, then the awkward ones; no 0, where finite differences mean nothing."""
    return {
        "3x13": {"x": rng.standard_normal((3, 13))},
        "7": {"x": rng.standard_normal(7)},
        "16": {"x": rng.standard_normal(16)},
        "2x3x9": {"x": rng.standard_normal((2, 3, 9))},
        "5x1": {"x": rng.standard_normal((5, 1))},
        "0d": {"x": np.array(-0.5)},
        "0x5": {"x": np.zeros((0, 5))},
        "3x0": {"x": np.zeros((3, 0))},
        "huge": {"x": 1e4 * rng.standard_normal((2, 8))},
    }

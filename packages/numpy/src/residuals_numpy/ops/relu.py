"""Rectified linear unit: y = x where x > 0, else 0; dx = g where y > 0, else 0, so that relu′(0) = 0.

Source: Nair & Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines" (2010).
"""

import numpy as np

from residuals_numpy._lib.arrays import Array, Samples


def forward(x: Array) -> Array:
    """y = 0 where x ≤ 0, else x: a NaN stays."""
    return np.where(x <= 0, 0, x)


def vjp(x: Array, g: Array) -> tuple[Array]:
    """`dx` for the cotangent `g` of y, from the inputs alone."""
    return (np.where(x <= 0, 0, g),)


def residuals(x: Array) -> dict[str, Array]:
    """The value each residual must have."""
    return {"y": forward(x)}


def samples(rng: np.random.Generator) -> Samples:
    """Named calls: ordinary shapes first, then the awkward ones; no 0, where finite differences mean nothing."""
    return {
        "3x13": {"x": rng.standard_normal((3, 13))},
        "7": {"x": rng.standard_normal(7)},
        "2x3x4": {"x": rng.standard_normal((2, 3, 4))},
        "0d": {"x": np.array(-0.5)},  # the one element must be a dead one, for another y to make another gradient
        "0x5": {"x": np.zeros((0, 5))},
        "3x0": {"x": np.zeros((3, 0))},
        "huge": {"x": 1e4 * rng.standard_normal((2, 8))},
    }

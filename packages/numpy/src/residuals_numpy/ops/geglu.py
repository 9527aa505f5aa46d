"""Gated linear unit with a Gaussian error gate: y = gate·Φ(gate)·up, with Φ the normal distribution function, exact.

Source: Shazeer, "GLU Variants Improve Transformer" (2020), equation 5.
"""

import math

import numpy as np

from residuals_numpy._lib.arrays import Array, Samples

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _gelu(x: Array) -> Array:
    return x * 0.5 * _erfc(-x / math.sqrt(2))


def forward(gate: Array, up: Array) -> Array:
    """y = gate·Φ(gate)·up for two arrays of one shape."""
    return _gelu(gate) * up


def vjp(gate: Array, up: Array, g: Array) -> tuple[Array, Array]:
    """`dgate, dup` for the cotangent `g` of y, from the inputs alone."""
    density = np.exp(-gate * gate / 2) / math.sqrt(2 * math.pi)
    return g * up * (0.5 * _erfc(-gate / math.sqrt(2)) + gate * density), g * _gelu(gate)


def residuals(gate: Array, up: Array) -> dict[str, Array]:
    """The value each residual must have."""
    return {"gate": gate, "up": up}


def samples(rng: np.random.Generator) -> Samples:
    """Named calls: ordinary shapes first, then the awkward ones."""

    def call(*shape: int) -> dict[str, Array]:
        return {"gate": rng.standard_normal(shape), "up": rng.standard_normal(shape)}

    huge = np.array([[1e4, -1e4, 300], [-300, 40, -40], [3, -3, 1]])
    return {
        "3x5": call(3, 5),
        "7": call(7),
        "2x3x4": call(2, 3, 4),
        "3x1x4": call(3, 1, 4),
        "0d": call(),
        "0x5": call(0, 5),
        "3x0": call(3, 0),
        "zero-gate": {**call(2, 3), "gate": np.zeros((2, 3))},
        "huge-gate": {**call(3, 3), "gate": huge},
        "huge-up": {**call(4, 16), "up": 1e4 * rng.standard_normal((4, 16))},
        "tiny": {name: 1e-2 * a for name, a in call(2, 8).items()},
    }

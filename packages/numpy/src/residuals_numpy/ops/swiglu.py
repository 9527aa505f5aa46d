"""Gated linear unit with a sigmoid linear gate: y = gate·σ(gate)·up.

Source: Shazeer, "GLU Variants Improve Transformer" (2020), equation 5.
"""

import numpy as np

from residuals_numpy._lib.arrays import Array, Samples
from residuals_numpy._lib.gates import halves, packed


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0, -x))  # overflows nowhere


def forward(gate: Array, up: Array | None = None) -> Array:
    """y = gate·σ(gate)·up for two arrays of one shape, or for the halves of one array along its last axis."""
    a, b = halves(gate, up)
    return a * _sigmoid(a) * b


def vjp(gate: Array, up: Array | None, g: Array) -> tuple[Array, Array | None]:
    """`dgate, dup` for the cotangent `g` of y, from the inputs alone."""
    a, b = halves(gate, up)
    s = _sigmoid(a)
    return packed(g * b * (s + a * s * _sigmoid(-a)), g * a * s, up)


def residuals(gate: Array, up: Array | None = None) -> dict[str, Array | None]:
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
        "packed-3x10": {"gate": rng.standard_normal((3, 10))},
        "packed-0": {"gate": np.zeros((3, 0))},
    }

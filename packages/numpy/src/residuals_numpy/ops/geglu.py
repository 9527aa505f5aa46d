"""Gated linear unit with a Gaussian error gate: y = gate·Φ(gate)·up; Φ is exact, or a tanh approximates it.

Source: Shazeer, "GLU Variants Improve Transformer" (2020), equation 5.
"""

import numpy as np

from residuals_numpy._lib.arrays import Array, Samples
from residuals_numpy._lib.gates import halves, packed
from residuals_numpy._lib.gelu import cdf


def forward(gate: Array, up: Array | None = None, *, approximate: str = "none") -> Array:
    """y = gate·Φ(gate)·up for two arrays of one shape, or for the halves of one array along its last axis."""
    a, b = halves(gate, up)
    return a * cdf(a, approximate)[0] * b


def vjp(gate: Array, up: Array | None, g: Array, *, approximate: str = "none") -> tuple[Array, Array | None]:
    """`dgate, dup` for the cotangent `g` of y, from the inputs alone."""
    a, b = halves(gate, up)
    phi, density = cdf(a, approximate)
    return packed(g * b * (phi + a * density), g * a * phi, up)


def residuals(gate: Array, up: Array | None = None, *, approximate: str = "none") -> dict[str, Array | None]:
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
        "3x5-tanh": {**call(3, 5), "approximate": "tanh"},
        "packed-2x3x4-tanh": {"gate": rng.standard_normal((2, 3, 4)), "approximate": "tanh"},
        "huge-gate-tanh": {**call(3, 3), "gate": huge, "approximate": "tanh"},
    }

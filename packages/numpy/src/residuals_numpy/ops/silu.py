"""Sigmoid linear unit: y = x·σ(x), and dx = g·(σ + x·σ·(1 − σ)).

Source: Elfwing, Uchibe & Doya, "Sigmoid-Weighted Linear Units" (2017), equations 5 and 6.
"""

import numpy as np

from residuals_numpy._lib.arrays import Array, Samples


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def forward(x: Array) -> Array:
    """y = x·σ(x)."""
    return x * _sigmoid(x)


def vjp(x: Array, g: Array) -> tuple[Array]:
    """`dx` for the cotangent `g` of y, from the inputs alone; 1 − σ(x) is σ(−x)."""
    return (g * _sigmoid(x) * (1 + x * _sigmoid(-x)),)


def residuals(x: Array) -> dict[str, Array]:
    """The value each residual must have."""
    return {"x": x}


def samples(rng: np.random.Generator) -> Samples:
    """Named calls: ordinary shapes first, then the awkward ones."""
    return {
        "3x13": {"x": rng.standard_normal((3, 13))},
        "7": {"x": rng.standard_normal(7)},
        "2x3x4": {"x": rng.standard_normal((2, 3, 4))},
        "0d": {"x": rng.standard_normal(())},
        "0x5": {"x": np.zeros((0, 5))},
        "3x0": {"x": np.zeros((3, 0))},
        "zeros": {"x": np.array([0.0, -0.0, 1.0, -0.5])},
        "huge": {"x": np.array([[1e4, -1e4, 0.5], [300, -300, -0.5], [40, -40, 1]])},
    }

"""Hyperbolic tangent: y = tanh x, and dx = g·(1 − y²).

Source: LeCun et al., "Efficient BackProp" (1998), section 4.4.
"""

import numpy as np

from residuals_numpy._lib.arrays import Array, Samples


def forward(x: Array) -> Array:
    """y = tanh x."""
    return np.tanh(x)


def vjp(x: Array, g: Array) -> tuple[Array]:
    """`dx` for the cotangent `g` of y, from the inputs alone: 1 − y² is 1/cosh² x, without overflow."""
    e = np.exp(-2 * np.abs(x))
    return (g * 4 * e / (1 + e) ** 2,)


def residuals(x: Array) -> dict[str, Array]:
    """The value each residual must have."""
    return {"y": forward(x)}


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

"""Gaussian error linear unit: y = x·Φ(x), and dx = g·(Φ + x·Φ′); Φ is exact, or a tanh approximates it.

Source: Hendrycks & Gimpel, "Gaussian Error Linear Units" (2016), section 2.
"""

import numpy as np

from residuals_numpy._lib.arrays import Array, Samples
from residuals_numpy._lib.gelu import cdf


def forward(x: Array, *, approximate: str = "none") -> Array:
    """y = x·Φ(x)."""
    return x * cdf(x, approximate)[0]


def vjp(x: Array, g: Array, *, approximate: str = "none") -> tuple[Array]:
    """`dx` for the cotangent `g` of y, from the inputs alone."""
    phi, density = cdf(x, approximate)
    return (g * (phi + x * density),)


def residuals(x: Array, *, approximate: str = "none") -> dict[str, Array]:
    """The value each residual must have."""
    return {"x": x}


def samples(rng: np.random.Generator) -> Samples:
    """Named calls: ordinary shapes first, then the awkward ones; calls whose numbers matter come in both forms."""
    calls = {
        "3x13": {"x": rng.standard_normal((3, 13))},
        "7": {"x": 2 * rng.standard_normal(7)},
        "2x3x4": {"x": rng.standard_normal((2, 3, 4))},
        "0d": {"x": rng.standard_normal(())},
        "0x5": {"x": np.zeros((0, 5))},
        "3x0": {"x": np.zeros((3, 0))},
        "zeros": {"x": np.array([0.0, -0.0, 1.0, -0.5])},
        "huge": {"x": np.array([[1e4, -1e4, 0.5], [300, -300, -0.5], [40, -40, 1]])},
    }
    tanh = {f"{name}-tanh": {**calls[name], "approximate": "tanh"} for name in ("3x13", "0x5", "zeros", "huge")}
    return {**calls, **tanh}

"""Gaussian error linear unit: y = x·Φ(x), and dx = g·(Φ + x·Φ′); Φ is exact, or a tanh approximates it.

Source: Hendrycks & Gimpel, "Gaussian Error Linear Units" (2016), section 2.
"""

import math

import numpy as np

from residuals_numpy._lib.arrays import Array, Samples

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _cdf(x: Array, approximate: str) -> tuple[Array, Array]:
    """Φ and its derivative."""
    if approximate == "none":
        return 0.5 * _erfc(-x / math.sqrt(2)), np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    c = math.sqrt(2 / math.pi)
    u = c * (x + 0.044715 * x**3)
    e = np.exp(-2 * np.abs(u))
    slope = 4 * e / (1 + e) ** 2  # 1 − tanh² u, without cancellation
    return np.where(u < 0, e, 1) / (1 + e), 0.5 * slope * c * (1 + 3 * 0.044715 * x**2)


def forward(x: Array, *, approximate: str = "none") -> Array:
    """y = x·Φ(x)."""
    return x * _cdf(x, approximate)[0]


def vjp(x: Array, g: Array, *, approximate: str = "none") -> tuple[Array]:
    """`dx` for the cotangent `g` of y, from the inputs alone."""
    cdf, density = _cdf(x, approximate)
    return (g * (cdf + x * density),)


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

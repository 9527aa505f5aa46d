"""The normal distribution function of a Gaussian error gate, exact or by a tanh."""

import math

import numpy as np

from residuals_numpy._lib.arrays import Array

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def cdf(x: Array, approximate: str) -> tuple[Array, Array]:
    """Φ and its derivative."""
    if approximate == "none":
        return 0.5 * _erfc(-x / math.sqrt(2)), np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    c = math.sqrt(2 / math.pi)
    u = c * (x + 0.044715 * x**3)
    e = np.exp(-2 * np.abs(u))
    slope = 4 * e / (1 + e) ** 2  # 1 − tanh² u, without cancellation
    return np.where(u < 0, e, 1) / (1 + e), 0.5 * slope * c * (1 + 3 * 0.044715 * x**2)

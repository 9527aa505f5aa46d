"""The seed problem: y = Σ x·sin x, and dx = g·(sin x + x·cos x)."""

import numpy as np

from residuals_numpy._lib.arrays import Array, Samples


def forward(x: Array) -> Array:
    """y = Σ x·sin x over all of `x` (any shape): a scalar."""
    return np.asarray(np.sum(x * np.sin(x)))


def vjp(x: Array, g: Array) -> tuple[Array]:
    """`dx` for the cotangent `g` of y, from the inputs alone."""
    return (g * (np.sin(x) + x * np.cos(x)),)


def residuals(x: Array) -> dict[str, Array]:
    """The value each residual must have."""
    return {"x": x, "sin_x": np.sin(x)}


def samples(rng: np.random.Generator) -> Samples:
    """Named calls: ordinary shapes first, then the awkward ones."""
    return {
        "5": {"x": rng.standard_normal(5)},
        "17x33": {"x": rng.standard_normal((17, 33))},
        "0d": {"x": rng.standard_normal(())},
        "0": {"x": np.zeros(0)},
        "zeros": {"x": np.zeros(4)},
        "huge": {"x": 1e4 * rng.standard_normal((2, 3))},
    }

"""Softmax along one axis: y = exp x / Σ exp x, and dx = y·(g − Σ g·y).

Source: Bridle, "Probabilistic Interpretation of Feedforward Classification Network Outputs" (1990), equation 4.
"""

import numpy as np

from residuals_numpy._lib.arrays import Array, Samples


def forward(x: Array, *, axis: int = -1) -> Array:
    """y = exp x / Σ exp x along `axis`; NaN along a row that is −∞ throughout."""
    with np.errstate(invalid="ignore"):  # −∞ less a maximum of −∞
        e = np.exp(x - x.max(axis, keepdims=True, initial=-np.inf))
    return e / e.sum(axis, keepdims=True)


def vjp(x: Array, g: Array, *, axis: int = -1) -> tuple[Array]:
    """`dx` for the cotangent `g` of y, from the inputs alone."""
    y = forward(x, axis=axis)
    return (y * (g - (g * y).sum(axis, keepdims=True)),)


def residuals(x: Array, *, axis: int = -1) -> dict[str, Array]:
    """The value each residual must have."""
    return {"y": forward(x, axis=axis)}


def samples(rng: np.random.Generator) -> Samples:
    """Named calls: ordinary shapes first, then the awkward ones."""

    def call(*shape: int, **others: int) -> dict[str, Array | int]:
        return {"x": rng.standard_normal(shape), **others}

    masked = np.array([[0.5, -np.inf, 1.0], [-np.inf, -1.0, -np.inf], [0.0, 1.0, 2.0]])
    return {
        "3x5": call(3, 5),
        "2x3x4-axis-1": call(2, 3, 4, axis=1),
        "2x3x4-axis-minus-3": call(2, 3, 4, axis=-3),
        "2x1": call(2, 1),
        "4096x3": call(4096, 3),
        "0x5": call(0, 5),
        "3x0": call(3, 0),
        "0x5-axis-0": call(0, 5, axis=0),
        "equal": {"x": np.full((2, 4), 3.0)},
        "peaked": {"x": rng.standard_normal((256, 8)) + 5 * np.eye(8)[np.arange(256) % 8]},  # one entry is nearly 1
        "huge": {"x": np.array([[1e4, -1e4, 1e4 - 1], [-1e4, 9e3, 0], [-1e4, 2 - 1e4, 1 - 1e4]])},
        "some-minus-inf": {"x": masked},
        "all-minus-inf": {"x": np.where(np.arange(3)[:, None] == 1, -np.inf, masked)},
    }

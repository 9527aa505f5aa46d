"""Root-mean-square normalization over one axis or several: y = x·rstd·weight, rstd = 1/√(mean(x²) + eps).

Source: Zhang & Sennrich, "Root Mean Square Layer Normalization" (2019), equation 4.
"""

from typing import Any

import numpy as np

from residuals_numpy._lib.arrays import Array, Samples
from residuals_numpy._lib.norms import lifted, mean_over, normalized_axes, sum_to


def _rstd(x: Array, axes: tuple[int, ...], eps: float | None) -> Array:
    return np.asarray(1 / np.sqrt(mean_over(x * x, axes) + (np.finfo(x.dtype).eps if eps is None else eps)))


def forward(
    x: Array, weight: Array | None = None, *, axis: int = -1, offset: float = 0.0, eps: float | None = 1e-6
) -> Array:
    """y = x·rstd·(offset + weight) for `x` (..., d) and `weight` (d,) or None.

    With another `axis` the weight has its length; if it has several axes, these are the last ones of x.
    """
    axes = normalized_axes(x.ndim, axis, weight)
    y = x * _rstd(x, axes, eps)
    return y if weight is None else y * lifted(offset + weight, axes, x.ndim)


def vjp(
    x: Array, weight: Array | None, g: Array, *, axis: int = -1, offset: float = 0.0, eps: float | None = 1e-6
) -> tuple[Array, Array | None]:
    """`dx, dweight` for the cotangent `g` of y, from the inputs alone; `dweight` is None without a weight."""
    axes = normalized_axes(x.ndim, axis, weight)
    rstd = _rstd(x, axes, eps)
    g_hat = g if weight is None else g * lifted(offset + weight, axes, x.ndim)
    dx = g_hat * rstd - x * rstd**3 * mean_over(g_hat * x, axes)
    return dx, None if weight is None else sum_to(g * x * rstd, axes)


def residuals(
    x: Array, weight: Array | None = None, *, axis: int = -1, offset: float = 0.0, eps: float | None = 1e-6
) -> dict[str, Array | None]:
    """The value each residual must have."""
    return {"x": x, "weight": weight, "rstd": _rstd(x, normalized_axes(x.ndim, axis, weight), eps)}


def samples(rng: np.random.Generator) -> Samples:
    """Named calls: ordinary shapes first, then the awkward ones."""

    def call(*shape: int, scale: float = 1.0) -> dict[str, Array]:
        return {"x": scale * rng.standard_normal(shape), "weight": rng.standard_normal(shape[-1])}

    def of(x: Array, shape: tuple[int, ...]) -> dict[str, Any]:
        return {"x": x, "weight": rng.standard_normal(shape)}

    return {
        "3x5": call(3, 5),
        "3x5-no-weight": {"x": rng.standard_normal((3, 5))},
        "2x3x4-eps": {**call(2, 3, 4), "eps": 0.5},
        "3x5-eps-of-the-dtype": {**call(3, 5), "eps": None},
        "3x5-offset": {**call(3, 5), "offset": 1.0},
        "2x3x5-two-axes": of(call(2, 3, 5)["x"], (3, 5)),
        "2x5x3-axis": {**of(call(2, 5, 3)["x"], (5,)), "axis": -2, "offset": 1.0},
        "7": call(7),
        "4096x3": call(4096, 3),
        "2x1-eps": {**call(2, 1), "eps": 0.5},  # with a tiny eps one element is its own mean square: dx cancels to 0
        "0x5": call(0, 5),
        "3x0": call(3, 0),
        "zeros": {"x": np.zeros((2, 3)), "weight": rng.standard_normal(3)},
        "huge": call(2, 8, scale=1e4),
        "tiny": call(2, 8, scale=1e-3),
    }

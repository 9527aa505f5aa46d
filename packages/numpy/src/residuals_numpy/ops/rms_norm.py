"""Root-mean-square normalization over the last axis: y = x·rstd·weight, rstd = 1/√(mean(x²) + eps).

Source: Zhang & Sennrich, "Root Mean Square Layer Normalization" (2019), equation 4.
"""

import numpy as np

from residuals_numpy._lib.arrays import Array, Samples
from residuals_numpy._lib.cotangents import sum_to


def _rstd(x: Array, eps: float | None) -> Array:
    eps = np.finfo(x.dtype).eps if eps is None else eps
    with np.errstate(invalid="ignore"):  # an axis of length 0 has no mean: NaN, as the frameworks have it
        return 1 / np.sqrt((x * x).sum(-1, keepdims=True) / np.float64(x.shape[-1]) + eps)


def forward(x: Array, weight: Array | None = None, *, eps: float | None = 1e-6) -> Array:
    """y = x·rstd·weight for `x` (..., d) and `weight` (d,) or None."""
    y = x * _rstd(x, eps)
    return y if weight is None else y * weight


def vjp(x: Array, weight: Array | None, g: Array, *, eps: float | None = 1e-6) -> tuple[Array, Array | None]:
    """`dx, dweight` for the cotangent `g` of y, from the inputs alone; `dweight` is None without a weight."""
    rstd = _rstd(x, eps)
    g_hat = g if weight is None else g * weight
    dot = (g_hat * x).sum(-1, keepdims=True)
    dx = g_hat * rstd - x * rstd**3 * dot / max(x.shape[-1], 1)
    return dx, None if weight is None else sum_to(g * x * rstd, weight.shape)


def residuals(x: Array, weight: Array | None = None, *, eps: float | None = 1e-6) -> dict[str, Array | None]:
    """The value each residual must have."""
    return {"x": x, "weight": weight, "rstd": _rstd(x, eps)}


def samples(rng: np.random.Generator) -> Samples:
    """Named calls: ordinary shapes first, then the awkward ones."""

    def call(*shape: int, scale: float = 1.0) -> dict[str, Array]:
        return {"x": scale * rng.standard_normal(shape), "weight": rng.standard_normal(shape[-1])}

    return {
        "3x5": call(3, 5),
        "3x5-no-weight": {"x": rng.standard_normal((3, 5))},
        "2x3x4-eps": {**call(2, 3, 4), "eps": 0.5},
        "3x5-eps-of-the-dtype": {**call(3, 5), "eps": None},
        "7": call(7),
        "4096x3": call(4096, 3),
        "2x1-eps": {**call(2, 1), "eps": 0.5},  # with a tiny eps one element is its own mean square: dx cancels to 0
        "0x5": call(0, 5),
        "3x0": call(3, 0),
        "zeros": {"x": np.zeros((2, 3)), "weight": rng.standard_normal(3)},
        "huge": call(2, 8, scale=1e4),
        "tiny": call(2, 8, scale=1e-3),
    }

"""Layer normalization over one axis or several: y = x̂·weight + bias, x̂ = (x − mean)·rstd, rstd = 1/√(var + eps).

Source: Ba, Kiros & Hinton, "Layer Normalization" (2016), equation 4.
"""

from typing import Any

import numpy as np

from residuals_numpy._lib.arrays import Array, Samples
from residuals_numpy._lib.norms import lifted, mean_over, normalized_axes, sum_to


def _normalized(x: Array, axes: tuple[int, ...], eps: float) -> tuple[Array, Array, Array]:
    """x̂, mean, rstd."""
    mean = mean_over(x, axes)
    rstd = 1 / np.sqrt(mean_over((x - mean) ** 2, axes) + eps)
    return (x - mean) * rstd, mean, rstd


def forward(
    x: Array, weight: Array | None = None, bias: Array | None = None, *, axis: int = -1, eps: float = 1e-5
) -> Array:
    """y = x̂·weight + bias for `x` (..., d), and `weight` and `bias` (d,) or None.

    With another `axis` they have its length; if they have several axes, these are the last ones of x.
    """
    axes = normalized_axes(x.ndim, axis, weight, bias)
    y, _, _ = _normalized(x, axes, eps)
    y = y if weight is None else y * lifted(weight, axes, x.ndim)
    return y if bias is None else y + lifted(bias, axes, x.ndim)


def vjp(
    x: Array, weight: Array | None, bias: Array | None, g: Array, *, axis: int = -1, eps: float = 1e-5
) -> tuple[Array, Array | None, Array | None]:
    """`dx, dweight, dbias` for the cotangent `g` of y, from the inputs alone; None for what is None."""
    axes = normalized_axes(x.ndim, axis, weight, bias)
    x_hat, _, rstd = _normalized(x, axes, eps)
    g_hat = g if weight is None else g * lifted(weight, axes, x.ndim)
    dx = rstd * (g_hat - mean_over(g_hat, axes) - x_hat * mean_over(g_hat * x_hat, axes))
    dweight = None if weight is None else sum_to(g * x_hat, axes)
    return dx, dweight, None if bias is None else sum_to(g, axes)


def residuals(
    x: Array, weight: Array | None = None, bias: Array | None = None, *, axis: int = -1, eps: float = 1e-5
) -> dict[str, Array | None]:
    """The value each residual must have; the bias is none, since no gradient depends on it."""
    _, mean, rstd = _normalized(x, normalized_axes(x.ndim, axis, weight, bias), eps)
    return {"x": x, "weight": weight, "mean": mean, "rstd": rstd}


def samples(rng: np.random.Generator) -> Samples:
    """Named calls: ordinary shapes first, then the awkward ones.

    No call has d = 1, where y is the bias and no gradient but the bias's is other than 0.
    """

    def call(*shape: int, scale: float = 1.0, mean: float = 0.0) -> dict[str, Array]:
        x = scale * (mean + rng.standard_normal(shape))
        return {"x": x, "weight": rng.standard_normal(shape[-1]), "bias": rng.standard_normal(shape[-1])}

    def of(x: Array, shape: tuple[int, ...]) -> dict[str, Any]:
        return {"x": x, "weight": rng.standard_normal(shape), "bias": rng.standard_normal(shape)}

    def without(*names: str) -> dict[str, Array]:
        return {name: a for name, a in call(3, 5).items() if name not in names}

    return {
        "3x5": call(3, 5),
        "3x5-no-weight": without("weight"),
        "3x5-no-bias": without("bias"),
        "3x5-alone": without("weight", "bias"),
        "2x3x4-eps": {**call(2, 3, 4), "eps": 0.5},
        "2x3x5-two-axes": of(call(2, 3, 5)["x"], (3, 5)),
        "2x3x5-two-axes-no-weight": {**of(call(2, 3, 5)["x"], (3, 5)), "weight": None},
        "2x5x3-axis": {**of(call(2, 5, 3)["x"], (5,)), "axis": -2},
        "2x5x3-axis-alone": {"x": call(2, 5, 3)["x"], "axis": -2},
        "7": call(7),
        "4096x3": call(4096, 3),
        "0x5": call(0, 5),
        "3x0": call(3, 0),
        "zeros": {**call(2, 3), "x": np.zeros((2, 3))},
        "mean-1000": {**call(16, 64, mean=1e3), "eps": 0.01},
        "huge": call(2, 8, scale=1e4),
        "tiny": call(2, 8, scale=1e-3),
    }

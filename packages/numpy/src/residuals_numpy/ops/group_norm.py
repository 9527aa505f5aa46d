"""Group normalization: y = x̂·weight + bias, x̂ = (x − mean)·rstd over a group of channels, rstd = 1/√(var + eps).

Source: Wu & He, "Group Normalization" (2018), equations 1 and 7.
"""

import math

import numpy as np

from residuals_numpy._lib.arrays import Array, Samples


def _grouped(a: Array, num_groups: int) -> Array:
    """(b, c, ...) as (b, num_groups, c / num_groups, ...)."""
    b, c, *rest = a.shape
    return a.reshape(b, num_groups, c // num_groups, *rest)


def _mean(a: Array) -> Array:
    """The mean over all axes but the first two; 0 where those axes are empty."""
    axes = tuple(range(2, a.ndim))
    return a.sum(axes, keepdims=True) / max(math.prod(a.shape[2:]), 1)


def _normalized(x: Array, num_groups: int, eps: float) -> tuple[Array, Array, Array]:
    """x̂ in the shape of x, mean, rstd."""
    groups = _grouped(x, num_groups)
    mean = _mean(groups)
    rstd = 1 / np.sqrt(_mean((groups - mean) ** 2) + eps)
    return ((groups - mean) * rstd).reshape(x.shape), mean, rstd


def _lift(a: Array, ndim: int) -> Array:
    """`a` (c,) with axes of size 1 after its own."""
    return a.reshape(a.shape + (1,) * (ndim - 2))


def forward(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    num_groups: int,
    axis: int = 1,
    eps: float = 1e-5,
) -> Array:
    """y = x̂·weight + bias for `x` (b, c, ...), and `weight` and `bias` (c,) or None; the channels are on `axis`."""
    x = np.moveaxis(x, axis, 1)
    y, _, _ = _normalized(x, num_groups, eps)
    y = y if weight is None else y * _lift(weight, x.ndim)
    return np.moveaxis(y if bias is None else y + _lift(bias, x.ndim), 1, axis)


def vjp(
    x: Array, weight: Array | None, bias: Array | None, g: Array, *, num_groups: int, axis: int = 1, eps: float = 1e-5
) -> tuple[Array, Array | None, Array | None]:
    """`dx, dweight, dbias` for the cotangent `g` of y, from the inputs alone; None for what is None."""
    x, g = np.moveaxis(x, axis, 1), np.moveaxis(g, axis, 1)
    x_hat, _, rstd = _normalized(x, num_groups, eps)
    g_hat = _grouped(g if weight is None else g * _lift(weight, x.ndim), num_groups)
    groups = _grouped(x_hat, num_groups)
    dx = (rstd * (g_hat - _mean(g_hat) - groups * _mean(g_hat * groups))).reshape(x.shape)
    others = (0, *range(2, x.ndim))  # all axes but the channels
    dweight = None if weight is None else (g * x_hat).sum(others)
    return np.moveaxis(dx, 1, axis), dweight, None if bias is None else g.sum(others)


def residuals(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    num_groups: int,
    axis: int = 1,
    eps: float = 1e-5,
) -> dict[str, Array | None]:
    """The value each residual must have; the bias is none, since no gradient depends on it."""
    _, mean, rstd = _normalized(np.moveaxis(x, axis, 1), num_groups, eps)
    shape = (x.shape[0], num_groups)
    return {"x": x, "weight": weight, "mean": mean.reshape(shape), "rstd": rstd.reshape(shape)}


def samples(rng: np.random.Generator) -> Samples:
    """Named calls: ordinary shapes first, then the awkward ones.

    No call has groups of one number, where y is the bias and no gradient but the bias's is other than 0.
    """

    def call(*shape: int, groups: int = 2, scale: float = 1.0, mean: float = 0.0) -> dict[str, Array | int]:
        return {
            "x": scale * (mean + rng.standard_normal(shape)),
            "weight": rng.standard_normal(shape[1]),
            "bias": rng.standard_normal(shape[1]),
            "num_groups": groups,
        }

    def without(*names: str) -> dict[str, Array | int]:
        return {name: a for name, a in call(2, 4, 3).items() if name not in names}

    return {
        "2x4x3": call(2, 4, 3),
        "2x4x3-no-weight": without("weight"),
        "2x4x3-no-bias": without("bias"),
        "2x4x3-alone": without("weight", "bias"),
        "3x6": call(3, 6),
        "2x6x2x3-one-group": call(2, 6, 2, 3, groups=1),
        "2x3x2x2x2-each-channel": call(2, 3, 2, 2, 2, groups=3),
        "2x3x4-last": {**call(2, 4, 3), "x": rng.standard_normal((2, 3, 4)), "axis": -1},
        "2x3x4x2-third": {**call(2, 4, 3), "x": rng.standard_normal((2, 3, 4, 2)), "axis": 2},
        "2x4x3-eps": {**call(2, 4, 3), "eps": 0.5},
        "1x4x1x3": call(1, 4, 1, 3),
        "4096x6": call(4096, 6),
        "0x4x3": call(0, 4, 3),
        "2x4x0": call(2, 4, 0),
        "2x0x3": call(2, 0, 3, groups=1),
        "zeros": {**call(2, 4, 3), "x": np.zeros((2, 4, 3))},
        "mean-1000": {**call(8, 4, 32, mean=1e3), "eps": 0.01},
        "huge": call(2, 4, 3, scale=1e4),
        "tiny": call(2, 4, 3, scale=1e-3),
    }

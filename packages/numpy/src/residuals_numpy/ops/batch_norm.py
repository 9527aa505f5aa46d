"""Batch normalization: y = x̂·weight + bias, x̂ = (x − mean)·rstd per channel, rstd = 1/√(var + eps).

In training, mean and variance are those of the batch; in evaluation, the running ones from training.

Source: Ioffe & Szegedy, "Batch Normalization" (2015), algorithms 1 and 2.
"""

import math

import numpy as np

from residuals_numpy._lib.arrays import Array, Samples


def _count(a: Array) -> int:
    """How many numbers a channel has."""
    return a.shape[0] * math.prod(a.shape[2:])


def _sum(a: Array) -> Array:
    """(c,): the sum over all axes but the channels. Each channel becomes a row: NumPy sums only those pairwise."""
    return np.moveaxis(a, 1, 0).reshape(a.shape[1], _count(a)).sum(1)


def _mean(a: Array) -> Array:
    with np.errstate(invalid="ignore"):  # an empty batch has no mean: NaN, as the frameworks have it
        return _sum(a) / np.float64(_count(a))


def _lift(a: Array, ndim: int) -> Array:
    """`a` (c,) with axes of size 1 after its own."""
    return a.reshape(a.shape + (1,) * (ndim - 2))


def _statistics(x: Array, running_mean: Array | None, running_var: Array | None, training: bool) -> tuple[Array, Array]:
    """The mean and the biased variance that normalize."""
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError("running_mean, running_var: expected both in evaluation")
        return running_mean, running_var
    if _count(x) == 1:
        raise ValueError(f"x: expected more than one value per channel in training, got shape {list(x.shape)}")
    mean = _mean(x)
    return mean, _mean((x - _lift(mean, x.ndim)) ** 2)


def _normalized(x: Array, mean: Array, var: Array, eps: float) -> tuple[Array, Array]:
    """x̂ in the shape of x, rstd."""
    rstd = 1 / np.sqrt(var + eps)
    return (x - _lift(mean, x.ndim)) * _lift(rstd, x.ndim), rstd


def forward(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Array, Array | None, Array | None]:
    """y = x̂·weight + bias and the next running statistics, for `x` (b, c, ...) and all else (c,) or None."""
    mean, var = _statistics(x, running_mean, running_var, training)
    y, _ = _normalized(x, mean, var, eps)
    y = y if weight is None else y * _lift(weight, x.ndim)
    y = y if bias is None else y + _lift(bias, x.ndim)
    n = _count(x)
    if not training or n == 0:
        return y, running_mean, running_var
    kept = 1 - momentum
    running_mean = None if running_mean is None else kept * running_mean + momentum * mean
    running_var = None if running_var is None else kept * running_var + momentum * var * n / (n - 1)
    return y, running_mean, running_var


def vjp(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    g: Array,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Array, Array | None, Array | None]:
    """`dx, dweight, dbias` for the cotangent `g` of y, from the inputs alone; None for what is None.

    The running statistics are constants, and those that are returned have no cotangent.
    """
    x_hat, rstd = _normalized(x, *_statistics(x, running_mean, running_var, training), eps)
    dx = g if weight is None else g * _lift(weight, x.ndim)
    if training:
        dx = dx - _lift(_mean(dx), x.ndim) - x_hat * _lift(_mean(dx * x_hat), x.ndim)
    dweight = None if weight is None else _sum(g * x_hat)
    return dx * _lift(rstd, x.ndim), dweight, None if bias is None else _sum(g)


def residuals(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> dict[str, Array | None]:
    """The value each residual must have; neither x nor mean in evaluation without weight, which needs no x̂."""
    mean, var = _statistics(x, running_mean, running_var, training)
    _, rstd = _normalized(x, mean, var, eps)
    needs_x_hat = training or weight is not None
    return {
        "x": x if needs_x_hat else None,
        "weight": weight,
        "mean": mean if needs_x_hat else None,
        "rstd": rstd,
    }


def samples(rng: np.random.Generator) -> Samples:
    """Named calls: ordinary shapes first, then the awkward ones.

    No call has two numbers a channel, where x̂ is ±1 and the gradient of x is all rounding for a small eps.
    """

    def call(*shape: int, training: bool = True, scale: float = 1.0, mean: float = 0.0) -> dict[str, Array | bool]:
        return {
            "x": scale * (mean + rng.standard_normal(shape)),
            "weight": rng.standard_normal(shape[1]),
            "bias": rng.standard_normal(shape[1]),
            "running_mean": rng.standard_normal(shape[1]),
            "running_var": 0.5 + rng.random(shape[1]),
            "training": training,
        }

    def without(*names: str, shape: tuple[int, ...] = (3, 2, 4), training: bool = True) -> dict[str, Array | bool]:
        return {name: a for name, a in call(*shape, training=training).items() if name not in names}

    return {
        "3x2x4": call(3, 2, 4),
        "3x2x4-evaluated": call(3, 2, 4, training=False),
        "3x2x4-no-weight-nor-mean": without("weight", "running_mean"),
        "3x2x4-no-bias-nor-var": without("bias", "running_var"),
        "5x3-alone": without("weight", "bias", "running_mean", "running_var", shape=(5, 3)),
        "3x2x4-evaluated-alone": without("weight", "bias", training=False),
        "2x3x2x2-eps": {**call(2, 3, 2, 2), "eps": 0.5, "momentum": 0.7},
        "2x2x2x1x3-evaluated-no-bias": without("bias", shape=(2, 2, 2, 1, 3), training=False),
        "1x3-evaluated": call(1, 3, training=False),
        "4096x3": call(4096, 3),
        "0x3x2": call(0, 3, 2),
        "2x0x3": call(2, 0, 3),
        "zeros": {**call(3, 2, 4), "x": np.zeros((3, 2, 4))},
        "mean-1000": {**call(16, 2, 32, mean=1e3), "eps": 0.01},
        "huge": {**call(3, 2, 4, scale=1e4), "eps": 0.01},
        "tiny": call(3, 2, 4, scale=1e-3),
    }

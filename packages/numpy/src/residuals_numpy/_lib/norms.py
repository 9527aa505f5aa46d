"""What the norms share: the axes that they normalize."""

import numpy as np

from residuals_numpy._lib.arrays import Array


def normalized_axes(ndim: int, axis: int, *parameters: Array | None) -> tuple[int, ...]:
    """Which axes of x are normalized: the last ones if the weight or the bias has several, else `axis` alone."""
    count = max([1, *(a.ndim for a in parameters if a is not None)])
    return tuple(range(ndim - count, ndim)) if count > 1 else (axis % ndim,)


def mean_over(a: Array, axes: tuple[int, ...]) -> Array:
    """The mean over these axes, which stay, of length 1."""
    count = np.prod([a.shape[i] for i in axes])
    with np.errstate(invalid="ignore"):  # an axis of length 0 has no mean: NaN, as the frameworks have it
        return np.asarray(a.sum(axes, keepdims=True) / count)


def lifted(a: Array, axes: tuple[int, ...], ndim: int) -> Array:
    """`a`, whose axes are these of x, with axes of length 1 for the others."""
    return np.expand_dims(a, tuple(i for i in range(ndim) if i not in axes))


def sum_to(a: Array, axes: tuple[int, ...]) -> Array:
    """The sum over all axes but these."""
    return np.asarray(a.sum(tuple(i for i in range(a.ndim) if i not in axes)))

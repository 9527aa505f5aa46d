"""How a cotangent is made to look like its primal."""

from residuals_numpy._lib.arrays import Array


def sum_to(a: Array, shape: tuple[int, ...]) -> Array:
    """`a` summed over the axes along which an array of `shape` was broadcast to it."""
    lead = a.ndim - len(shape)
    stretched = tuple(i + lead for i, n in enumerate(shape) if n == 1)
    return a.sum(axis=(*range(lead), *stretched), keepdims=True).reshape(shape)

"""What the norms share: the axes that they normalize."""

import jax.numpy as jnp
from jax import Array

from residuals_jax._lib.checks import integer
from residuals_jax._lib.cotangents import Like


def checked_axes(x: Array, axis: int, **parameters: Array | None) -> tuple[int, ...]:
    """The axes that are normalized; TypeError unless axis is an int, ValueError unless x has it and the weight fits."""
    axis = integer("axis", axis)
    if x.ndim == 0:
        raise ValueError("x: expected at least 1 axis, got a scalar")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis: expected one of the {x.ndim} axes of x, got {axis}")
    count = max([1, *(a.ndim for a in parameters.values() if a is not None)])
    if count > 1 and axis != -1:
        raise ValueError(f"axis: expected -1 beside a weight or bias of {count} axes, got {axis}")
    axes = normalized_axes(x.ndim, axis, *parameters.values()) if count <= x.ndim else tuple(range(x.ndim))
    shape = [x.shape[i] for i in axes]
    where = f"the last {count} axes of x" if count > 1 else "the last axis of x" if axis == -1 else f"axis {axis} of x"
    for name, a in parameters.items():
        if a is not None and list(a.shape) != shape:
            raise ValueError(f"{name}: expected shape {shape}, as {where}, got {list(a.shape)}")
    return axes


def normalized_axes(ndim: int, axis: int | tuple[int, ...], *parameters: Array | Like | None) -> tuple[int, ...]:
    """Which axes of x are normalized: the last ones if the weight or the bias has several, else `axis` alone."""
    if isinstance(axis, tuple):  # they are known already
        return axis
    count = max([1, *(len(a.shape) for a in parameters if a is not None)])
    return tuple(range(ndim - count, ndim)) if count > 1 else (axis % ndim,)


def lifted(a: Array, axes: tuple[int, ...], ndim: int) -> Array:
    """`a`, whose axes are these of x, with axes of size 1 for the others."""
    return jnp.expand_dims(a, tuple(i for i in range(ndim) if i not in axes))


def sum_to(a: Array, axes: tuple[int, ...]) -> Array:
    """The sum over all axes but these."""
    return jnp.sum(a, axis=tuple(i for i in range(a.ndim) if i not in axes))

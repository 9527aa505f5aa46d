"""The seed problem: y = Σ x·sin x, and dx = g·(sin x + x·cos x)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from residuals_jax._lib.checks import described, floating
from residuals_jax._lib.cotangents import match


class Residuals(NamedTuple):
    x: Array  # (...)  input: multiplies cos x
    sin_x: Array  # (...)  new: saved so that the backward takes no second sine


RECOMPUTES: dict[str, str] = {}


def fwd(x: Array) -> tuple[Array, Residuals]:
    sin_x = jnp.sin(x)
    return jnp.sum(x * sin_x), Residuals(x, sin_x)


def bwd(residuals: Residuals, g: Array) -> tuple[Array]:
    x, sin_x = residuals
    return (match(g * (sin_x + x * jnp.cos(x)), x),)


@jax.custom_vjp
def _x_sin_x(x: Array) -> Array:
    return fwd(x)[0]


_x_sin_x.defvjp(fwd, bwd)


def x_sin_x(x: ArrayLike) -> Array:
    """y = Σ x·sin x, with dx = g·(sin x + x·cos x).

    Args:
        x: (...) floating, any shape.

    Returns:
        A scalar of x's dtype.

    Saves:
        x: (...), an input, no new bytes.
        sin_x: (...), new, as many bytes as x: without it the backward would take the sine again.

    Raises:
        TypeError: x is not a floating array.

    Source:
        The exercise `custom_vjp_with_extra_residual`: a rule that saves more than its inputs.
    """
    return _x_sin_x(floating("x", x))


f_with_sin = x_sin_x  # the exercise's name for it


def custom_vjp_with_extra_residual(x: ArrayLike) -> Array:
    """The seed exercise: the gradient sin x + x·cos x of `f_with_sin`, through its custom rule.

    Args:
        x: (n,) floating.

    Returns:
        (n,), of x's dtype.

    Saves:
        What `x_sin_x` saves.

    Raises:
        ValueError: x is not a 1-D floating array.
    """
    try:
        x = floating("x", x)
    except TypeError as problem:
        raise ValueError(str(problem)) from None
    if x.ndim != 1:
        raise ValueError(f"x: expected a 1-D floating array, got {described(x)}")
    return jax.grad(f_with_sin)(x)

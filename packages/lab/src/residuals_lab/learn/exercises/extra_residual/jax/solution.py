"""f_with_sin(x) = Σ x·sin x, whose backward reads sin x instead of computing it again."""

import jax
import jax.numpy as jnp
from jax import Array

Residuals = tuple[Array, Array]


@jax.custom_vjp
def f_with_sin(x: Array) -> Array:
    return jnp.sum(x * jnp.sin(x))


def _fwd(x: Array) -> tuple[Array, Residuals]:
    sin_x = jnp.sin(x)
    return jnp.sum(x * sin_x), (x, sin_x)


def _bwd(residuals: Residuals, g: Array) -> tuple[Array]:
    x, sin_x = residuals
    return (g * (sin_x + x * jnp.cos(x)),)


f_with_sin.defvjp(_fwd, _bwd)


def custom_vjp_with_extra_residual(x: Array) -> Array:
    """The gradient of f_with_sin at the 1-D array x: an array of its shape."""
    return jax.grad(f_with_sin)(x)

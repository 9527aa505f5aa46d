"""Exercise: a custom VJP with an extra residual.

f_with_sin(x) = Σ x·sin x has the gradient g·(sin x + x·cos x), where g is the cotangent: one number.
The forward has sin x already. Save it beside x, so that the backward takes no second sine.

1. `_fwd` returns a pair: the value, and ONE object that holds the residuals x and sin_x.
2. `_bwd` gets that object and g, and returns a tuple with one gradient for each argument of f_with_sin.

Check it:    residuals learn extra_residual --framework jax --check
Get a hint:  residuals learn extra_residual --framework jax --hint
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


@jax.custom_vjp
def f_with_sin(x: Array) -> Array:
    return jnp.sum(x * jnp.sin(x))


def _fwd(x: Array) -> Any:
    raise NotImplementedError("return the value, and the residuals")


def _bwd(residuals: Any, g: Array) -> Any:
    raise NotImplementedError("return the gradient, in a tuple")


f_with_sin.defvjp(_fwd, _bwd)


def custom_vjp_with_extra_residual(x: Array) -> Array:
    """The gradient of f_with_sin at the 1-D array x: an array of its shape."""
    return jax.grad(f_with_sin)(x)

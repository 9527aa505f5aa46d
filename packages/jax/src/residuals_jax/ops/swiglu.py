"""Gated linear unit with a sigmoid linear gate: y = gate·σ(gate)·up."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from residuals_jax._lib.checks import floating
from residuals_jax._lib.cotangents import match
from residuals_jax._lib.dtypes import to_dtype, wide


class Residuals(NamedTuple):
    gate: Array  # (...)  input: rebuilds the sigmoid
    up: Array  # (...)  input: scales the gate's cotangent


RECOMPUTES = {"sigmoid": "one exponential an element, where an array of it would be as large as gate"}


def fwd(gate: Array, up: Array) -> tuple[Array, Residuals]:
    silu = wide(gate) * jax.nn.sigmoid(wide(gate))
    return to_dtype(silu * wide(up), jnp.result_type(gate, up)), Residuals(gate, up)


def bwd(residuals: Residuals, g: Array) -> tuple[Array, Array]:
    gate, up, g = wide(residuals.gate), wide(residuals.up), wide(g)
    s = jax.nn.sigmoid(gate)
    silu = gate * s
    dgate = g * up * (s + silu * (1 - s))
    return match(dgate, residuals.gate), match(g * silu, residuals.up)


@jax.custom_vjp
def _swiglu(gate: Array, up: Array) -> Array:
    return fwd(gate, up)[0]


_swiglu.defvjp(fwd, bwd)


def swiglu(gate: ArrayLike, up: ArrayLike) -> Array:
    """y = gate·σ(gate)·up, with dgate = g·up·(σ + gate·σ·(1 − σ)) and dup = g·gate·σ.

    Args:
        gate: (...) floating, any shape.
        up: (...) floating, of gate's shape: nothing is broadcast.

    Returns:
        (...), of the dtype to which both promote; computed in float32 if that is narrower.

    Saves:
        gate: (...), an input, no new bytes. The backward computes σ(gate) again.
        up: (...), an input, no new bytes.

    Raises:
        TypeError: gate or up is not floating.
        ValueError: their shapes differ.

    Source:
        Shazeer, "GLU Variants Improve Transformer" (2020), equation 5.
    """
    gate, up = floating("gate", gate), floating("up", up)
    if up.shape != gate.shape:
        raise ValueError(f"up: expected the shape of gate {list(gate.shape)}, got {list(up.shape)}")
    return _swiglu(gate, up)

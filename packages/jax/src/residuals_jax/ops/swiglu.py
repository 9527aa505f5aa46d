"""Gated linear unit with a sigmoid linear gate: y = gate·σ(gate)·up."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from residuals_jax._lib.barriers import barrier
from residuals_jax._lib.checks import floating
from residuals_jax._lib.cotangents import match
from residuals_jax._lib.dtypes import to_dtype, wide
from residuals_jax._lib.gates import check_halves, halves


class Residuals(NamedTuple):
    gate: Array  # (...)  input: rebuilds the sigmoid; (..., 2d) where one array holds both
    up: Array | None  # (...)  input: scales the gate's cotangent; None if gate holds it


RECOMPUTES = {"sigmoid": "one exponential an element, where an array of it would be as large as gate"}


def fwd(gate: Array, up: Array | None) -> tuple[Array, Residuals]:
    residuals = Residuals(gate, up)
    gate, up = halves(gate, up)
    a = wide(gate)
    silu = a * jax.nn.sigmoid(a)
    return to_dtype(silu * wide(up), jnp.result_type(gate, up)), residuals


def bwd(residuals: Residuals, g: Array) -> tuple[Array, Array | None]:
    g = wide(g)
    kept = barrier(residuals)
    gate, up = map(wide, halves(*kept))
    s = jax.nn.sigmoid(gate)
    dgate = g * up * (s + gate * s * (1 - s))
    gate, _ = halves(*barrier(kept))  # once more: a sigmoid that both read would be kept as an array
    gate = wide(gate)
    dup = g * (gate * jax.nn.sigmoid(gate))
    if residuals.up is None:
        return match(jnp.concatenate([dgate, dup], axis=-1), residuals.gate), None
    return match(dgate, residuals.gate), match(dup, residuals.up)


@jax.custom_vjp
def _swiglu(gate: Array, up: Array | None) -> Array:
    return fwd(gate, up)[0]


_swiglu.defvjp(fwd, bwd)


def swiglu(gate: ArrayLike, up: ArrayLike | None = None) -> Array:
    """y = gate·σ(gate)·up, with dgate = g·up·(σ + gate·σ·(1 − σ)) and dup = g·gate·σ.

    Args:
        gate: (...) floating, any shape; or (..., 2d) without up: its first half is the gate, its second is up.
        up: (...) floating, of gate's shape: nothing is broadcast.

    Returns:
        (...), or (..., d) without up, of the dtype to which both promote; computed in float32 if that is narrower.

    Saves:
        gate: (...), an input, no new bytes. The backward computes σ(gate) again.
        up: (...), an input, no new bytes. Halves of one array stay one array.

    Raises:
        TypeError: gate or up is not floating.
        ValueError: their shapes differ, or there is no up and the last axis of gate is odd or missing.

    Source:
        Shazeer, "GLU Variants Improve Transformer" (2020), equation 5.
    """
    gate, up = floating("gate", gate), None if up is None else floating("up", up)
    check_halves(gate, up)
    return _swiglu(gate, up)

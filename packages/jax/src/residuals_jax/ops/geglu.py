"""Gated linear unit with a Gaussian error gate: y = gate·Φ(gate)·up, Φ the normal distribution function, by erfc."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from residuals_jax._lib.checks import floating
from residuals_jax._lib.cotangents import match
from residuals_jax._lib.dtypes import to_dtype, wide


class Residuals(NamedTuple):
    gate: Array  # (...)  input: rebuilds Φ
    up: Array  # (...)  input: scales the gate's cotangent


RECOMPUTES = {"erfc": "a polynomial an element, where an array of it would be as large as gate"}


def _cdf(x: Array) -> Array:
    """Φ(x)."""
    return 0.5 * jax.lax.erfc(x * -math.sqrt(0.5))  # 1 + erf cancels where x is far to the left


def fwd(gate: Array, up: Array) -> tuple[Array, Residuals]:
    gelu = wide(gate) * _cdf(wide(gate))
    return to_dtype(gelu * wide(up), jnp.result_type(gate, up)), Residuals(gate, up)


def bwd(residuals: Residuals, g: Array) -> tuple[Array, Array]:
    gate, up, g = wide(residuals.gate), wide(residuals.up), wide(g)
    phi = _cdf(gate)
    slope = jnp.exp(-0.5 * gate * gate) * math.sqrt(0.5 / math.pi)  # Φ′
    dgate = g * up * (phi + gate * slope)
    return match(dgate, residuals.gate), match(g * (gate * phi), residuals.up)


@jax.custom_vjp
def _geglu(gate: Array, up: Array) -> Array:
    return fwd(gate, up)[0]


_geglu.defvjp(fwd, bwd)


def geglu(gate: ArrayLike, up: ArrayLike) -> Array:
    """y = gate·Φ(gate)·up with Φ(x) = erfc(−x/√2)/2, dgate = g·up·(Φ + gate·Φ′) and dup = g·gate·Φ.

    This is the exact form; `jax.nn.gelu` has the tanh approximation unless told otherwise.

    Args:
        gate: (...) floating, any shape.
        up: (...) floating, of gate's shape: nothing is broadcast.

    Returns:
        (...), of the dtype to which both promote; computed in float32 if that is narrower.

    Saves:
        gate: (...), an input, no new bytes. The backward computes Φ(gate) again.
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
    return _geglu(gate, up)

"""Gated linear unit with a Gaussian error gate: y = gate·Φ(gate)·up; Φ is exact, or a tanh approximates it."""

from functools import partial
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
from residuals_jax._lib.gelu import cdf, form, slope


class Residuals(NamedTuple):
    gate: Array  # (...)  input: rebuilds Φ; (..., 2d) where one array holds both
    up: Array | None  # (...)  input: scales the gate's cotangent; None if gate holds it


# One of the two, which depends on the form.
RECOMPUTES = {
    "erfc": "in the exact form: a polynomial an element, where an array of it would be as large as gate",
    "tanh": "in the tanh form: one exponential an element, where an array of it would be as large as gate",
}


def fwd(gate: Array, up: Array | None, approximate: str) -> tuple[Array, Residuals]:
    residuals = Residuals(gate, up)
    gate, up = halves(gate, up)
    a = wide(gate)
    gelu = a * cdf(a, approximate)
    return to_dtype(gelu * wide(up), jnp.result_type(gate, up)), residuals


def bwd(approximate: str, residuals: Residuals, g: Array) -> tuple[Array, Array | None]:
    g = wide(g)
    kept = barrier(residuals)
    gate, up = map(wide, halves(*kept))
    phi = cdf(gate, approximate)
    dgate = g * up * (phi + gate * slope(gate, phi, approximate))
    gate, _ = halves(*barrier(kept))  # once more: a Φ that both read would be kept as an array
    gate = wide(gate)
    dup = g * (gate * cdf(gate, approximate))
    if residuals.up is None:
        return match(jnp.concatenate([dgate, dup], axis=-1), residuals.gate), None
    return match(dgate, residuals.gate), match(dup, residuals.up)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _geglu(gate: Array, up: Array | None, approximate: str) -> Array:
    return fwd(gate, up, approximate)[0]


_geglu.defvjp(fwd, bwd)


def geglu(gate: ArrayLike, up: ArrayLike | None = None, *, approximate: str = "none") -> Array:
    """y = gate·Φ(gate)·up, with Φ the normal distribution function, dgate = g·up·(Φ + gate·Φ′) and dup = g·gate·Φ.

    The default is the exact form, as in `torch.nn.functional.gelu`; that of `jax.nn.gelu` is the tanh form.

    Args:
        gate: (...) floating, any shape; or (..., 2d) without up: its first half is the gate, its second is up.
        up: (...) floating, of gate's shape: nothing is broadcast.
        approximate: "none", or "tanh" for Φ(x) ≈ ½·(1 + tanh(√(2/π)·(x + 0.044715·x³))); forward and backward
            are of the same form.

    Returns:
        (...), or (..., d) without up, of the dtype to which both promote; computed in float32 if that is narrower.

    Saves:
        gate: (...), an input, no new bytes. The backward computes Φ(gate) again.
        up: (...), an input, no new bytes. Halves of one array stay one array.

    Raises:
        TypeError: gate or up is not floating.
        ValueError: their shapes differ, or there is no up and the last axis of gate is odd or missing, or
            approximate is neither "none" nor "tanh".

    Source:
        Shazeer, "GLU Variants Improve Transformer" (2020), equation 5.
    """
    gate, up = floating("gate", gate), None if up is None else floating("up", up)
    check_halves(gate, up)
    return _geglu(gate, up, form("approximate", approximate))

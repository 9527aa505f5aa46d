"""Dropout that saves its mask: y = x·mask/(1 - rate), and dx = g·mask/(1 - rate)."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
from jax import Array
from jax.typing import ArrayLike

from residuals_jax._lib.bits import pack_bits, unpack_bits
from residuals_jax._lib.checks import Number, apart, floating, joined, nonnegative
from residuals_jax._lib.dropout import axes, drawing_key, drawn_shape, drop, keep_mask
from residuals_jax._lib.dtypes import wider


class Residuals(NamedTuple):
    mask: Array | None  # (..., ⌈n/8⌉)  new, packed bits: the draw is not repeated; None at the rates 0 and 1


RECOMPUTES: dict[str, str] = {}


def fwd(x: Array, key: Array | None, rate: Number, broadcast: tuple[int, ...]) -> tuple[Array, Residuals]:
    mask = keep_mask(key, drawn_shape(x.shape, broadcast), rate)
    return drop(x, mask, rate), Residuals(None if mask is None else pack_bits(mask))


def bwd(rate: Number, broadcast: tuple[int, ...], residuals: Residuals, g: Array) -> tuple[Array, None]:
    (mask,) = residuals
    return drop(g, None if mask is None else unpack_bits(mask, drawn_shape(g.shape, broadcast)), rate), None


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _dropout(x: Array, key: Array | None, traced: Array | None, rate: float, broadcast: tuple[int, ...]) -> Array:
    return fwd(x, key, joined(traced, rate), broadcast)[0]


def _saving_rate(
    x: Array, key: Array | None, traced: Array | None, rate: float, broadcast: tuple[int, ...]
) -> tuple[Array, tuple[Residuals, Array | None]]:
    y, residuals = fwd(x, key, joined(traced, rate), broadcast)
    return y, (residuals, traced)


_dropout.defvjp(
    _saving_rate,
    lambda rate, broadcast, saved, g: (*bwd(joined(saved[1], rate), broadcast, saved[0], g), None),
)


def dropout(x: ArrayLike, rate: ArrayLike, key: ArrayLike | None, *, broadcast: Sequence[int] = ()) -> Array:
    """y = x·mask/(1 - rate): each element is zero with probability `rate`, else divided by 1 - rate.

    The probability is a multiple of 2⁻²³, so that rates nearer to 1 than 1e-6 are rounded.

    Under `shard_map` each device draws a mask for its own part, and devices with the same key draw the same: fold
    `jax.lax.axis_index` into the key. Under jit with shardings it is the mask of the whole.

    Args:
        x: (...) floating.
        rate: from 0, which keeps all, to 1, which keeps nothing; a number. One that is traced is saved, 4 bytes
            (8 in float64), and is a constant to the derivative; its mask is drawn at the rates 0 and 1 too.
        key: two uint32, or a `jax.random.key`: the mask is a function of it and x's shape, and for the default kind,
            threefry2x32, the same bit for bit in NumPy, JAX and PyTorch and on every device. It may be None at the
            rates 0 and 1, where nothing is drawn.
        broadcast: axes of x along which all elements share one draw: (2, 3) drops whole channels, as `dropout2d` does.

    Returns:
        (...), of x's dtype. What is dropped is 0, even where x is infinite or NaN.

    Saves:
        mask: (..., ⌈n/8⌉), new, uint8: one bit an element, packed along the last axis of x, which has n; the first
            element of eight is the lowest bit. Nothing at the rates 0 and 1.

    Raises:
        TypeError: x is not floating, key is neither two uint32 nor a `jax.random.key`, rate is not a
            number, or broadcast is no tuple of ints.
        ValueError: rate is not from 0 to 1, or broadcast names an axis that x has not.

    Source:
        Srivastava et al., "Dropout" (2014); Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011). The
        numbers are those of `jax.random.uniform`, with `jax_threefry_partitionable`, the default.
    """
    x = floating("x", x)
    rate = nonnegative("rate", rate, most=1, dtype=wider(x))
    key = drawing_key("key", key, rate)
    return _dropout(x, key, *apart(rate), axes("broadcast", broadcast, x.ndim))

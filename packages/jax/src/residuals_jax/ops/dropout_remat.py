"""Dropout that saves its key: y = x·mask/(1 - rate), and the backward draws the same mask again."""

from functools import partial
from typing import NamedTuple

import jax
from jax import Array
from jax.typing import ArrayLike

from residuals_jax._lib.checks import floating, nonnegative
from residuals_jax._lib.dropout import drop, keep_mask, two_words


class Residuals(NamedTuple):
    key: Array | None  # (2,)  input: the mask is a function of it; None at the rates 0 and 1


RECOMPUTES: dict[str, str] = {
    "random": "Threefry draws the same mask from the key again; the key has 64 bits, the mask one for each element",
}


def fwd(x: Array, key: Array, rate: float) -> tuple[Array, Residuals]:
    return drop(x, keep_mask(key, x.shape, rate), rate), Residuals(key if 0 < rate < 1 else None)


def bwd(rate: float, residuals: Residuals, g: Array) -> tuple[Array, None]:
    return drop(g, keep_mask(residuals.key, g.shape, rate), rate), None


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dropout_remat(x: Array, key: Array, rate: float) -> Array:
    return fwd(x, key, rate)[0]


_dropout_remat.defvjp(fwd, bwd)


def dropout_remat(x: ArrayLike, rate: float, key: ArrayLike) -> Array:
    """y = x·mask/(1 - rate): each element is zero with probability `rate`, else divided by 1 - rate.

    The probability is a multiple of 2⁻²³, so that rates nearer to 1 than 1e-6 are rounded.

    Under `shard_map` each device draws a mask for its own part, and devices with the same key draw the same: fold
    `jax.lax.axis_index` into the key. Under jit with shardings it is the mask of the whole.

    Args:
        x: (...) floating.
        rate: from 0, which keeps all, to 1, which keeps nothing; a Python number, not a tracer.
        key: two uint32, or a `jax.random.key` of the default kind: the mask is a function of it and x's shape, the
            same bit for bit in NumPy, JAX and PyTorch and on every device.

    Returns:
        (...), of x's dtype. What is dropped is 0, even where x is infinite or NaN.

    Saves:
        key: (2,), an input, uint32, 8 bytes: the backward draws the mask from it again. Nothing at the rates 0 and 1.

    Raises:
        TypeError: x is not floating, key is neither two uint32 nor a threefry2x32 key, or rate is not a number.
        ValueError: rate is not from 0 to 1.

    Source:
        Srivastava et al., "Dropout" (2014); Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011). The
        numbers are those of `jax.random.uniform`, with `jax_threefry_partitionable`, the default.
    """
    x, rate, key = floating("x", x), nonnegative("rate", rate, most=1), two_words("key", key)
    return _dropout_remat(x, key, rate)

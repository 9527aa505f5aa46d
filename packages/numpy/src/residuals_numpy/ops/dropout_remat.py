"""Dropout that saves its key: y = x·mask/(1 - rate), and the backward draws the same mask again."""

from typing import Any

import numpy as np

from residuals_numpy._lib.arrays import Array, Key, Samples
from residuals_numpy._lib.dropout import drawn_shape, drop, keep_mask


def forward(x: Array, key: Key, *, rate: float, broadcast: tuple[int, ...] = ()) -> Array:
    """y = x·mask/(1 - rate) for `x` (...) and a `key` of two uint32."""
    return drop(x, keep_mask(key, drawn_shape(x.shape, broadcast), rate), rate)


def vjp(x: Array, key: Key, g: Array, *, rate: float, broadcast: tuple[int, ...] = ()) -> tuple[Array]:
    """`dx` for the cotangent `g` of y."""
    return (drop(g, keep_mask(key, drawn_shape(x.shape, broadcast), rate), rate),)


def residuals(x: Array, key: Key, *, rate: float, broadcast: tuple[int, ...] = ()) -> dict[str, Key | None]:
    """The value each residual must have: none at the rates 0 and 1, which draw nothing."""
    return {"key": key if 0 < rate < 1 else None}


def samples(rng: np.random.Generator) -> Samples:
    """Named calls: ordinary shapes first, then the awkward ones."""

    def call(*shape: int, rate: float, scale: float = 1.0, **others: Any) -> dict[str, Any]:
        key = rng.integers(2**32, size=2, dtype=np.uint32)
        return {"x": scale * rng.standard_normal(shape), "key": key, "rate": rate, **others}

    return {
        "3x16": call(3, 16, rate=0.5),
        "2x3x5-rate-0.1": call(2, 3, 5, rate=0.1),
        "17-rate-0.9": call(17, rate=0.9),
        "0d": call(rate=0.25),
        "0x5": call(0, 5, rate=0.5),
        "3x0": call(3, 0, rate=0.5),
        "3x5-rate-0": call(3, 5, rate=0.0),
        "3x5-rate-1": call(3, 5, rate=1.0),
        "2x3x4-broadcast-0-2": call(2, 3, 4, rate=0.5, broadcast=(0, 2)),
        "3x9-broadcast-minus-2": call(3, 9, rate=0.5, broadcast=(-2,)),
        "huge": call(2, 9, rate=0.5, scale=1e4),
    }

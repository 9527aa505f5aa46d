"""The mini-example: y = x·scale with broadcasting; dx = g·scale and dscale = g·x, each summed to its primal's shape."""

import numpy as np

from residuals_numpy._lib.arrays import Array, Samples
from residuals_numpy._lib.cotangents import sum_to


def forward(x: Array, scale: Array) -> Array:
    """y = x·scale, in the shape to which both broadcast."""
    return x * scale


def vjp(x: Array, scale: Array, g: Array) -> tuple[Array, Array]:
    """`dx, dscale` for the cotangent `g` of y, from the inputs alone."""
    return sum_to(g * scale, x.shape), sum_to(g * x, scale.shape)


def residuals(x: Array, scale: Array) -> dict[str, Array]:
    """The value each residual must have."""
    return {"x": x, "scale": scale}


def samples(rng: np.random.Generator) -> Samples:
    """Named calls: ordinary shapes first, then the awkward ones."""

    def call(x: tuple[int, ...], scale: tuple[int, ...]) -> dict[str, Array]:
        return {"x": rng.standard_normal(x), "scale": rng.standard_normal(scale)}

    return {
        "3x5*5": call((3, 5), (5,)),
        "5*0d": call((5,), ()),
        "4096x3*3": call((4096, 3), (3,)),
        "2x3x4*3x1": call((2, 3, 4), (3, 1)),
        "3x1*1x4": call((3, 1), (1, 4)),
        "5*2x5": call((5,), (2, 5)),
        "0d*0d": call((), ()),
        "0x5*5": call((0, 5), (5,)),
        "huge": {"x": 1e4 * rng.standard_normal((2, 3)), "scale": rng.standard_normal(3)},
    }

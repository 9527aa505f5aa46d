"""The two arrays of a gated linear unit."""

import numpy as np

from residuals_numpy._lib.arrays import Array


def halves(gate: Array, up: Array | None) -> tuple[Array, Array]:
    """`gate` and `up`; without `up`, the halves of `gate` along its last axis."""
    if up is not None:
        return gate, up
    first, second = np.split(gate, 2, axis=-1)
    return first, second


def packed(dgate: Array, dup: Array, up: Array | None) -> tuple[Array, Array | None]:
    """The gradients of `gate` and `up`; without `up`, of the one array that holds both."""
    return (dgate, dup) if up is not None else (np.concatenate([dgate, dup], axis=-1), None)

"""What the compiler may not take back: a value that the backward computes again on purpose."""

from typing import TypeVar

import jax

Saved = TypeVar("Saved")


def barrier(residuals: Saved) -> Saved:
    """The residuals, as arrays of which the compiler does not know that they are those of the forward.

    Where forward and backward are one program, XLA sees that the backward computes what the forward has computed, and
    keeps that instead: an array, or several, for each call. `jax.checkpoint` sets such barriers for the same reason.
    """
    return jax.tree.map(jax.lax.optimization_barrier, residuals)  # one by one: arrays behind one are sharded alike

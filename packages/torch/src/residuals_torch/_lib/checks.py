"""Checks of arguments: each returns its argument, or raises one line that names it."""

import math
from numbers import Integral, Real
from typing import Any

from torch import Tensor


def floating(name: str, a: Tensor) -> Tensor:
    """`a` itself; TypeError unless it is a real floating tensor of 16 bits or more (float8 has no arithmetic)."""
    if not isinstance(a, Tensor) or not a.dtype.is_floating_point or a.dtype.itemsize < 2:
        raise TypeError(f"{name}: expected a floating tensor, got {_described(a)}")
    return a


def _described(a: Any) -> str:
    return f"{str(a.dtype).removeprefix('torch.')}{list(a.shape)}" if isinstance(a, Tensor) else type(a).__name__


def nonnegative(name: str, value: float, most: float = math.inf) -> float:
    """`value` as a float; TypeError unless it is a number, ValueError unless in [0, most]."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a Python number, got {type(value).__name__}")
    expected = ">= 0" if most == math.inf else f"from 0 to {most}"
    if not 0 <= value <= most:
        raise ValueError(f"{name}: expected a number {expected}, got {value}")
    return float(value)


def whole(name: str, value: int, least: int) -> int:
    """`value` as an int; TypeError unless it is one, ValueError unless from `least` on, in 32 bits."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}")
    if not least <= value < 2**31 - 1:
        raise ValueError(f"{name}: expected an int from {least} to {2**31 - 2}, got {value}")
    return int(value)

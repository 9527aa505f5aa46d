"""Checks of arguments: each returns its argument, or raises one line with its name, what was expected and what came."""

import math
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from torch.jit._trace import is_tracing

from residuals_torch._lib.dtypes import wide
from residuals_torch._lib.modes import is_ordinary

Number = float | Tensor  # a tensor of no axes: what a number is in a program


def floating(name: str, a: Tensor) -> Tensor:
    """`a` itself; TypeError unless it is a real floating tensor of 16 bits or more (float8 has no arithmetic), and not
    a nested one, which many operations of the backwards do not take.
    """
    if not isinstance(a, Tensor) or not a.dtype.is_floating_point or a.dtype.itemsize < 2:
        raise TypeError(f"{name}: expected a floating tensor, got {described(a)}")
    if a.is_nested:
        raise TypeError(f"{name}: expected a tensor of one shape, got a nested tensor; give its values, or pad it")
    return a


def floating_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """`dtype` itself; TypeError unless it is a real floating one of 16 bits or more."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point or dtype.itemsize < 2:
        raise TypeError(f"{name}: expected a floating dtype, got {str(dtype).removeprefix('torch.')}")
    return dtype


def is_proxy(*given: Any) -> bool:
    """Whether one of these stands for a tensor, as the arguments of a program that `torch.fx` records do.

    `handle_torch_function` then records the op as one call, as it does for those of `torch.nn.functional`.
    """
    return any(isinstance(a, torch.fx.Proxy) for a in given)


def described(a: Any) -> str:
    """What came, for a message: a tensor's dtype and shape, and of anything else the type."""
    return f"{str(a.dtype).removeprefix('torch.')}{list(a.shape)}" if isinstance(a, Tensor) else type(a).__name__


def number(name: str, value: Number, most: float = math.inf) -> Number:
    """`value` as `nonnegative` has it, but for a floating tensor of no axes, which is a constant to the derivative.

    Where a program is recorded, or vmap adds an axis, such a tensor stays one, and nobody can check it.
    """
    if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
        return nonnegative(name, value, most)
    return nonnegative(name, value.item(), most) if is_ordinary(value) and not is_tracing() else wide(value.detach())


def read(name: str, value: Number, most: float = math.inf) -> float:
    """`value` as `nonnegative` has it; a floating tensor of no axes is read, and TypeError where it cannot be."""
    if isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point():
        if not is_ordinary(value) or is_tracing():
            where = "where tensors cannot be read, as in compiled code"
            raise TypeError(f"{name}: expected a Python number {where}, got {described(value)}")
        value = value.item()
    return nonnegative(name, value, most)


def nonnegative(name: str, value: Number, most: float = math.inf) -> float:
    """`value` as a float; TypeError unless it is a Python number, ValueError unless in [0, most]."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a Python number, got {described(value)}")
    expected = ">= 0" if most == math.inf else f"from 0 to {most}"
    if not 0 <= value <= most:
        raise ValueError(f"{name}: expected a number {expected}, got {value}")
    return float(value)


def static(number: Number) -> float:
    """The number, for a backward that does not read it; 0 for a tensor, which nobody would see on ctx."""
    return 0.0 if isinstance(number, Tensor) else number


def boolean(name: str, value: bool) -> bool:
    """`value` as a bool; TypeError unless it is one, or NumPy's."""
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return value


def integer(name: str, value: int, least: int | None = None) -> int:
    """`value` as an int; TypeError unless it is one, ValueError unless from `least`, if given, to 2³¹ − 2."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}")
    if least is not None and not least <= value < 2**31 - 1:  # as in JAX, where 2³¹ − 1 is a label that is too large
        raise ValueError(f"{name}: expected an int from {least} to {2**31 - 2}, got {value}")
    return int(value)


def axis_of(name: str, a: Tensor, axis: int) -> int:
    """`axis` as an int; TypeError unless it is one, ValueError unless `a` has it."""
    axis = integer("axis", axis)
    if not -a.ndim <= axis < a.ndim:
        raise ValueError(f"axis: expected one of the {a.ndim} axes of {name}, got {axis}")
    return axis

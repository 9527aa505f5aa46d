"""Checks of arguments: each returns its argument, or raises one line with its name, what was expected and what came."""

import math
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

Number = float | Array  # an array of no axes: what a number is under a trace


def floating(name: str, a: ArrayLike) -> Array:
    """`a` as an array; TypeError unless it is a real floating one of 16 bits or more (float8 has no arithmetic)."""
    if isinstance(a, type) or not (isinstance(a, float) or hasattr(a, "__array__")):
        raise TypeError(f"{name}: expected a floating array, got {described(a)}")
    a = a if isinstance(a, Array) else jnp.asarray(a)  # `asarray` copies a tracer, and the copy would be saved
    if not jnp.issubdtype(a.dtype, jnp.floating) or a.dtype.itemsize < 2:
        raise TypeError(f"{name}: expected a floating array, got {described(a)}")
    # A Python number that is differentiated would reach the rule as a Python number, which has no shape; its copy is
    # an array, and its type as weak.
    return jnp.copy(a) if jax.typeof(a).weak_type and a.ndim == 0 else a


def floating_dtype(name: str, dtype: DTypeLike) -> DTypeLike:
    """`dtype` itself; TypeError unless it is a real floating one of 16 bits or more."""
    if not jnp.issubdtype(dtype, jnp.floating) or jnp.dtype(dtype).itemsize < 2:
        raise TypeError(f"{name}: expected a floating dtype, got {jnp.dtype(dtype).name}")
    return dtype


def described(a: Any) -> str:
    """What came, for a message: an array's dtype and shape, and of anything else the type."""
    is_array = hasattr(a, "dtype") and not isinstance(a, type)
    return f"{a.dtype}{list(a.shape)}" if is_array else type(a).__name__


def plain(value: Any) -> Any:
    """A NumPy number, or array of no axes, as a Python number, which a rule takes as static; anything else itself."""
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0 else value


def nonnegative(name: str, value: ArrayLike, most: float = math.inf, *, dtype: DTypeLike = jnp.float32) -> Number:
    """`value` as a float; TypeError unless it is a number, ValueError unless in [0, most].

    A traced one stays an array, of this dtype, in which the op computes. Nobody can check it, and it is a constant to
    the derivative.
    """
    value = plain(value)
    if isinstance(value, Array) and value.ndim == 0 and jnp.issubdtype(value.dtype, jnp.floating):
        if isinstance(value, jax.core.Tracer):
            return jax.lax.stop_gradient(value).astype(dtype)
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a Python number, got {described(value)}")
    expected = ">= 0" if most == math.inf else f"from 0 to {most}"
    if not 0 <= value <= most:
        raise ValueError(f"{name}: expected a number {expected}, got {value}")
    return float(value)


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
    if least is not None and not least <= value < 2**31 - 1:  # 2³¹ − 1 stands for labels that are too large
        raise ValueError(f"{name}: expected an int from {least} to {2**31 - 2}, got {value}")
    return int(value)


def untraced(name: str, value: float, most: float = math.inf) -> float:
    """`nonnegative`, for a number that is part of the program; TypeError for a traced one."""
    number = nonnegative(name, value, most)
    if isinstance(number, Array):
        raise TypeError(f"{name}: expected a Python number, got a tracer")
    return number


def axis_of(name: str, a: Array, axis: int) -> int:
    """`axis` as an int; TypeError unless it is one, ValueError unless `a` has it."""
    axis = integer("axis", axis)
    if not -a.ndim <= axis < a.ndim:
        raise ValueError(f"axis: expected one of the {a.ndim} axes of {name}, got {axis}")
    return axis


def apart(number: Number) -> tuple[Array | None, float]:
    """A traced number and 0, or None and the Python number: a rule has the one as an array, the other as static."""
    return (number, 0.0) if isinstance(number, Array) else (None, number)


def joined(traced: Array | None, number: float) -> Number:
    """What `apart` took apart."""
    return number if traced is None else traced

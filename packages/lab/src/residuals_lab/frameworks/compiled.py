"""What is kept once a compiler has had its say, which is not what the rules ask for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Subject(NamedTuple):
    """What was audited: a function at its arguments, and the same as a function of arrays alone."""

    fn: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    flat: Callable[..., Any]
    arrays: Sequence[Any]
    frozen: Sequence[int]  # which of the arrays are not differentiated
    around: Mapping[str, Any]  # the variables around the function


class Kept(NamedTuple):
    """An array that crosses from a compiled forward to a compiled backward."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    is_new: bool  # no input, parameter or output


class Compiled(NamedTuple):
    """What the compiler keeps: arrays, where forward and backward are two programs; else the scratch of the one."""

    what: str
    new_bytes: int
    arrays: tuple[Kept, ...] = ()

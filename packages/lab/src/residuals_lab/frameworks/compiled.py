"""The arrays that are saved after compilation, where the compiler decides and not the rules."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from residuals_lab.trace import Input


class Subject(NamedTuple):
    """The subject of an audit: a function at its arguments, and the same as a function of arrays alone."""

    fn: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    flat: Callable[..., Any]
    inputs: Sequence[Input]  # these arrays
    around: Mapping[str, Any]  # the variables around the function


class Kept(NamedTuple):
    """An array that crosses from a compiled forward to a compiled backward."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int  # its own
    storage_bytes: int
    is_new: bool  # it is no input, parameter or output


class Compiled(NamedTuple):
    """The memory of a compiled program: arrays between forward and backward, or the scratch of one program."""

    what: str  # which of the two this is, in words
    new_bytes: int
    arrays: tuple[Kept, ...] = ()

"""What is kept once a compiler has had its say, which is not what the rules ask for."""

from typing import NamedTuple


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

"""A function as a program that can be timed."""

from collections.abc import Callable
from typing import NamedTuple


class Program(NamedTuple):
    """A function at its arguments. What it computes is there, and not only asked for, when one of the two returns."""

    forward: Callable[[], None]
    both: Callable[[], None]  # the forward, and the backward of random cotangents
    peak_bytes: Callable[[], int]  # the most that `both` holds at one time beside the arguments and the cotangents
    flops: Callable[[], int]  # those of the matrix products in `both`
    moved_bytes: int  # of the arguments, of what is computed, of the cotangents and of the gradients, each once

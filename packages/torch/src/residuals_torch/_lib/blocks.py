"""A function of whole tensors, computed a block at a time."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from residuals_torch._lib.modes import is_ordinary, may_write


def in_blocks(fn: Callable[..., Any], *given: Tensor | None, axis: int | None = None) -> Any:
    """`fn(*given)`, for a function of each element alone; or, with `axis`, of each row along that axis.

    In plain eager code `fn` gets one block of the tensors after the other. Its temporaries, which are float32 where the
    tensors are narrower, are then as small as a block: they hardly add to the peak, and stay in the cache. Where a
    derivative or a program is recorded, or a mode sees each operation, `fn` gets the whole tensors.

    The tensors have one shape, but for the length of `axis`, and so has what `fn` returns: a tensor, or a tuple of
    tensors and None. All but the first may be broadcast; one of fewer axes, such as a weight, goes whole to each block.
    The results lie in memory as the first tensor does.
    """
    first = given[0]
    assert first is not None
    if not is_plain(*given) or first.numel() <= block_size(first):
        return fn(*given)
    wholes: list[Tensor | None] = []
    for index in _indices(first, axis):
        found = fn(*(_part(a, first, index) for a in given))
        parts = found if isinstance(found, tuple) else (found,)
        wholes = wholes or [None if part is None else _whole(first, part, axis) for part in parts]
        for whole, part in zip(wholes, parts, strict=True):
            if whole is not None:
                whole[index].copy_(part)
    return tuple(wholes) if isinstance(found, tuple) else wholes[0]


def block_size(a: Tensor) -> int:
    """The elements of a block: on a CPU a 64th of the tensor, but within what suits the cache of each thread."""
    threads = torch.get_num_threads()
    return min(max(a.numel() // 64, 2**15 * threads), 2**17 * threads) if a.is_cpu else 2**23


def is_plain(*given: Tensor | None) -> bool:
    """Whether these are ordinary tensors, and nothing records or watches what is computed from them."""
    return may_write(*given) and not is_in_torch_dispatch_mode() and all(a is None or is_ordinary(a) for a in given)


def _indices(a: Tensor, axis: int | None) -> Iterator[tuple[slice, ...]]:
    """The index of each block in turn: the axis with the largest stride is divided first, and `axis` never."""
    lengths = list(a.shape)
    for i in sorted(range(a.ndim), key=a.stride, reverse=True):
        if axis is None or i != axis % a.ndim:
            room = max(1, block_size(a) * lengths[i] // math.prod(lengths))
            lengths[i] = math.ceil(lengths[i] / math.ceil(lengths[i] / room))  # blocks of almost one size
    return itertools.product(
        *([slice(i, i + step) for i in range(0, n, step)] for n, step in zip(a.shape, lengths, strict=True))
    )


def _part(a: Tensor | None, first: Tensor, index: tuple[slice, ...]) -> Tensor | None:
    """The block of `a` that goes with this block of the first tensor."""
    if a is None or a.ndim < first.ndim:
        return a
    return a[tuple(slice(None) if n == 1 else i for n, i in zip(a.shape, index, strict=True))]


def _whole(first: Tensor, part: Tensor, axis: int | None) -> Tensor:
    """Memory for a whole result, of which `part` is the first block."""
    shape = list(first.shape)
    if axis is not None:
        shape[axis] = part.shape[axis]
    if shape == list(first.shape):
        return torch.empty_like(first, dtype=part.dtype)
    return first.new_empty(shape, dtype=part.dtype)

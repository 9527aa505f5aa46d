"""What the norms share: the axes that they normalize, and an array that goes through in blocks."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from residuals_torch._lib.blocks import block_size, is_plain
from residuals_torch._lib.checks import integer
from residuals_torch._lib.cotangents import Like


def checked_axes(x: Tensor, axis: int, **parameters: Tensor | None) -> tuple[int, ...]:
    """The axes that are normalized; TypeError unless axis is an int, ValueError unless x has it and the weight fits."""
    axis = integer("axis", axis)
    if x.ndim == 0:
        raise ValueError("x: expected at least 1 axis, got a scalar")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis: expected one of the {x.ndim} axes of x, got {axis}")
    count = max([1, *(a.ndim for a in parameters.values() if a is not None)])
    if count > 1 and axis != -1:
        raise ValueError(f"axis: expected -1 beside a weight or bias of {count} axes, got {axis}")
    axes = normalized_axes(x.ndim, axis, *parameters.values()) if count <= x.ndim else tuple(range(x.ndim))
    shape = [x.shape[i] for i in axes]
    where = f"the last {count} axes of x" if count > 1 else "the last axis of x" if axis == -1 else f"axis {axis} of x"
    for name, a in parameters.items():
        if a is not None and list(a.shape) != shape:
            raise ValueError(f"{name}: expected shape {shape}, as {where}, got {list(a.shape)}")
    return axes


def normalized_axes(ndim: int, axis: int | tuple[int, ...], *parameters: Tensor | Like | None) -> tuple[int, ...]:
    """Which axes of x are normalized: the last ones if the weight or the bias has several, else `axis` alone."""
    if isinstance(axis, tuple):  # they are known already
        return axis
    count = max([1, *(len(a.shape) for a in parameters if a is not None)])
    return tuple(range(ndim - count, ndim)) if count > 1 else (from_front(axis, ndim),)


def from_front(axis: int, ndim: int) -> int:
    """The axis as a number from 0; found by comparing, which makes it a constant for a compiler of dynamic sizes."""
    (found,) = [i for i in range(ndim) if i == axis or i == axis + ndim]
    return found


def lifted(a: Tensor, axes: tuple[int, ...], ndim: int) -> Tensor:
    """`a`, whose axes are these of x, with axes of size 1 for the others."""
    for i in range(ndim):
        if i not in axes:
            a = a.unsqueeze(i)
    return a


def sum_to(a: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The sum over all axes but these."""
    others = tuple(i for i in range(a.ndim) if i not in axes)
    return torch.sum(a, dim=others) if others else a  # `dim=()` would mean all axes


def numbers_of(statistic: Tensor, x: Tensor) -> int:
    """How many numbers of x each number of a statistic is of, which has length 1 along the axes that are normalized."""
    return math.prod([n for n, kept in zip(x.shape, statistic.shape, strict=True) if kept == 1])


def pieces_beside(axes: tuple[int, ...], x: Tensor) -> dict[int, int]:
    """How x may be cut for `by_pieces` where these axes are normalized: along all others."""
    return {i: n for i, n in enumerate(x.shape) if i not in axes}


class Cut(NamedTuple):
    """The pieces that a block has of an axis of x, which is cut into `pieces`."""

    axis: int
    pieces: int
    first: int
    number: int


def by_pieces(fn: Callable[..., Any], cuts: dict[int, int], divided: Sequence[Any], shared: Sequence[Any] = ()) -> Any:
    """`fn(plain, *divided, *shared)`; in plain eager code one block of pieces after the other.

    What `fn` makes on the way, in float32 where x is narrower, is then as small as a block, and stays in a cache.
    `plain` tells `fn` that it may write over what it has made. Where a derivative or a program is recorded, or a mode
    sees each operation, it may not, and gets the whole tensors.

    x is the first of `divided`, and `cuts` says, for each of its axes that is cut, into how many pieces. The others,
    which may be None, have x's rank, or the axes that are cut alone, in their order; one of length 1 is not cut. `fn`
    returns two tuples of tensors and None: what it makes of each piece, which is put together along the axes that are
    cut, and sums over the pieces, which are added up.
    """
    x, *_ = divided
    plain = is_plain(*(a for a in (*divided, *shared) if isinstance(a, Tensor)))
    if not plain or x.numel() <= block_size(x):
        return fn(plain, *divided, *shared)
    wholes: list[Tensor | None] = []
    totals: list[Tensor | None] = []
    for block in _blocks(x, cuts):
        parts, sums = fn(plain, *(a if a is None else _cut(a, x, block) for a in divided), *shared)
        if not wholes:
            wholes = [None if a is None else _whole(a, x, block) for a in parts]
            totals = [None if a is None else torch.zeros_like(a) for a in sums]
        for whole, a in zip(wholes, parts, strict=True):
            if whole is not None:
                _cut(whole, x, block).copy_(a)
        for total, a in zip(totals, sums, strict=True):
            if total is not None:
                total.add_(a)
    return tuple(wholes), tuple(totals)


def times(a: Tensor, b: Tensor, in_place: bool) -> Tensor:
    """a·b, written over `a` if `in_place`."""
    return a.mul_(b) if in_place else a * b


def plus(a: Tensor, b: Tensor, in_place: bool) -> Tensor:
    """a + b, written over `a` if `in_place`."""
    return a.add_(b) if in_place else a + b


def minus(a: Tensor, b: Tensor, in_place: bool) -> Tensor:
    """a − b, written over `a` if `in_place`."""
    return a.sub_(b) if in_place else a - b


def _blocks(x: Tensor, cuts: dict[int, int]) -> Iterator[tuple[Cut, ...]]:
    """Each block in turn: of the last axes that are cut as many pieces as have room, and of those before one."""
    room = max(1, block_size(x) * math.prod(cuts.values()) // x.numel())
    ranges: list[list[Cut]] = []
    for axis, pieces in reversed(cuts.items()):
        count = min(pieces, room)
        room //= count
        starts = range(0, pieces, count)
        ranges.insert(0, [Cut(axis, pieces, first, min(count, pieces - first)) for first in starts])
        room = max(1, room)
    return itertools.product(*ranges)


def _cut(a: Tensor, x: Tensor, block: tuple[Cut, ...]) -> Tensor:
    """The part of `a` that belongs to this block of x."""
    for i, (axis, pieces, first, count) in enumerate(block):
        at = axis if a.ndim == x.ndim else i
        each = a.shape[at] // pieces  # 0 for a tensor that all pieces share
        if each and count < pieces:
            a = a.narrow(at, first * each, count * each)
    return a


def _whole(part: Tensor, x: Tensor, block: tuple[Cut, ...]) -> Tensor:
    """Memory for all of what `part` is of one block: laid out as x if it has the shape of x."""
    shape = list(part.shape)
    for i, (axis, pieces, _, count) in enumerate(block):
        at = axis if part.ndim == x.ndim else i
        shape[at] = shape[at] // count * pieces
    return torch.empty_like(x, dtype=part.dtype) if shape == list(x.shape) else part.new_empty(shape)

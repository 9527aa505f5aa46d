"""Cotangents: what the gradient of an input has to look like, and how a cotangent is made to."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from residuals_torch._lib.dtypes import to_dtype


class Like(NamedTuple):  # describes a tensor that is not saved
    shape: torch.Size
    dtype: torch.dtype


# What the gradient of each input has to look like; None for an input that is absent, or needs no gradient. A `bwd` that
# is called by hand, without `like`, makes every gradient.
Likes = tuple[Like | None, ...]


def likes(*inputs: Tensor | Like | None) -> Likes:
    """What the gradient of each input has to look like: goes on ctx, so that a rule knows it without saving it."""
    return tuple(None if a is None else Like(a.shape, a.dtype) for a in inputs)


def wanted(ctx: Any) -> Likes:
    """`ctx.like`, with None for an input that is frozen, or whose gradient nobody asks for in this backward."""
    return tuple(like if need else None for like, need in zip(ctx.like, ctx.needs_input_grad, strict=False))


def match(cotangent: Tensor, primal: Tensor | Like) -> Tensor:
    """The cotangent as its primal, a tensor or its `Like`, needs it: of the same shape and dtype.

    The cotangent is summed over an axis along which the primal was broadcast. The engine would do both without a word,
    and so hide it.
    """
    return to_dtype(cotangent.sum_to_size(primal.shape), primal.dtype)


def as_primal(cotangent: Tensor | None, primal: Tensor | Like | None) -> Tensor | None:
    """The same where there is a cotangent, and None where there is none."""
    return None if cotangent is None or primal is None else match(cotangent, primal)


def add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum of two cotangents, where None is zero."""
    return b if a is None else a if b is None else a + b

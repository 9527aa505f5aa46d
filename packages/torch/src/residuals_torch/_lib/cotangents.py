"""Cotangents: what each has to look like, and how it gets so."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from residuals_torch._lib.dtypes import to_dtype


class Like(NamedTuple):
    """What a gradient has to look like: metadata that outlives a primal nobody saves."""

    shape: torch.Size
    dtype: torch.dtype


# One for each input: None where there is none, or nobody asks for its gradient. A `bwd` that is given none of this, as
# when it is called by hand, makes every gradient.
Wanted = tuple[Like | None, ...]


def match(cotangent: Tensor, primal: Tensor | Like) -> Tensor:
    """The cotangent as its primal needs it: of the same shape and dtype.

    An axis along which the primal was broadcast is summed. The engine would do both without a word, and so hide it.
    """
    return to_dtype(cotangent.sum_to_size(primal.shape), primal.dtype)


def add(a: Tensor | None, b: Tensor) -> Tensor:
    """The sum of two cotangents, where None is zero."""
    return b if a is None else a + b


def likes(*inputs: Tensor | None) -> Wanted:
    """What the gradient of each input has to look like; to be kept on ctx in place of the inputs."""
    return tuple(None if a is None else Like(a.shape, a.dtype) for a in inputs)


def wanted(ctx: Any) -> Wanted:
    """`ctx.like` with None where no gradient is needed: for an input that is frozen, or that nobody asks about now."""
    return tuple(like if need else None for like, need in zip(ctx.like, ctx.needs_input_grad, strict=False))

"""Cross entropy of a linear layer: the loss of logits = x·weightᵀ at class labels, a chunk of classes at a time."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from residuals_torch._lib.checks import floating, integer
from residuals_torch._lib.cotangents import Likes, likes, match, wanted
from residuals_torch._lib.dtypes import to_dtype, wide
from residuals_torch._lib.labels import (
    at_class,
    class_labels,
    is_compared,
    loss_dtype,
    maximum_and_sum,
    of_chunks,
    signed,
    where_counted,
    where_read,
)
from residuals_torch._lib.modes import autocasted, batched_alike, is_ordinary, without_autocast


class Residuals(NamedTuple):
    x: Tensor  # (..., d)  input: rebuilds the logits, and scales the cotangent
    weight: Tensor  # (v, d)  input: rebuilds the logits, and scales the cotangent
    labels: Tensor  # (...)  input: the class from whose softmax 1 is subtracted
    maximum: Tensor  # (...)  new, float32 or wider: saved so that the backward looks for no maximum again
    log_sum: Tensor  # (...)  new, float32 or wider: log Σ exp(logits − maximum), saved so that the backward sums no exp
    # again; not added to the maximum, since their sum is rounded to the digits that a large maximum leaves
    counted: Tensor | None  # ()  new, float32 or wider, at least 1: saved so that the backward counts no labels again;
    # for the mean, else None


RECOMPUTES: dict[str, str] = {
    "matmul": "a chunk of logits is the product of two inputs; this op is there so that all of them, v numbers a row, "
    "are never held",
}


def _counted_rows(x: Tensor, index: Tensor, ignore_index: int) -> Tensor:
    """x, and 0 in rows whose label is ignored: such a row may hold anything, and 0 · NaN is NaN."""
    return torch.where((index != ignore_index).unsqueeze(-1), wide(x), 0)


def _chunks(weight: Tensor, chunk: int) -> Iterator[tuple[int, Tensor]]:
    """The first class of each chunk, and the chunk's rows of the weight; of a single chunk the weight itself."""
    for start in range(0, max(len(weight), 1), chunk):
        yield start, weight if len(weight) <= chunk else weight[start : start + chunk]


def _in_chunk(index: Tensor, start: int, size: int) -> tuple[Tensor, Tensor]:
    """The label's place in a chunk of classes, clamped to the chunk, and whether the label is in it."""
    at = index - start
    return at.clamp(0, size - 1), (at >= 0) & (at < size)


def _as_rows(a: Tensor) -> Tensor:
    """`a` as (n, d): one axis for all but the last."""
    return a if a.ndim == 2 else a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


def _picked(logits: Tensor, index: Tensor, start: int, part: Tensor) -> Tensor:
    """(n, 1): the label's logit, and 0 where the label is in another chunk."""
    if is_compared(logits):
        return torch.sum(torch.where(at_class(index.squeeze(-1) - start, logits), logits, 0), dim=-1, keepdim=True)
    at, is_in = _in_chunk(index, start, len(part))
    return torch.where(is_in, torch.gather(logits, -1, at), 0)


def _wide_fwd(
    x: Tensor, weight: Tensor, labels: Tensor, ignore_index: int, reduction: str, chunk: int
) -> tuple[Tensor, Residuals]:
    """The loss in float32 or wider."""
    rows = _as_rows(_counted_rows(x, signed(labels), ignore_index))
    index, each = _as_rows(signed(labels).unsqueeze(-1)), []
    picked = torch.zeros_like(index, dtype=rows.dtype)
    for start, part in _chunks(weight, chunk):
        logits = rows @ wide(part).mT
        each.append(maximum_and_sum(logits))
        if len(part):
            picked = picked + _picked(logits, index, start, part)
    maximum, total = of_chunks(each)
    maximum, total, picked = (
        a if a.shape == labels.shape else a.reshape(labels.shape) for a in (maximum, total, picked)
    )
    log_sum = torch.log(total)
    loss, counted = where_counted((maximum - picked) + log_sum, signed(labels), len(weight), ignore_index), None
    if reduction != "none":
        loss = torch.sum(loss)
    if reduction == "mean":
        number = torch.sum(signed(labels) != ignore_index)
        counted = to_dtype(number.clamp(min=1), rows.dtype)
        loss = torch.where(number > 0, loss / counted, torch.nan)
    return loss, Residuals(x, weight, labels, maximum, log_sum, counted)


def fwd(
    x: Tensor, weight: Tensor, labels: Tensor, ignore_index: int, reduction: str, chunk: int
) -> tuple[Tensor, Residuals]:
    loss, residuals = _wide_fwd(x, weight, labels, ignore_index, reduction, chunk)
    return to_dtype(loss, x.dtype), residuals


def bwd(
    ignore_index: int,
    reduction: str,
    chunk: int,
    residuals: Residuals,
    g: Tensor | None,
    like: Likes | None = None,
    *,
    g_log_sum: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """`g_log_sum` is the cotangent of that residual. Only a second derivative has one, and there g may be None."""
    x, weight, labels, maximum, log_sum, counted = residuals
    like_x, like_weight = like or likes(x, weight)
    index, classes = signed(labels), len(weight)
    per_row = torch.zeros_like(log_sum) if g is None else wide(g) if counted is None else wide(g) / counted
    per_row = where_counted(per_row, index, classes, ignore_index)
    scale = per_row if g_log_sum is None else per_row + g_log_sum  # ∂log_sum/∂logits is the softmax too
    maximum, log_sum = where_read(maximum, log_sum, index, ignore_index)
    rows = _counted_rows(x, index, ignore_index)
    rows, index, per_row, scale, maximum, log_sum = (
        _as_rows(a) for a in (rows, *(a.unsqueeze(-1) for a in (index, per_row, scale, maximum, log_sum)))
    )
    # Where no second derivative is recorded, a chunk is overwritten, and a chunk of dweight written to its place.
    in_place = not torch.is_grad_enabled() and all(map(is_ordinary, (x, weight, labels, log_sum, scale)))
    place = torch.empty_like(weight) if in_place and like_weight is not None else None
    dx, parts = None, []
    for start, part in _chunks(weight, chunk):
        if torch.compiler.is_compiling():  # addmm: of the forward's own product the compiler would save the result
            dlogits = torch.exp(torch.addmm(-maximum, rows, wide(part).mT) - log_sum) * scale
        elif in_place:
            dlogits = (rows @ wide(part).mT).sub_(maximum).sub_(log_sum).exp_().mul_(scale)
        else:
            dlogits = torch.exp((rows @ wide(part).mT - maximum) - log_sum) * scale
        if is_compared(dlogits):
            dlogits = dlogits - torch.where(at_class(index.squeeze(-1) - start, dlogits), per_row, 0)
        elif len(part):
            at, is_in = _in_chunk(index, start, len(part))
            dlogits.scatter_add_(-1, at, torch.where(is_in, -per_row, 0))  # dlogits is new memory
        if like_x is not None:  # addmm, since a compiler would hold the products of all chunks for one sum
            dx = dlogits @ wide(part) if dx is None else torch.addmm(dx, dlogits, wide(part))
        if like_weight is not None:
            dpart = match(dlogits.mT @ rows, part)
            if place is None:
                parts.append(dpart)
            else:
                place[start : start + len(part)] = dpart
    dweight = place if place is not None else torch.cat(parts) if parts else None
    return None if dx is None or like_x is None else match(dx.reshape(like_x.shape), like_x), dweight


class LinearCrossEntropy(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, labels: Tensor, ignore_index: int, reduction: str, chunk: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        with without_autocast(x):
            loss, residuals = _wide_fwd(x, weight, labels, ignore_index, reduction, chunk)
        return batched_alike(loss, residuals.maximum, residuals.log_sum, residuals.counted)

    @staticmethod
    def setup_context(
        ctx: Any,
        inputs: tuple[Tensor, Tensor, Tensor, int, str, int],
        output: tuple[Tensor, Tensor, Tensor, Tensor | None],
    ) -> None:
        x, weight, labels, ctx.ignore_index, ctx.reduction, ctx.chunk = inputs
        _, maximum, log_sum, counted = output
        ctx.save_for_backward(*Residuals(x, weight, labels, maximum, log_sum, counted))
        ctx.like = likes(x, weight)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, g: Tensor | None, _maximum: Tensor | None, g_log_sum: Tensor | None, _counted: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        if g is None and g_log_sum is None:
            return None, None, None, None, None, None
        residuals = Residuals(*ctx.saved_tensors)
        # Second order only: log_sum is an output. No gradient flows through maximum and counted, other outputs.
        with without_autocast(residuals.x):
            static = ctx.ignore_index, ctx.reduction, ctx.chunk
            return *bwd(*static, residuals, g, wanted(ctx), g_log_sum=g_log_sum), None, None, None, None


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    chunk: int = 2048,
) -> Tensor:
    """loss = log Σ exp logits − logits[label] of each row of logits = x·weightᵀ, which is never held as a whole.

    Forward and backward make the logits `chunk` classes at a time, and hold two numbers a row and chunk. A second
    derivative by autodiff holds all chunks, and so does a first one by `torch.func.grad`, which always prepares for a
    second; `torch.func.vjp`, called outside of it, does not.

    Args:
        x: (..., d) floating.
        weight: (v, d) floating, one row a class, as `torch.nn.Linear` has it.
        labels: (...) of any integer dtype: classes from 0 to v - 1, or `ignore_index`.
        ignore_index: rows of this label have loss 0 and gradient 0, whatever is in them, and do not count in the mean;
            a Python int.
        reduction: "mean" over the rows that count, "sum", or "none", which gives one loss a row; a Python string.
        chunk: how many classes' logits to make at a time, at least 1; a Python int.

    Returns:
        () or, for "none", (...), of the dtype of x; computed in float32 if that is narrower. Under `torch.autocast` x
        and weight are first cast to its dtype, and the loss is float32. The mean of no rows is NaN and its gradient 0,
        as in `torch.nn.functional.cross_entropy`. In compiled code, under vmap, and in a DTensor, where the values of
        labels are not there to be checked, a row whose label is no class has loss NaN and gradient NaN.

    Saves:
        x: (..., d), an input, no new bytes; under `torch.autocast` x in its dtype.
        weight: (v, d), an input, no new bytes; under `torch.autocast` weight in its dtype.
        labels: (...), an input, no new bytes.
        maximum: (...), new, 4 bytes a row (8 in float64): the largest logit; without it the backward would look for it
            again.
        log_sum: (...), new, 4 bytes a row (8 in float64): log Σ exp(logits − maximum); without it the backward would
            reduce again. The two are one log-sum-exp, but that is rounded where it is saved, and its rounding is a
            relative error of the softmax: in float32 2e-7 where it is about 4, and 5e-4 where it is about 1e4, as for
            logits with a common offset.
        counted: (), new, 4 bytes (8 in float64): how many labels count, at least 1; without it the backward would count
            them again. Only for "mean".

    Raises:
        TypeError: x or weight is not floating, or one of them alone is in float64, labels is not of integers, or
            ignore_index or chunk is not an int.
        ValueError: x has no axis, weight is not (v, d), labels has another shape than the rows, ignore_index has more
            than 32 bits, chunk is not positive, or reduction is none of the three. Also, where the values of labels can
            be read, one is neither a class nor ignore_index; to see that, the host reads them, which waits for a GPU
            that makes them.

    Source:
        Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models" (2024), section 3.
    """
    x, weight = floating("x", x), floating("weight", weight)
    if x.ndim == 0:
        raise ValueError("x: expected at least 1 axis, got a scalar")
    if weight.ndim != 2 or weight.shape[1] != x.shape[-1]:
        raise ValueError(
            f"weight: expected shape [v, {x.shape[-1]}], with the last axis of x, got {list(weight.shape)}"
        )
    if torch.float64 in (x.dtype, weight.dtype) and x.dtype != weight.dtype:
        raise TypeError(f"weight: expected {x.dtype}, the dtype of x, got {weight.dtype}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {reduction!r}")
    ignore_index, chunk = integer("ignore_index", ignore_index, least=-(2**31)), integer("chunk", chunk, least=1)
    labels = class_labels("labels", labels, x.shape[:-1], weight.shape[0], ignore_index)
    dtype = loss_dtype(x)
    x, weight = autocasted(x, weight)
    loss, *_ = LinearCrossEntropy.apply(x, weight, labels, ignore_index, reduction, chunk)
    return to_dtype(loss, dtype)

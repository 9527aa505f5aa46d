"""Class labels, and what the two cross entropies make of a row of logits."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from residuals_torch._lib.checks import described, floating
from residuals_torch._lib.dtypes import to_dtype, wide
from residuals_torch._lib.modes import is_autocast, is_distributed, is_ordinary

INTEGERS = {getattr(torch, kind + bits) for kind in ("int", "uint") for bits in ("8", "16", "32", "64")}


def class_labels(name: str, labels: Tensor, shape: torch.Size, axis: int, ignore_index: int) -> Tensor:
    """`labels` itself; TypeError unless integers, ValueError unless one for each row of logits of this shape, with the
    classes on this axis, and each a class or ignored.

    The values are checked only where a program can read them: not in compiled code, under vmap, nor in a DTensor.
    """
    if not isinstance(labels, Tensor) or labels.dtype not in INTEGERS:
        raise TypeError(f"{name}: expected an integer tensor, got {described(labels)}")
    expected, classes = _without(shape, axis), shape[axis]
    if labels.shape != expected:
        fits_axis_1 = len(shape) > 2 and labels.shape == _without(shape, 1)
        hint = "; pass axis=1 if that is the axis of the classes" if fits_axis_1 else ""
        raise ValueError(f"{name}: expected shape {list(expected)}, one label a row, got {list(labels.shape)}{hint}")
    if is_ordinary(labels):
        values = signed(labels)
        wrong = labels[((values < 0) | (values >= classes)) & (values != ignore_index)]
        if wrong.numel():
            expected_classes = f"classes from 0 to {classes - 1}, or {ignore_index} to ignore"
            raise ValueError(f"{name}: expected {expected_classes}, got {wrong[0]}")
    return labels


def soft_labels(name: str, labels: Tensor, shape: torch.Size, ignore_index: int) -> Tensor:
    """`labels` itself, probabilities of the classes; ValueError unless of this shape, and no row is to be ignored."""
    if floating(name, labels).shape != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, as logits, if floating, got {list(labels.shape)}")
    if ignore_index != -100:
        raise ValueError(f"ignore_index: expected none where labels are probabilities, got {ignore_index}")
    return labels


def _without(shape: torch.Size, axis: int) -> tuple[int, ...]:
    """The sizes of the other axes."""
    axis %= len(shape)
    return (*shape[:axis], *shape[axis + 1 :])


def class_weights(name: str, weight: Tensor | None, classes: int) -> Tensor | None:
    """`weight` itself; TypeError unless floating and constant, ValueError unless one number a class."""
    if weight is None:
        return None
    if floating(name, weight).shape != (classes,):
        raise ValueError(f"{name}: expected shape [{classes}], one weight a class, got {list(weight.shape)}")
    if weight.requires_grad:
        raise TypeError(f"{name}: expected a constant, got a tensor that requires a gradient; pass {name}.detach()")
    return weight


def check_reduction(reduction: str) -> None:
    """ValueError unless it is one of the three."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {reduction!r}")


def loss_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the loss of x: float32 at least under autocast, where the sum of a batch would overflow float16."""
    return torch.promote_types(x.dtype, torch.float32) if is_autocast(x.device.type) else x.dtype


def signed(labels: Tensor) -> Tensor:
    """Labels in int64; one too large for it becomes its largest, no class."""
    index = labels.long()
    return torch.where(index < 0, 2**63 - 1, index) if labels.dtype == torch.uint64 else index


def is_compared(a: Tensor) -> bool:
    """Whether the label's number in a row of `a` is found by comparing each class with the label, not by its index.

    In compiled code a gather or scatter is not fused with what is around it, and is deferred to the end, for which the
    rows of all chunks are held; a DTensor has neither along an axis that is sharded.
    """
    return torch.compiler.is_compiling() or is_distributed(a)


def at_class(index: Tensor, a: Tensor) -> Tensor:
    """(..., classes), as `a` is: True at each row's label, nowhere in a row whose label is none of these classes."""
    classes = a.new_ones(a.shape[-1], dtype=torch.int64).cumsum(0) - 1  # an arange would not be a DTensor
    return classes == index.unsqueeze(-1)


class Statistics(NamedTuple):
    """Of rows of logits, or of a chunk of their classes."""

    maximum: Tensor  # (...), −∞ where the axis is empty, or −∞ throughout, as a chunk of a row may be
    total: Tensor  # (...): Σ exp(logits − maximum); its logarithm and the maximum add to log Σ exp logits
    gap: Tensor | None  # (...): Σ class_weight·(maximum − logits), if labels are smoothed


def statistics(a: Tensor, class_weight: Tensor | None, is_smooth: bool) -> Statistics:
    """Those of the last axis, in float32 or wider."""
    # Any shift gives the same log Σ exp a, so the maximum is a constant to the derivative.
    maximum = wide(a.detach().amax(-1) if a.shape[-1] else a.detach().sum(-1) - torch.inf)
    shifted = a - _finite(maximum).unsqueeze(-1)  # wide, though `a` may be narrow
    gap = -torch.sum(shifted if class_weight is None else shifted * class_weight, dim=-1) if is_smooth else None
    return Statistics(maximum, torch.sum(torch.exp(shifted) if is_distributed(a) else shifted.exp_(), dim=-1), gap)


def of_blocks(each: list[Statistics], shape: torch.Size) -> Statistics:
    """The statistics of all rows, in this shape, from those of blocks of rows."""
    gaps = [one.gap for one in each if one.gap is not None]
    maximum, total = (torch.cat(list(a)).reshape(shape) for a in zip(*(one[:2] for one in each), strict=True))
    return Statistics(maximum, total, torch.cat(gaps).reshape(shape) if gaps else None)


def of_chunks(each: list[Statistics], weights: list[Tensor | int]) -> Statistics:
    """The statistics of whole rows, from those of their chunks, and the sum of the class weights of each chunk."""
    if len(each) == 1:
        return each[0]
    maxima, sums = torch.stack([one.maximum for one in each]), torch.stack([one.total for one in each])
    maximum = maxima.amax(0)
    total = torch.sum(sums * torch.exp(maxima - _finite(maximum)), dim=0)
    gap = None
    for one, weight in zip(each, weights, strict=True):
        if one.gap is not None:
            part = one.gap + weight * (_finite(maximum) - _finite(one.maximum))
            gap = part if gap is None else gap + part
    return Statistics(maximum, total, gap)


def _finite(maximum: Tensor) -> Tensor:
    """What may be subtracted from a row: −∞ − (−∞) is NaN, and a row or a chunk of −∞ has a sum of 0."""
    return torch.where(maximum == -torch.inf, 0, maximum)


def where_read(maximum: Tensor, log_sum: Tensor, index: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """What the backward subtracts from logits: ∞ in a row that is ignored, whose softmax is then 0, not NaN.

    The maximum has no derivative here either.
    """
    is_ignored = index == ignore_index
    return torch.where(is_ignored, 0, maximum.detach()), torch.where(is_ignored, torch.inf, log_sum)


def where_counted(a: Tensor, index: Tensor, classes: int, ignore_index: int) -> Tensor:
    """`a`, one number a row, where the row's `signed` label counts: 0 where it is ignored, NaN where it is no class."""
    is_class = (index >= 0) & (index < classes)
    return torch.where(index != ignore_index, torch.where(is_class, a, torch.nan), 0)


def weight_of(index: Tensor, class_weight: Tensor | None) -> Tensor | None:
    """(...): the weight of each row's class; None, for 1, where classes have none."""
    if class_weight is None:
        return None
    if not len(class_weight):
        return torch.ones_like(index, dtype=class_weight.dtype)
    at = index.clamp(0, len(class_weight) - 1)
    return torch.gather(class_weight, 0, at.reshape(-1)).reshape(index.shape)


def row_losses(
    rows: Statistics,
    log_sum: Tensor,
    picked: Tensor,
    weight: Tensor | None,
    mean_weight: Tensor | None,
    classes: int,
    label_smoothing: float,
    z_loss: float,
) -> Tensor:
    """(...): the loss of each row from its label's logit, `picked`, and the `weight` of its label's class."""
    loss = (rows.maximum - picked) + log_sum
    loss = loss if weight is None else loss * weight
    if rows.gap is not None:
        others = rows.gap / max(classes, 1) + (log_sum if mean_weight is None else log_sum * mean_weight)
        loss = (1 - label_smoothing) * loss + label_smoothing * others
    return loss + z_loss * (rows.maximum + log_sum) ** 2 if z_loss else loss


def reduced(
    loss: Tensor, index: Tensor, weight: Tensor | None, ignore_index: int, reduction: str
) -> tuple[Tensor, Tensor | None]:
    """The losses of rows reduced, and for the mean what it divides by: how many rows count, or their weights."""
    if reduction == "none":
        return loss, None
    loss, is_counted = torch.sum(loss), index != ignore_index
    if reduction == "sum":
        return loss, None
    number = torch.sum(is_counted if weight is None else torch.where(is_counted, weight, 0))
    number = to_dtype(number, loss.dtype)
    counted = torch.where(number == 0, 1, number)
    return torch.where(number == 0, torch.nan, loss / counted), counted


class Scales(NamedTuple):
    """dlogits of a row = softmax·`softmax` − `label` at the label − `each`·class_weight, each of them (...)."""

    softmax: Tensor
    label: Tensor
    each: Tensor | None


def scales(
    per_row: Tensor,
    lse: Tensor,
    weight: Tensor | None,
    mean_weight: Tensor | None,
    classes: int,
    label_smoothing: float,
    z_loss: float,
) -> Scales:
    """Those of the cotangents of the row losses, `per_row`; `lse` is log Σ exp logits, 0 in rows that are ignored."""
    label = per_row if weight is None else per_row * weight
    softmax, each = label, None
    if label_smoothing:
        label = (1 - label_smoothing) * label
        each = per_row * (label_smoothing / max(classes, 1))
        softmax = label + label_smoothing * (per_row if mean_weight is None else per_row * mean_weight)
    return Scales(softmax + per_row * (2 * z_loss * lse) if z_loss else softmax, label, each)


def _in_chunk(index: Tensor, start: int, size: int) -> tuple[Tensor, Tensor]:
    """The label's place in a chunk of classes, clamped to the chunk, and whether the label is in it."""
    at = index - start
    return at.clamp(0, size - 1), (at >= 0) & (at < size)


def picked_logits(logits: Tensor, index: Tensor, start: int) -> Tensor:
    """(...): the logit of each row's label in a chunk of classes, and 0 where the label is in another chunk."""
    if not logits.shape[-1]:
        return torch.sum(logits, dim=-1)
    if is_compared(logits):
        return torch.sum(torch.where(at_class(index - start, logits), logits, 0), dim=-1)
    at, is_in = _in_chunk(index, start, logits.shape[-1])
    # Not by a gather: that is the name under which `RECOMPUTES` has the lookup of a class weight.
    flat, classes = as_rows(logits).reshape(-1), logits.shape[-1]
    firsts = torch.arange(0, flat.shape[0], classes, device=flat.device)
    return torch.where(is_in, flat.index_select(0, firsts + at.reshape(-1)).reshape(at.shape), 0)


def logits_gradient(
    shifted: Tensor,
    log_sum: Tensor,
    by: Scales,
    index: Tensor,
    start: int,
    class_weight: Tensor | None,
    in_place: bool,
) -> Tensor:
    """(..., classes): the gradient of a chunk of logits from those minus the maximum, in their memory if `in_place`.

    The numbers of a row, `log_sum` and `by`, are (..., 1).
    """
    dlogits = shifted.sub_(log_sum).exp_().mul_(by.softmax) if in_place else torch.exp(shifted - log_sum) * by.softmax
    if by.each is not None:
        each = by.each if class_weight is None else by.each * to_dtype(class_weight, dlogits.dtype)
        dlogits = dlogits.sub_(each) if in_place else dlogits - each
    if is_compared(dlogits):
        return dlogits - torch.where(at_class(index - start, dlogits), by.label, 0)
    if dlogits.shape[-1]:
        at, is_in = _in_chunk(index, start, dlogits.shape[-1])
        dlogits.scatter_add_(-1, at.unsqueeze(-1), torch.where(is_in.unsqueeze(-1), -by.label, 0))  # new memory
    return dlogits


def as_rows(a: Tensor) -> Tensor:
    """`a` as (n, d): one axis for all but the last."""
    return a if a.ndim == 2 else a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


def reshaped(numbers: Any, shape: Sequence[int]) -> Any:
    """`Statistics` or `Scales`, each number in this shape."""
    return type(numbers)(*(None if a is None else a.reshape(shape) for a in numbers))


def soft_targets(labels: Tensor, class_weight: Tensor | None, label_smoothing: float) -> Tensor:
    """(..., classes): by what the loss weighs −log softmax, from rows of probabilities; wide."""
    target = wide(labels)
    if label_smoothing:
        target = (1 - label_smoothing) * target + label_smoothing / max(labels.shape[-1], 1)
    return target if class_weight is None else target * class_weight

"""Cross entropy of class labels: loss = log Σ exp logits − logits[label], and its mean, sum, or one a row."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from residuals_torch._lib.checks import floating, integer
from residuals_torch._lib.cotangents import match
from residuals_torch._lib.dtypes import to_dtype, wide
from residuals_torch._lib.labels import (
    at_class,
    class_labels,
    is_compared,
    loss_dtype,
    maximum_and_sum,
    signed,
    where_counted,
    where_read,
)
from residuals_torch._lib.modes import batched_alike


class Residuals(NamedTuple):
    logits: Tensor  # (..., c)  input: rebuilds the softmax, exp(logits − maximum − log_sum)
    labels: Tensor  # (...)  input: the class from whose softmax 1 is subtracted
    maximum: Tensor  # (...)  new, float32 or wider: saved so that the backward looks for no maximum again
    log_sum: Tensor  # (...)  new, float32 or wider: log Σ exp(logits − maximum), saved so that the backward sums no exp
    # again; not added to the maximum, since their sum is rounded to the digits that a large maximum leaves
    counted: Tensor | None  # ()  new, float32 or wider, at least 1: saved so that the backward counts no labels again;
    # for the mean, else None


# The exp of the backward repeats nothing: it is of logits − maximum − log_sum, the softmax; that of the forward is of
# logits − maximum.
RECOMPUTES: dict[str, str] = {}


def _wide_fwd(logits: Tensor, labels: Tensor, ignore_index: int, reduction: str) -> tuple[Tensor, Residuals]:
    """The loss in float32 or wider."""
    scores, index, classes = wide(logits), signed(labels), logits.shape[-1]
    maximum, total = maximum_and_sum(scores)
    log_sum = torch.log(total)
    if not classes:
        picked = maximum
    elif is_compared(scores):
        picked = torch.sum(torch.where(at_class(index, scores), scores, 0), dim=-1)
    else:
        picked = torch.gather(scores, -1, index.clamp(0, classes - 1).unsqueeze(-1)).squeeze(-1)
    loss, counted = where_counted((maximum - picked) + log_sum, index, classes, ignore_index), None
    if reduction != "none":
        loss = torch.sum(loss)
    if reduction == "mean":
        number = torch.sum(index != ignore_index)
        counted = to_dtype(number.clamp(min=1), scores.dtype)
        loss = torch.where(number > 0, loss / counted, torch.nan)
    return loss, Residuals(logits, labels, maximum, log_sum, counted)


def fwd(logits: Tensor, labels: Tensor, ignore_index: int, reduction: str) -> tuple[Tensor, Residuals]:
    loss, residuals = _wide_fwd(logits, labels, ignore_index, reduction)
    return to_dtype(loss, logits.dtype), residuals


def bwd(
    ignore_index: int, reduction: str, residuals: Residuals, g: Tensor | None, *, g_log_sum: Tensor | None = None
) -> tuple[Tensor]:
    """`g_log_sum` is the cotangent of that residual. Only a second derivative has one, and there g may be None."""
    logits, labels, maximum, log_sum, counted = residuals
    index, classes = signed(labels), logits.shape[-1]
    per_row = torch.zeros_like(log_sum) if g is None else wide(g) if counted is None else wide(g) / counted
    per_row = where_counted(per_row, index, classes, ignore_index)
    scale = per_row if g_log_sum is None else per_row + g_log_sum  # ∂log_sum/∂logits is the softmax too
    maximum, log_sum = where_read(maximum, log_sum, index, ignore_index)
    dlogits = torch.exp((wide(logits) - maximum.unsqueeze(-1)) - log_sum.unsqueeze(-1)) * scale.unsqueeze(-1)
    if is_compared(dlogits):
        dlogits = dlogits - torch.where(at_class(index, dlogits), per_row.unsqueeze(-1), 0)
    elif classes:
        at = index.clamp(0, classes - 1).unsqueeze(-1)
        dlogits.scatter_add_(-1, at, -per_row.unsqueeze(-1))  # dlogits is new memory, which nothing else reads
    return (match(dlogits, logits),)


class CrossEntropy(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        logits: Tensor, labels: Tensor, ignore_index: int, reduction: str
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        loss, residuals = _wide_fwd(logits, labels, ignore_index, reduction)
        return batched_alike(loss, residuals.maximum, residuals.log_sum, residuals.counted)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor, int, str], output: tuple[Tensor, Tensor, Tensor, Tensor | None]
    ) -> None:
        logits, labels, ctx.ignore_index, ctx.reduction = inputs
        _, maximum, log_sum, counted = output
        ctx.save_for_backward(*Residuals(logits, labels, maximum, log_sum, counted))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, g: Tensor | None, _maximum: Tensor | None, g_log_sum: Tensor | None, _counted: Tensor | None
    ) -> tuple[Tensor | None, None, None, None]:
        if g is None and g_log_sum is None:
            return None, None, None, None
        residuals = Residuals(*ctx.saved_tensors)
        # Second order only: log_sum is an output. No gradient flows through maximum and counted, other outputs.
        return *bwd(ctx.ignore_index, ctx.reduction, residuals, g, g_log_sum=g_log_sum), None, None, None


def cross_entropy(logits: Tensor, labels: Tensor, *, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """loss = log Σ exp logits − logits[label] of each row; dlogits = softmax − 1 at the label, softmax elsewhere.

    Args:
        logits: (..., c) floating, one number a class on the last axis.
        labels: (...) of any integer dtype: classes from 0 to c - 1, or `ignore_index`.
        ignore_index: rows of this label have loss 0 and gradient 0, and do not count in the mean; a Python int. A
            gradient is NaN at logits of such a row that are NaN or ∞, as in `torch.nn.functional.cross_entropy`.
        reduction: "mean" over the rows that count, "sum", or "none", which gives one loss a row; a Python string.

    Returns:
        () or, for "none", (...), of the dtype of logits, and under `torch.autocast` float32 if that is narrower, in
        which it is computed. The mean of no rows is NaN and its gradient 0, as in `torch.nn.functional.cross_entropy`.
        In compiled code, under vmap, and in a DTensor, where the values of labels are not there to be checked, a row
        whose label is no class has loss NaN and gradient NaN.

    Saves:
        logits: (..., c), an input, no new bytes.
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
        TypeError: logits is not floating, labels is not of integers, or ignore_index is not an int.
        ValueError: logits has no axis, labels has another shape than the rows, ignore_index has more than 32 bits, or
            reduction is none of the three. Also, where the values of labels can be read, one is neither a class nor
            ignore_index; to see that, the host reads them, which waits for a GPU that makes them.

    Source:
        Bridle, "Probabilistic Interpretation of Feedforward Classification Network Outputs" (1990), section 3.
    """
    logits = floating("logits", logits)
    if logits.ndim == 0:
        raise ValueError("logits: expected at least 1 axis, got a scalar")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {reduction!r}")
    ignore_index = integer("ignore_index", ignore_index, least=-(2**31))
    labels = class_labels("labels", labels, logits.shape[:-1], logits.shape[-1], ignore_index)
    loss, *_ = CrossEntropy.apply(logits, labels, ignore_index, reduction)
    return to_dtype(loss, loss_dtype(logits))

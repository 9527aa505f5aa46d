"""Cross entropy of class labels: loss = log Σ exp logits − logits[label], and its mean, sum, or one a row."""

from collections.abc import Iterator
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.checks import axis_of, floating, integer, is_proxy, nonnegative
from residuals_torch._lib.cotangents import Likes, likes, match, wanted
from residuals_torch._lib.dtypes import to_dtype, wide, wider
from residuals_torch._lib.labels import (
    Scales,
    as_rows,
    check_reduction,
    class_labels,
    class_weights,
    logits_gradient,
    loss_dtype,
    of_blocks,
    picked_logits,
    reduced,
    reshaped,
    row_losses,
    scales,
    signed,
    soft_labels,
    soft_targets,
    statistics,
    weight_of,
    where_counted,
    where_read,
)
from residuals_torch._lib.modes import batched_alike, is_ordinary, may_write

# Logits at a time: their copies in float32 are the only arrays as large. Those of a CPU stay in its cache.
CPU_BLOCK, BLOCK = 2**18, 2**26


class Residuals(NamedTuple):
    logits: Tensor  # (..., c)  input: rebuilds the softmax, exp(logits − maximum − log_sum)
    weight: Tensor | None  # (c,)  input: the weights of the classes, by which each row's gradient is scaled
    labels: Tensor | None  # (...)  input: the class from whose softmax 1 is subtracted; (..., c) if probabilities, all
    # of which are subtracted; None if those alone have a gradient
    maximum: Tensor  # (...)  new, float32 or wider: saved so that the backward looks for no maximum again
    log_sum: Tensor  # (...)  new, float32 or wider: log Σ exp(logits − maximum), saved so that the backward sums no exp
    # again; not added to the maximum, since their sum is rounded to the digits that a large maximum leaves
    counted: Tensor | None  # ()  new, float32 or wider: what the mean divides by, saved so that the backward counts no
    # labels again; None for another reduction, and for probabilities
    mean_weight: Tensor | None  # ()  new, float32 or wider: saved so that the backward sums no weights again;
    # None unless labels are smoothed and classes have weights
    mass: Tensor | None  # (...)  new, float32 or wider: the sum of a row's weighted probabilities, saved so that the
    # backward sums them no more; None for classes, and where labels are None


# The exp of the backward repeats nothing: it is of logits − maximum − log_sum, the softmax; that of the forward is of
# logits − maximum.
RECOMPUTES: dict[str, str] = {
    "gather": "the weight of a label's class is looked up again, where it would be one more number a row to save",
}


def _rows(logits: Tensor, axis: int) -> Tensor:
    """The logits with the classes on the last axis."""
    return logits if axis in (-1, logits.ndim - 1) else logits.movedim(axis, -1)


def _back(rows: Tensor, axis: int) -> Tensor:
    """The classes on their axis again."""
    return rows if axis in (-1, rows.ndim - 1) else rows.movedim(-1, axis)


def _blocks(scores: Tensor, *others: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """All of these, each (..., n), a block of rows at a time."""
    size = max((CPU_BLOCK if scores.device.type == "cpu" else BLOCK) // max(scores.shape[-1], 1), 1)
    return zip(*(repeat(None) if a is None else as_rows(a).split(size) for a in (scores, *others)), strict=False)


def _wide_fwd(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    axis: int,
) -> tuple[Tensor, Residuals]:
    """The loss in float32 or wider."""
    if labels.is_floating_point():
        return _soft_fwd(logits, labels, weight, reduction, label_smoothing, z_loss, axis)
    scores, index, classes = _rows(logits, axis), signed(labels), logits.shape[axis]
    wide_weight = None if weight is None else to_dtype(weight, wider(logits))
    if may_write(logits, weight, labels) and is_ordinary(logits):
        each = [statistics(part, wide_weight, label_smoothing > 0) for (part,) in _blocks(scores)]
        rows = of_blocks(each, index.shape)
    else:
        rows = statistics(scores, wide_weight, label_smoothing > 0)
    log_sum, picked = torch.log(rows.total), picked_logits(scores, index, 0)
    mean_weight = torch.mean(wide_weight) if wide_weight is not None and label_smoothing else None
    of_label = weight_of(index, wide_weight)
    loss = row_losses(rows, log_sum, picked, of_label, mean_weight, classes, label_smoothing, z_loss)
    loss = where_counted(loss, index, classes, ignore_index)
    loss, counted = reduced(loss, index, of_label, ignore_index, reduction)
    return loss, Residuals(logits, weight, labels, rows.maximum, log_sum, counted, mean_weight, None)


def _soft_fwd(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    axis: int,
) -> tuple[Tensor, Residuals]:
    """The same of labels that are probabilities."""
    target = soft_targets(_rows(labels, axis), None if weight is None else wide(weight), label_smoothing)
    scores, mass = _rows(logits, axis), torch.sum(target, dim=-1)
    rows = statistics(scores, None, False)
    log_sum = torch.log(rows.total)
    loss = torch.sum(target * (rows.maximum.unsqueeze(-1) - scores), dim=-1) + mass * log_sum
    loss = loss + z_loss * (rows.maximum + log_sum) ** 2 if z_loss else loss
    if reduction != "none":
        loss = torch.sum(loss)
    if reduction == "mean":  # that of no rows is NaN, and its derivative 0
        loss = loss / mass.numel() if mass.numel() else loss + torch.nan
    return loss, Residuals(logits, weight, labels, rows.maximum, log_sum, None, None, mass)


def fwd(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    axis: int,
) -> tuple[Tensor, Residuals]:
    loss, residuals = _wide_fwd(logits, labels, weight, ignore_index, reduction, label_smoothing, z_loss, axis)
    return to_dtype(loss, logits.dtype), residuals


def bwd(
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    axis: int,
    residuals: Residuals,
    g: Tensor | None,
    like: Likes | None = None,
    *,
    g_log_sum: Tensor | None = None,
    g_mass: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """`g_log_sum` is the cotangent of that residual. Only a second derivative has one, and there g may be None. So is
    `g_mass`.
    """
    labels = residuals.labels
    if labels is None or labels.is_floating_point():
        like = like or likes(residuals.logits, labels)
        return _soft_bwd(reduction, label_smoothing, z_loss, axis, residuals, g, like, g_log_sum, g_mass)
    logits, weight, _, maximum, log_sum, counted, mean_weight, _ = residuals
    scores, index, classes = _rows(logits, axis), signed(labels), logits.shape[axis]
    weight = None if weight is None else to_dtype(weight, wider(logits))
    per_row = torch.zeros_like(log_sum) if g is None else wide(g) if counted is None else wide(g) / counted
    per_row = where_counted(per_row, index, classes, ignore_index)
    lse = torch.where(index == ignore_index, 0, maximum.detach() + log_sum)
    by = scales(per_row, lse, weight_of(index, weight), mean_weight, classes, label_smoothing, z_loss)
    # ∂log_sum/∂logits is the softmax too.
    by = by if g_log_sum is None else by._replace(softmax=by.softmax + g_log_sum)
    by = reshaped(by, (*index.shape, 1))
    maximum, log_sum = (a.unsqueeze(-1) for a in where_read(maximum, log_sum, index, ignore_index))
    if may_write(*residuals, g) and is_ordinary(logits) and is_ordinary(by.softmax):
        dlogits = torch.empty(scores.shape, dtype=logits.dtype, device=logits.device)
        arrays = dlogits, index.unsqueeze(-1), maximum, log_sum, *by
        for part, place, at, shift, log_total, *scale in _blocks(scores, *arrays):
            at = at.squeeze(-1)
            place.copy_(logits_gradient(part - shift, log_total, Scales(*scale), at, 0, weight, in_place=True))
    else:
        dlogits = logits_gradient(scores - maximum, log_sum, by, index, 0, weight, in_place=False)
    return match(_back(dlogits, axis), logits), None


def _soft_bwd(
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    axis: int,
    residuals: Residuals,
    g: Tensor | None,
    like: Likes,
    g_log_sum: Tensor | None,
    g_mass: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of logits, and of labels, which are probabilities."""
    logits, weight, labels, maximum, log_sum, _, _, mass = residuals
    (like_logits, like_labels), dlogits, dlabels = like, None, None
    weight, maximum = None if weight is None else wide(weight), maximum.detach()
    number = max(maximum.numel(), 1) if reduction == "mean" else 1
    per_row = torch.zeros_like(maximum) if g is None else (wide(g) / number).expand(maximum.shape)
    log_softmax = (_rows(logits, axis) - maximum.unsqueeze(-1)) - log_sum.unsqueeze(-1)
    if like_logits is not None and labels is not None and mass is not None:
        by = per_row * (mass + 2 * z_loss * (maximum + log_sum) if z_loss else mass)
        by = by if g_log_sum is None else by + g_log_sum
        target = soft_targets(_rows(labels, axis), weight, label_smoothing)
        dlogits = torch.exp(log_softmax) * by.unsqueeze(-1) - target * per_row.unsqueeze(-1)
        dlogits = match(_back(dlogits, axis), like_logits)
    if like_labels is not None:
        dtarget = -log_softmax * per_row.unsqueeze(-1)
        dtarget = dtarget if g_mass is None else dtarget + g_mass.unsqueeze(-1)
        dlabels = (1 - label_smoothing) * (dtarget if weight is None else dtarget * weight)
        dlabels = match(_back(dlabels, axis), like_labels)
    return dlogits, dlabels


class CrossEntropy(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        logits: Tensor,
        labels: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        reduction: str,
        label_smoothing: float,
        z_loss: float,
        axis: int,
    ) -> tuple[Any, ...]:
        static = ignore_index, reduction, label_smoothing, z_loss, axis
        loss, residuals = _wide_fwd(logits, labels, weight, *static)
        return batched_alike(loss, *residuals[3:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        logits, labels, weight = inputs[:3]
        ctx.static, ctx.like = inputs[3:], likes(logits, labels)
        saved = Residuals(logits, weight, labels, *output[1:])
        # The gradient of probabilities alone depends neither on them nor on their sum.
        ctx.save_for_backward(*(saved if ctx.needs_input_grad[0] else saved._replace(labels=None, mass=None)))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, g: Tensor | None, _maximum: Tensor | None, g_log_sum: Tensor | None, *others: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        g_mass = others[-1]
        if g is None and g_log_sum is None and g_mass is None:
            return (None,) * 8
        residuals = Residuals(*ctx.saved_tensors)
        # Second order only: log_sum and mass are outputs. No gradient flows through the others, constants to the
        # derivative.
        static: tuple[Any, Any, Any, Any, Any] = ctx.static
        gradients = bwd(*static, residuals, g, wanted(ctx), g_log_sum=g_log_sum, g_mass=g_mass)
        return *gradients, *[None] * 6


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    axis: int = -1,
) -> Tensor:
    """loss = log Σ exp logits − logits[label] of each row; dlogits = softmax − 1 at the label, softmax elsewhere.

    Of labels that are probabilities p, loss = Σ p·(log Σ exp logits − logits), dlogits = softmax·Σ p − p, and
    dp = log Σ exp logits − logits.

    Args:
        logits: (..., c) floating, one number a class, on the last axis unless `axis` says otherwise.
        labels: (...) of any integer dtype: classes from 0 to c - 1, or `ignore_index`. Or (..., c) floating, of the
            shape of logits: probabilities of the classes, which have a gradient, as in
            `torch.nn.functional.cross_entropy`; nothing checks that those of a row add up to 1. Each is multiplied by
            its class's weight, the mean divides by the number of rows, and no row can be ignored.
        weight: (c,) floating, which must not require a gradient, or None for 1 throughout: the loss of a row is
            multiplied by the number of its label's class, and the mean divides by the sum of these numbers.
        ignore_index: rows of this label have loss 0 and gradient 0, and do not count in the mean; a Python int. A
            gradient is NaN at logits of such a row that are NaN or ∞, as in `torch.nn.functional.cross_entropy`.
        reduction: "mean" over the rows that count, "sum", or "none", which gives one loss a row; a Python string.
        label_smoothing: from 0 to 1; with ε of it the loss is (1 − ε) times that of the label and ε times the mean over
            all classes, each multiplied by its weight, as in `torch.nn.functional.cross_entropy`; a Python number.
        z_loss: at least 0; that times (log Σ exp logits)² is added to the loss of each row that counts, whatever its
            weight; a Python number.
        axis: the axis of the classes; a Python int.

    Returns:
        () or, for "none", (...), of the dtype of logits, and under `torch.autocast` float32 if that is narrower, in
        which it is computed. The mean of no rows is NaN and its gradient 0, as in `torch.nn.functional.cross_entropy`.
        In compiled code, under vmap, and in a DTensor, where the values of labels are not there to be checked, a row
        whose label is no class has loss NaN and gradient NaN.

    Saves:
        logits: (..., c), an input, no new bytes.
        weight: (c,), an input, no new bytes; only if given.
        labels: (...), an input, no new bytes; (..., c) if probabilities, and then not saved if logits need no gradient.
        maximum: (...), new, 4 bytes a row (8 in float64): the largest logit; without it the backward would look for it
            again.
        log_sum: (...), new, 4 bytes a row (8 in float64): log Σ exp(logits − maximum); without it the backward would
            reduce again. The two are one log-sum-exp, but that is rounded where it is saved, and its rounding is a
            relative error of the softmax: in float32 2e-7 where it is about 4, and 5e-4 where it is about 1e4, as for
            logits with a common offset.
        counted: (), new, 4 bytes (8 in float64): how many labels count, or the sum of their classes' weights; without
            it the backward would count them again. Only for "mean" of
            classes.
        mean_weight: (), new, 4 bytes (8 in float64): the mean of `weight`; without it the backward would sum
            again. Only where labels are classes that are smoothed and have weights.
        mass: (...), new, 4 bytes a row (8 in float64): the sum of a row's probabilities, smoothed and weighted; without
            it the backward would sum them again. Only for probabilities.

    Raises:
        TypeError: logits or weight is not floating, labels is neither of integers nor floating, ignore_index or axis
            is not an int, or label_smoothing or z_loss is not a number.
        ValueError: logits has no such axis, labels has another shape than the rows, or than logits if floating, weight
            than (c,), ignore_index has more than 32 bits or is given with probabilities, label_smoothing or z_loss is
            out of its range, or reduction is none of the three.
            Also, where the values of labels can be read, one is neither a class nor
            ignore_index; to see that, the host reads them, which waits for a GPU that makes them.

    Source:
        Bridle, "Probabilistic Interpretation of Feedforward Classification Network Outputs" (1990), section 3.
    """
    given = logits, labels, weight
    if is_proxy(*given):
        numbers: Any = {"label_smoothing": label_smoothing, "z_loss": z_loss, "axis": axis}
        options: Any = {"weight": weight, "ignore_index": ignore_index, "reduction": reduction, **numbers}
        return handle_torch_function(cross_entropy, given, logits, labels, **options)
    logits = floating("logits", logits)
    if logits.ndim == 0:
        raise ValueError("logits: expected at least 1 axis, got a scalar")
    axis = axis_of("logits", logits, axis)
    check_reduction(reduction)
    ignore_index = integer("ignore_index", ignore_index, least=-(2**31))
    label_smoothing, z_loss = nonnegative("label_smoothing", label_smoothing, 1), nonnegative("z_loss", z_loss)
    weight = class_weights("weight", weight, logits.shape[axis])
    if isinstance(labels, Tensor) and labels.is_floating_point():
        labels = soft_labels("labels", labels, logits.shape, ignore_index)
    else:
        labels = class_labels("labels", labels, logits.shape, axis, ignore_index)
    static = ignore_index, reduction, label_smoothing, z_loss, axis
    loss, *_ = CrossEntropy.apply(logits, labels, weight, *static)
    return to_dtype(loss, loss_dtype(logits))

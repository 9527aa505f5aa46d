"""Cross entropy of a linear layer: the loss of logits = x·weightᵀ at class labels, a chunk of classes at a time."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.checks import floating, integer, is_proxy, nonnegative
from residuals_torch._lib.cotangents import Likes, likes, match, wanted
from residuals_torch._lib.dtypes import to_dtype, wide, wider
from residuals_torch._lib.labels import (
    Scales,
    as_rows,
    check_reduction,
    class_labels,
    class_weights,
    is_compared,
    logits_gradient,
    loss_dtype,
    of_chunks,
    picked_logits,
    reduced,
    reshaped,
    row_losses,
    scales,
    signed,
    statistics,
    weight_of,
    where_counted,
    where_read,
)
from residuals_torch._lib.modes import (
    autocasted,
    batched_alike,
    is_distributed,
    is_ordinary,
    is_program,
    may_write,
    without_autocast,
)
from residuals_torch._lib.products import add_matmul, matmul, operand


class Residuals(NamedTuple):
    x: Tensor  # (..., d)  input: rebuilds the logits, and scales the cotangent
    weight: Tensor  # (v, d)  input: rebuilds the logits, and scales the cotangent
    bias: Tensor | None  # (v,)  input: rebuilds the logits
    class_weight: Tensor | None  # (v,)  input: the weights of the classes, by which each row's gradient is scaled
    labels: Tensor  # (...)  input: the class from whose softmax 1 is subtracted
    maximum: Tensor  # (...)  new, float32 or wider: saved so that the backward looks for no maximum again
    log_sum: Tensor  # (...)  new, float32 or wider: log Σ exp(logits − maximum), saved so that the backward sums no exp
    # again; not added to the maximum, since their sum is rounded to the digits that a large maximum leaves
    counted: Tensor | None  # ()  new, float32 or wider: what the mean divides by, saved so that the backward counts no
    # labels again; None for another reduction
    mean_weight: Tensor | None  # ()  new, float32 or wider: saved so that the backward sums no class weights again;
    # None unless labels are smoothed and classes have weights


RECOMPUTES: dict[str, str] = {
    "matmul": "a chunk of logits is the product of two inputs; this op is there so that all of them, v numbers a row, "
    "are never held",
    "gather": "the weight of a label's class is looked up again, where it would be one more number a row to save",
}


def _counted_rows(x: Tensor, index: Tensor, ignore_index: int) -> Tensor:
    """(n, d): x, and 0 in rows whose label is ignored: such a row may hold anything, and 0 · NaN is NaN."""
    return operand(as_rows(torch.where((index != ignore_index).unsqueeze(-1), x, 0)))


def _chunks(
    weight: Tensor, bias: Tensor | None, class_weight: Tensor | None, chunk: int
) -> Iterator[tuple[int, Any, Any, Any]]:
    """The first class of each chunk, and the chunk's part of these; of a single chunk they themselves."""
    classes = len(weight)
    for start in range(0, max(classes, 1), chunk):
        size = min(chunk, classes - start)
        part, of_bias, of_class = (
            a if a is None or size == classes else a.narrow(0, start, size) for a in (weight, bias, class_weight)
        )
        yield start, part, of_bias, of_class


def _logits(rows: Tensor, part: Tensor, bias: Tensor | None, in_place: bool) -> Tensor:
    """(n, chunk): the logits of a chunk, in new memory."""
    logits = matmul(rows, part.mT)
    if bias is None:
        return logits
    return logits.add_(wide(bias)) if in_place else logits + wide(bias)


def _wide_fwd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    chunk: int,
    label_smoothing: float,
    z_loss: float,
) -> tuple[Tensor, Residuals]:
    """The loss in float32 or wider."""
    index, classes = signed(labels), len(weight)
    rows, places = _counted_rows(x, index, ignore_index), index.reshape(-1)
    wide_weight = None if class_weight is None else to_dtype(class_weight, wider(x))
    in_place = may_write(x, weight, bias) and not is_compared(rows)
    each, sums, picked = [], [], torch.zeros_like(places, dtype=wider(x))
    for start, part, bias_part, class_part in _chunks(weight, bias, wide_weight, chunk):
        logits = _logits(rows, operand(part), bias_part, in_place)
        each.append(statistics(logits, class_part, label_smoothing > 0))
        sums.append(len(part) if class_part is None else torch.sum(class_part))
        if len(part):
            picked = picked + picked_logits(logits, places, start)
    found, picked = of_chunks(each, sums), picked.reshape(labels.shape)
    found = reshaped(found, labels.shape)
    log_sum = torch.log(found.total)
    mean_weight = torch.mean(wide_weight) if wide_weight is not None and label_smoothing else None
    of_label = weight_of(index, wide_weight)
    loss = row_losses(found, log_sum, picked, of_label, mean_weight, classes, label_smoothing, z_loss)
    loss = where_counted(loss, index, classes, ignore_index)
    loss, counted = reduced(loss, index, of_label, ignore_index, reduction)
    return loss, Residuals(x, weight, bias, class_weight, labels, found.maximum, log_sum, counted, mean_weight)


def fwd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    chunk: int,
    label_smoothing: float,
    z_loss: float,
) -> tuple[Tensor, Residuals]:
    static = ignore_index, reduction, chunk, label_smoothing, z_loss
    loss, residuals = _wide_fwd(x, weight, bias, labels, class_weight, *static)
    return to_dtype(loss, x.dtype), residuals


def _scales(
    residuals: Residuals,
    g: Tensor | None,
    g_log_sum: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
) -> Scales:
    """Those of the rows, each (n, 1): 0 where a row is ignored, and NaN where its label is no class."""
    x, weight, _, class_weight, labels, maximum, log_sum, counted, mean_weight = residuals
    index, classes = signed(labels), len(weight)
    per_row = torch.zeros_like(log_sum) if g is None else wide(g) if counted is None else wide(g) / counted
    per_row = where_counted(per_row, index, classes, ignore_index)
    lse = torch.where(index == ignore_index, 0, maximum.detach() + log_sum)
    of_label = weight_of(index, None if class_weight is None else to_dtype(class_weight, wider(x)))
    by = scales(per_row, lse, of_label, mean_weight, classes, label_smoothing, z_loss)
    # ∂log_sum/∂logits is the softmax too.
    by = by if g_log_sum is None else by._replace(softmax=by.softmax + g_log_sum)
    return reshaped(by, (-1, 1))


def bwd(
    ignore_index: int,
    reduction: str,
    chunk: int,
    label_smoothing: float,
    z_loss: float,
    residuals: Residuals,
    g: Tensor | None,
    like: Likes | None = None,
    *,
    g_log_sum: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """`g_log_sum` is the cotangent of that residual. Only a second derivative has one, and there g may be None."""
    x, weight, bias, class_weight, labels, maximum, log_sum, *_ = residuals
    like_x, like_weight, like_bias = like or likes(x, weight, bias)
    index = signed(labels)
    by = _scales(residuals, g, g_log_sum, ignore_index, label_smoothing, z_loss)
    statistics_of_rows = where_read(maximum, log_sum, index, ignore_index)
    maximum, log_sum = (a.reshape(-1, 1) for a in statistics_of_rows)
    rows, index = _counted_rows(x, index, ignore_index), index.reshape(-1)
    # Where no second derivative is recorded, a chunk is overwritten, and a chunk of dweight written to its place.
    in_place = may_write(*residuals, g) and all(map(is_ordinary, (x, weight, labels, by.softmax)))
    place = torch.empty_like(weight) if in_place and like_weight is not None else None
    dx, dparts, dbiases = None, [], []
    for start, part, bias_part, class_part in _chunks(weight, bias, class_weight, chunk):
        wide_part = operand(part)
        logits = _logits(rows, wide_part, bias_part, in_place)
        shifted = logits.sub_(maximum) if in_place else logits - maximum
        dlogits = logits_gradient(shifted, log_sum, by, index, start, class_part, in_place)
        if like_bias is not None and bias_part is not None:
            dbiases.append(match(torch.sum(dlogits, dim=0), bias_part))
        # The products of the gradient have 32 bits: its rows add up to 0, which 16 would not keep.
        if like_x is not None:
            dx = add_matmul(dx, dlogits, wide_part)
        if like_weight is not None:
            dpart = match(matmul(dlogits.mT, rows), part)
            if place is None:
                dparts.append(dpart)
            else:
                place.narrow(0, start, len(part)).copy_(dpart)
    dx = None if dx is None or like_x is None else match(dx.reshape(like_x.shape), like_x)
    dweight = place if place is not None else torch.cat(dparts) if dparts else None
    return dx, dweight, torch.cat(dbiases) if dbiases else None


Results = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # loss, maximum, log_sum, counted, mean_weight


class LinearCrossEntropy(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        class_weight: Tensor | None,
        ignore_index: int,
        reduction: str,
        chunk: int,
        label_smoothing: float,
        z_loss: float,
    ) -> Results:
        static = ignore_index, reduction, chunk, label_smoothing, z_loss
        with without_autocast(x):
            loss, residuals = _wide_fwd(x, weight, bias, labels, class_weight, *static)
        # An operator returns tensors alone, so that 1 stands for a number that is absent.
        counted, mean_weight = (loss.new_ones(()) if a is None else a for a in residuals[-2:])
        loss, maximum, log_sum, counted, mean_weight = batched_alike(
            loss, residuals.maximum, residuals.log_sum, counted, mean_weight
        )
        return loss, maximum, log_sum, counted, mean_weight

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Results) -> None:
        saved = _saved(inputs, output)
        ctx.save_for_backward(*saved)
        ctx.static, ctx.like = inputs[5:], likes(*inputs[:3])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, g: Tensor | None, _maximum: Tensor | None, g_log_sum: Tensor | None, *_numbers: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if g is None and g_log_sum is None:
            return (None,) * 10
        residuals = Residuals(*ctx.saved_tensors)
        # Second order only: log_sum is an output. No gradient flows through the others, constants to the derivative.
        with without_autocast(residuals.x):
            static: tuple[Any, Any, Any, Any, Any] = ctx.static
            gradients = bwd(*static, residuals, g, wanted(ctx), g_log_sum=g_log_sum)
        return *gradients, *[None] * 7


def _saved(inputs: tuple[Any, ...], output: Results) -> Residuals:
    x, weight, bias, labels, class_weight, _, reduction, _, label_smoothing, _ = inputs
    _, maximum, log_sum, counted, mean_weight = output
    has_mean_weight = class_weight is not None and label_smoothing
    numbers = counted if reduction == "mean" else None, mean_weight if has_mean_weight else None
    return Residuals(x, weight, bias, class_weight, labels, maximum, log_sum, *numbers)


# The loop over chunks would be unrolled in a compiled program, which then had one vocabulary; two operators have any.
_forward = torch.library.custom_op("residuals_torch::linear_cross_entropy", mutates_args=())(LinearCrossEntropy.forward)


@torch.library.custom_op("residuals_torch::linear_cross_entropy_backward", mutates_args=())
def _backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    class_weight: Tensor | None,
    labels: Tensor,
    maximum: Tensor,
    log_sum: Tensor,
    counted: Tensor | None,
    mean_weight: Tensor | None,
    g: Tensor,
    wanted: list[bool],
    ignore_index: int,
    reduction: str,
    chunk: int,
    label_smoothing: float,
    z_loss: float,
) -> list[Tensor]:
    """The gradients that are wanted, of x, weight and bias."""
    residuals = Residuals(x, weight, bias, class_weight, labels, maximum, log_sum, counted, mean_weight)
    like = tuple(one if need else None for one, need in zip(likes(x, weight, bias), wanted, strict=True))
    with without_autocast(x):
        gradients = bwd(ignore_index, reduction, chunk, label_smoothing, z_loss, residuals, g, like)
    return [d.contiguous() for d in gradients if d is not None]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Results) -> None:
    saved = _saved(inputs, output)
    ctx.save_for_backward(*saved)
    ctx.static = inputs[5:]


def _gradients(ctx: Any, g: Tensor, *_residuals: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[:3])
    gradients = iter(_backward(*ctx.saved_tensors, g, needs, *ctx.static))
    return *(next(gradients) if need else None for need in needs), *[None] * 7


@_forward.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, *others: Any) -> Results:
    rows, number, (_, _, reduction, *_) = wide(x).new_empty(labels.shape), wide(x).new_empty(()), others
    loss = torch.empty_like(rows if reduction == "none" else number)
    return loss, rows, torch.empty_like(rows), number, torch.empty_like(number)


@_backward.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, *others: Any) -> list[Tensor]:
    (wanted,) = (a for a in others if isinstance(a, list))
    return [a.new_empty(a.shape) for a, need in zip((x, weight, bias), wanted, strict=True) if need and a is not None]


_forward.register_autograd(_gradients, setup_context=_save)


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    class_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    chunk: int = 2048,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Tensor:
    """loss = log Σ exp logits − logits[label] of each row of logits = x·weightᵀ, which is never held as a whole.

    Forward and backward make the logits `chunk` classes at a time, and hold two numbers a row and chunk. A second
    derivative by autodiff holds all chunks, and so does a first one by `torch.func.grad`, which always prepares for a
    second; `torch.func.vjp`, called outside of it, does not.

    Args:
        x: (..., d) floating.
        weight: (v, d) floating, one row a class, as `torch.nn.Linear` has it.
        labels: (...) of any integer dtype: classes from 0 to v - 1, or `ignore_index`.
        bias: (v,) floating, added to each row of logits, or None for 0.
        class_weight: (v,) floating, which must not require a gradient, or None for 1 throughout: the loss of a row is
            multiplied by the number of its label's class, and the mean divides by the sum of these numbers.
        ignore_index: rows of this label have loss 0 and gradient 0, whatever is in them, and do not count in the mean;
            a Python int.
        reduction: "mean" over the rows that count, "sum", or "none", which gives one loss a row; a Python string.
        chunk: how many classes' logits to make at a time, at least 1; a Python int.
        label_smoothing: from 0 to 1; with ε of it the loss is (1 − ε) times that of the label and ε times the mean over
            all classes, each multiplied by its weight, as in `torch.nn.functional.cross_entropy`; a Python number.
        z_loss: at least 0; that times (log Σ exp logits)² is added to the loss of each row that counts, whatever its
            weight; a Python number.

    Returns:
        () or, for "none", (...), of the dtype of x; computed in float32 if that is narrower. Under `torch.autocast` x
        and weight are first cast to its dtype, and the loss is float32. The mean of no rows is NaN and its gradient 0,
        as in `torch.nn.functional.cross_entropy`. In compiled code, under vmap, and in a DTensor, where the values of
        labels are not there to be checked, a row whose label is no class has loss NaN and gradient NaN.

    Saves:
        x: (..., d), an input, no new bytes; under `torch.autocast` x in its dtype.
        weight: (v, d), an input, no new bytes; under `torch.autocast` weight in its dtype.
        bias: (v,), an input, no new bytes; only if given.
        class_weight: (v,), an input, no new bytes; only if given.
        labels: (...), an input, no new bytes.
        maximum: (...), new, 4 bytes a row (8 in float64): the largest logit; without it the backward would look for it
            again.
        log_sum: (...), new, 4 bytes a row (8 in float64): log Σ exp(logits − maximum); without it the backward would
            reduce again. The two are one log-sum-exp, but that is rounded where it is saved, and its rounding is a
            relative error of the softmax: in float32 2e-7 where it is about 4, and 5e-4 where it is about 1e4, as for
            logits with a common offset.
        counted: (), new, 4 bytes (8 in float64): how many labels count, or the sum of their classes' weights; without
            it the backward would count them again. Only for "mean".
        mean_weight: (), new, 4 bytes (8 in float64): the mean of `class_weight`; without it the backward would sum
            again. Only where labels are smoothed and classes have weights.

    Raises:
        TypeError: x, weight, bias or class_weight is not floating, weight or bias is in float64 where x is not or the
            other way round, labels is not of integers, ignore_index or chunk is not an int, or label_smoothing or
            z_loss is not a number.
        ValueError: x has no axis, weight is not (v, d), bias or class_weight not (v,), labels has another shape than
            the rows, ignore_index has more than 32 bits, chunk is not positive, label_smoothing or z_loss is out of its
            range, or reduction is none of the three. Also, where the values of labels can
            be read, one is neither a class nor ignore_index; to see that, the host reads them, which waits for a GPU
            that makes them.

    Source:
        Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models" (2024), section 3.
    """
    given = x, weight, labels, bias, class_weight
    if is_proxy(*given):
        arrays: Any = {"bias": bias, "class_weight": class_weight}
        labelled: Any = {"ignore_index": ignore_index, "reduction": reduction, "chunk": chunk}
        options: Any = {"label_smoothing": label_smoothing, "z_loss": z_loss, **arrays, **labelled}
        return handle_torch_function(linear_cross_entropy, given, x, weight, labels, **options)
    x, weight = floating("x", x), floating("weight", weight)
    if x.ndim == 0:
        raise ValueError("x: expected at least 1 axis, got a scalar")
    if weight.ndim != 2 or weight.shape[1] != x.shape[-1]:
        raise ValueError(
            f"weight: expected shape [v, {x.shape[-1]}], with the last axis of x, got {list(weight.shape)}"
        )
    bias = None if bias is None else floating("bias", bias)
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias: expected shape [{weight.shape[0]}], one number a class, got {list(bias.shape)}")
    for name, a in (("weight", weight), ("bias", bias)):
        if a is not None and torch.float64 in (x.dtype, a.dtype) and x.dtype != a.dtype:
            raise TypeError(f"{name}: expected {x.dtype}, the dtype of x, got {a.dtype}")
    check_reduction(reduction)
    ignore_index, chunk = integer("ignore_index", ignore_index, least=-(2**31)), integer("chunk", chunk, least=1)
    label_smoothing, z_loss = nonnegative("label_smoothing", label_smoothing, 1), nonnegative("z_loss", z_loss)
    class_weight = class_weights("class_weight", class_weight, weight.shape[0])
    labels = class_labels("labels", labels, torch.Size((*x.shape[:-1], weight.shape[0])), -1, ignore_index)
    dtype = loss_dtype(x)
    x, weight, bias = autocasted(x, weight, bias)
    rule = _forward if is_program() and not is_distributed(x) else LinearCrossEntropy.apply
    static = ignore_index, reduction, chunk, label_smoothing, z_loss
    loss, *_ = rule(x, weight, bias, labels, class_weight, *static)
    return to_dtype(loss, dtype)

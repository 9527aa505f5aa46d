"""Cross entropy of class labels: loss = log Σ exp logits − logits[label], and its mean, sum, or one a row."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from residuals_jax._lib.checks import floating, integer
from residuals_jax._lib.cotangents import match
from residuals_jax._lib.dtypes import wide
from residuals_jax._lib.labels import at_class, beside, class_labels, log, maximum_and_sum, signed, where_counted


class Residuals(NamedTuple):
    logits: Array  # (..., c)  input: rebuilds the softmax, exp(logits − maximum − log_sum)
    labels: Array  # (...)  input: the class from whose softmax 1 is subtracted
    maximum: Array  # (...)  new, float32 or wider: saved so that the backward looks for no maximum again
    log_sum: Array  # (...)  new, float32 or wider: log Σ exp(logits − maximum), saved so that the backward sums no exp
    # again; not added to the maximum, since their sum is rounded to the digits that a large maximum leaves
    counted: Array | None  # ()  new, float32 or wider, at least 1: saved so that the backward counts no labels again;
    # for the mean, else None


# The exp of the backward repeats nothing: it is of logits − maximum − log_sum, the softmax; that of the forward is of
# logits − maximum.
RECOMPUTES: dict[str, str] = {}


def fwd(logits: Array, labels: Array, ignore_index: int, reduction: str) -> tuple[Array, Residuals]:
    scores, index, classes = wide(logits), signed(labels), logits.shape[-1]
    maximum, total = maximum_and_sum(scores)
    log_sum = log(total)
    picked = jnp.take_along_axis(scores, index[..., None], axis=-1, mode="clip")[..., 0] if classes else maximum
    loss, counted = where_counted((maximum - picked) + log_sum, index, classes, ignore_index), None
    if reduction != "none":
        loss = jnp.sum(loss)
    if reduction == "mean":
        number = jnp.sum(index != ignore_index)
        counted = jnp.maximum(number, 1).astype(scores.dtype)
        loss = jnp.where(number > 0, loss / counted, jnp.nan)
    return loss.astype(logits.dtype), Residuals(logits, labels, maximum, log_sum, counted)


def bwd(ignore_index: int, reduction: str, residuals: Residuals, g: Array) -> tuple[Array, None]:
    logits, labels, maximum, log_sum, counted = residuals
    index, classes = signed(labels), logits.shape[-1]
    per_row = wide(g) if counted is None else wide(g) / counted
    per_row = where_counted(per_row, index, classes, ignore_index)[..., None]
    softmax = jnp.exp((wide(logits) - maximum[..., None]) - log_sum[..., None])
    dlogits = per_row * jnp.where(at_class(index, classes), softmax - 1, softmax)
    dlogits = jnp.where((index != ignore_index)[..., None], dlogits, 0)  # also where logits are NaN
    return match(dlogits, logits), None


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _cross_entropy(logits: Array, labels: Array, ignore_index: int, reduction: str) -> Array:
    return fwd(logits, labels, ignore_index, reduction)[0]


_cross_entropy.defvjp(fwd, bwd)


def cross_entropy(logits: ArrayLike, labels: ArrayLike, *, ignore_index: int = -100, reduction: str = "mean") -> Array:
    """loss = log Σ exp logits − logits[label] of each row; dlogits = softmax − 1 at the label, softmax elsewhere.

    Args:
        logits: (..., c) floating, one number a class on the last axis.
        labels: (...) of any integer dtype: classes from 0 to c - 1, or `ignore_index`.
        ignore_index: rows of this label have loss 0 and gradient 0, whatever their logits are, and do not count in
            the mean; a Python int.
        reduction: "mean" over the rows that count, "sum", or "none", which gives one loss a row; a Python string.

    Returns:
        () or, for "none", (...), of the dtype of logits; computed in float32 if that is narrower. The mean of no rows
        is NaN and its gradient 0, as in `torch.nn.functional.cross_entropy`. In a trace, where the values of labels are
        not there to be checked, a row whose label is no class has loss NaN and gradient NaN.

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
            reduction is none of the three. Also, outside of a trace, labels has a value that is neither a class nor
            ignore_index; to see that, the values are read on the host, which waits for a GPU that makes them.

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
    return _cross_entropy(logits, beside(labels, logits), ignore_index, reduction)

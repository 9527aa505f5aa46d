"""Batch normalization: y = x̂·weight + bias, x̂ = (x − mean)·rstd per channel, rstd = 1/√(var + eps)."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike

from residuals_jax._lib.checks import Number, apart, boolean, floating, joined, nonnegative
from residuals_jax._lib.cotangents import Like, Likes, likes, match
from residuals_jax._lib.dtypes import to_dtype, wide, wider


class Residuals(NamedTuple):
    x: Array | None  # (b, c, ...)  input: rebuilds x̂ = (x − mean)·rstd; None in evaluation without weight
    weight: Array | None  # (c,)  input: scales the cotangent
    mean: Array | None  # (c,)  new, float32 or wider: saved so that the backward reduces no x again; in evaluation the
    # running mean, an input, and None where x is
    rstd: Array  # (c,)  new, float32 or wider: saved so that the backward reduces no (x − mean)² again


RECOMPUTES: dict[str, str] = {}

Results = tuple[Array, Array | None, Array | None]  # y and the running statistics


def _others(a: Array) -> tuple[int, ...]:
    """All axes but the channels."""
    return (0, *range(2, a.ndim))


def _count(a: Array) -> int:
    """How many numbers a channel has."""
    return a.shape[0] * math.prod(a.shape[2:])


def _lift(a: Array, x: Array) -> Array:
    """(c,) as (1, c, 1, ...), to be broadcast with x."""
    return jnp.expand_dims(a, _others(x))


def _updated(running: Array | None, new: Array, momentum: Number) -> Array | None:
    """The next running statistic: the weighted mean of the old one and that of the batch."""
    return None if running is None else to_dtype((1 - momentum) * wide(running) + momentum * new, running.dtype)


def fwd(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    training: bool,
    momentum: Number,
    eps: Number,
) -> tuple[Results, Residuals]:
    # The running statistics are constants at every order: without this a second derivative would flow through the
    # results and the residuals.
    kept_mean, kept_var = jax.lax.stop_gradient((running_mean, running_var))
    if training:
        mean = jnp.mean(wide(x), axis=_others(x))
        centred = wide(x) - _lift(mean, x)  # before it is squared: E[x²] − mean² is all rounding for a large mean
        var = jnp.mean(jnp.square(centred), axis=_others(x))
        n = _count(x)
        if n > 0:  # an empty batch leaves the statistics as they are
            kept_mean = _updated(kept_mean, jax.lax.stop_gradient(mean), momentum)
            kept_var = _updated(kept_var, jax.lax.stop_gradient(var) * (n / (n - 1)), momentum)
    else:
        assert running_mean is not None
        assert kept_var is not None
        mean, var = running_mean, wide(kept_var)
        centred = wide(x) - _lift(wide(jax.lax.stop_gradient(mean)), x)
    rstd = checkpoint_name(jax.lax.rsqrt(var + eps), "batch_norm.rstd")
    if training:  # else it is an input, which has a name
        mean = checkpoint_name(mean, "batch_norm.mean")
    y = centred * _lift(rstd, x)
    if weight is not None:
        y = y * _lift(wide(weight), x)
    if bias is not None:
        y = y + _lift(wide(bias), x)
    results = to_dtype(y, x.dtype), kept_mean, kept_var
    if not training and weight is None:  # evaluation needs x̂ for the gradient of the weight alone
        return results, Residuals(None, None, None, rstd)
    return results, Residuals(x, weight, mean, rstd)


def bwd(
    training: bool,
    momentum: Number,
    eps: Number,
    residuals: Residuals,
    g: Array,
    like: Likes | None = None,
) -> tuple[Array, Array | None, Array | None, None, None]:
    x, weight, mean, rstd = residuals
    # No gradient depends on the bias, so it is not saved; `like` says whether there is one, and what it looks like.
    like_x, _, like_bias = like or likes(g, weight, Like(g.shape[1:2], g.dtype))
    if not training:
        mean = jax.lax.stop_gradient(mean)  # it is running_mean, a constant
    dweight = dbias = None
    x_hat = None if x is None or mean is None else (wide(x) - _lift(wide(mean), x)) * _lift(rstd, x)
    dx = wide(g) if weight is None else wide(g) * _lift(wide(weight), g)
    if training and x_hat is not None:
        dx = dx - x_hat * _lift(jnp.mean(dx * x_hat, axis=_others(g)), g)
        # All of dx is centred, not g alone: for a large mean x̂ has a mean too, which is rounding.
        dx = dx - _lift(jnp.mean(dx, axis=_others(g)), g)
    dx = match(_lift(rstd, g) * dx, like_x)
    if weight is not None and x_hat is not None:
        dweight = match(jnp.sum(wide(g) * x_hat, axis=_others(g)), weight)
    if like_bias is not None:
        dbias = match(jnp.sum(wide(g), axis=_others(g)), like_bias)
    return dx, dweight, dbias, None, None


@partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def _batch_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    traced: tuple[Array | None, Array | None],
    training: bool,
    numbers: tuple[float, float],
    like: Likes,
) -> Results:
    return fwd(x, weight, bias, running_mean, running_var, training, *map(joined, traced, numbers))[0]


_batch_norm.defvjp(
    lambda x, weight, bias, mean, var, traced, training, numbers, like: fwd(
        x, weight, bias, mean, var, training, *map(joined, traced, numbers)
    ),
    # The running statistics that are returned are constants: the second and third cotangent are theirs, and unused.
    lambda training, numbers, like, residuals, gs: (
        *bwd(training, numbers[0], numbers[1], residuals, gs[0], like),
        None,
    ),
)


def batch_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    training: bool,
    momentum: ArrayLike = 0.1,
    eps: ArrayLike = 1e-5,
) -> tuple[Array, Array | None, Array | None]:
    """y = (x − mean)·rstd·weight + bias with rstd = 1/√(var + eps), over each channel.

    In training, mean and var, the biased one, are those of the batch: over all axes but the channels. In evaluation
    they are running_mean and running_var. Under `shard_map` the batch is the device's own part, and so are the
    statistics; under jit with shardings it is the whole.

    Args:
        x: (b, c, ...) floating, with more than one number a channel in training.
        weight: (c,) floating, or None for 1.
        bias: (c,) floating, or None for 0.
        running_mean: (c,) floating, a constant to the derivative, or None; required in evaluation.
        running_var: (c,) floating, a constant to the derivative, or None; required in evaluation.
        training: whether the batch's own statistics normalize; True or False, not a tracer.
        momentum: the weight of the batch in the running statistics, from 0 to 1; a number, which may be
            traced, such as 1 over the number of batches so far, for the plain mean of all.
        eps: added to the variance; a number, which may be traced: a constant to the derivative.

    Returns:
        y: (b, c, ...), of x's dtype; computed in float32 if that is narrower.
        running_mean, running_var: (c,), of the dtypes that came, without gradient; None where None came. In training
            (1 − momentum)·old + momentum·new, where the new variance is the unbiased one, over n − 1. In evaluation,
            and after an empty batch, they are as they came.

    Saves:
        x: (b, c, ...), an input, no new bytes; not saved in evaluation without weight.
        weight: (c,), an input, no new bytes. The bias is not saved: no gradient depends on it.
        mean: (c,), new, 4 bytes a channel (8 in float64): without it the backward would reduce x again. In evaluation
            it is running_mean, an input, no new bytes; not saved where x is not.
        rstd: (c,), new, 4 bytes a channel (8 in float64): without it the backward would reduce (x − mean)² again.

    Raises:
        TypeError: an array is not floating, training is not a bool, or momentum or eps is not a number.
        ValueError: x has fewer than 2 axes, or in training one number a channel; another array is not (c,);
            running_mean or running_var is missing in evaluation; momentum is not from 0 to 1; or eps is negative.

    Source:
        Ioffe & Szegedy, "Batch Normalization" (2015), algorithms 1 and 2. The running statistics are PyTorch's, whose
        momentum is 1 minus that of Flax.
    """
    x = floating("x", x)
    if x.ndim < 2:
        raise ValueError(f"x: expected at least 2 axes, of which the second has the channels, got {list(x.shape)}")
    training = boolean("training", training)
    if momentum is None:
        mean_of_all = "for the mean of all batches pass 1 / num_batches_tracked, a number or a tracer"
        raise TypeError(f"momentum: expected a number from 0 to 1, got None: {mean_of_all}")
    weight = None if weight is None else floating("weight", weight)
    bias = None if bias is None else floating("bias", bias)
    running_mean = None if running_mean is None else floating("running_mean", running_mean)
    running_var = None if running_var is None else floating("running_var", running_var)
    running = (("running_mean", running_mean), ("running_var", running_var))
    for name, a in (("weight", weight), ("bias", bias), *running):
        if a is not None and a.shape != x.shape[1:2]:
            raise ValueError(f"{name}: expected shape [{x.shape[1]}], as the second axis of x, got {list(a.shape)}")
        if a is None and not training and name.startswith("running"):
            raise ValueError(f"{name}: expected an array in evaluation, got None")
    if training and _count(x) == 1:
        raise ValueError(f"x: expected more than one value per channel in training, got shape {list(x.shape)}")
    dtype = wider(x)
    momentum, eps = nonnegative("momentum", momentum, most=1, dtype=dtype), nonnegative("eps", eps, dtype=dtype)
    traced, numbers = zip(apart(momentum), apart(eps), strict=True)
    return _batch_norm(x, weight, bias, running_mean, running_var, traced, training, numbers, likes(x, weight, bias))

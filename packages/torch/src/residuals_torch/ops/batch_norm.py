"""Batch normalization: y = x̂·weight + bias, x̂ = (x − mean)·rstd per channel, rstd = 1/√(var + eps)."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.checks import Number, boolean, floating, is_proxy, number, static
from residuals_torch._lib.cotangents import Like, Likes, add, as_primal, likes, match, wanted
from residuals_torch._lib.dtypes import to_dtype, wide
from residuals_torch._lib.modes import batched_alike
from residuals_torch._lib.norms import by_pieces, minus, plus, times


class Residuals(NamedTuple):  # all None where only the bias needs a gradient, which depends on no residual
    x: Tensor | None  # (b, c, ...)  input: rebuilds x̂ = (x − mean)·rstd; None in evaluation if the weight needs no
    # gradient
    weight: Tensor | None  # (c,)  input: scales the cotangent; None also if x is frozen
    mean: Tensor | None  # (c,)  new, float32 or wider: saved so that the backward reduces no x again; in evaluation the
    # running mean, an input, and None where x is
    rstd: Tensor  # (c,)  new, float32 or wider: saved so that the backward reduces no (x − mean)² again


RECOMPUTES: dict[str, str] = {}

Results = tuple[Tensor, Tensor | None, Tensor | None]  # y and the running statistics
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def _others(a: Tensor) -> tuple[int, ...]:
    """All axes but the channels."""
    return (0, *range(2, a.ndim))


def _count(a: Tensor) -> int:
    """How many numbers a channel has."""
    return a.shape[0] * math.prod(a.shape[2:])


def _cuts(x: Tensor) -> dict[int, int]:
    """Each channel is normalized by itself."""
    return {1: x.shape[1]}


def _lift(a: Tensor, x: Tensor) -> Tensor:
    """(c,) as (c, 1, ...), to be broadcast with x."""
    for _ in range(x.ndim - 2):
        a = a.unsqueeze(-1)
    return a


def _updated(running: Tensor | None, new: Tensor, momentum: Number) -> Tensor | None:
    """The next running statistic: the weighted mean of the old one and that of the batch."""
    return None if running is None else to_dtype((1 - momentum) * wide(running) + momentum * new, running.dtype)


def fwd(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: Number,
    eps: Number,
) -> tuple[Results, Residuals]:
    def normalized(
        plain: bool,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor | None,
        var: Tensor | None,
        eps: Number,
    ) -> Any:
        dtype, x = x.dtype, wide(x)
        mean = torch.mean(x, dim=_others(x)) if mean is None else wide(mean)
        y = x - _lift(mean, x)  # before it is squared: E[x²] − mean² is all rounding for a large mean
        var = torch.mean(torch.square(y), dim=_others(x)) if var is None else wide(var)
        rstd = torch.rsqrt(var + eps)
        y = times(y, _lift(rstd, x), plain)
        if weight is not None:
            y = times(y, _lift(wide(weight), x), plain)
        if bias is not None:
            y = plus(y, _lift(wide(bias), x), plain)
        return (to_dtype(y, dtype), mean, var, rstd), ()

    assert training or (running_mean is not None and running_var is not None)
    given = (None, None) if training else (running_mean, running_var)
    (y, mean, var, rstd), _ = by_pieces(normalized, _cuts(x), (x, weight, bias, *given), (eps,))
    n = _count(x)
    if training and n > 0:  # an empty batch leaves the statistics as they are
        running_mean = _updated(running_mean, mean.detach(), momentum)
        running_var = _updated(running_var, var.detach() * (n / (n - 1)), momentum)
    results = y, running_mean, running_var
    if not training and weight is None:  # evaluation needs x̂ for the gradient of the weight alone
        return results, Residuals(None, None, None, rstd)
    return results, Residuals(x, weight, mean if training else running_mean, rstd)


def bwd(
    training: bool, momentum: float, eps: float, residuals: Residuals, g: Tensor, like: Likes | None = None
) -> Gradients:
    # No gradient depends on the bias, so it is not saved; `like` says whether there is one, and what it looks like.
    like_x, like_weight, like_bias = like or likes(g, residuals.weight, Like(g.shape[1:2], g.dtype))

    def gradients(
        plain: bool, g: Tensor, x: Tensor | None, weight: Tensor | None, mean: Tensor | None, rstd: Tensor
    ) -> Any:
        dx = dweight = dbias = None
        g = wide(g)
        x_hat = None
        if x is not None and mean is not None:
            x_hat = times(wide(x) - _lift(wide(mean), x), _lift(rstd, x), plain)
        if like_x is not None:
            dx = g if weight is None else g * _lift(wide(weight), g)
            if training and x_hat is not None:
                dx = torch.addcmul(dx, x_hat, _lift(torch.mean(dx * x_hat, dim=_others(g)), g), value=-1)
                # All of dx is centred, not g alone: for a large mean x̂ has a mean too, which is rounding.
                dx = minus(dx, _lift(torch.mean(dx, dim=_others(g)), g), plain)
            dx = to_dtype(times(dx, _lift(rstd, g), plain and dx is not g), like_x.dtype)
        if like_weight is not None and x_hat is not None:
            dweight = torch.sum(g * x_hat, dim=_others(g))
        if like_bias is not None:
            dbias = torch.sum(g, dim=_others(g))
        return (dx, dweight, dbias), ()

    (dx, dweight, dbias), _ = by_pieces(gradients, _cuts(g), (g, *residuals))
    return dx, as_primal(dweight, like_weight), as_primal(dbias, like_bias)


def bwd_residuals(residuals: Residuals, *, g_mean: Tensor | None, g_rstd: Tensor | None) -> Tensor:
    """What reaches x through the residuals: in a channel of n dmean/dx = 1/n and drstd/dx = -rstd³·(x − mean)/n."""
    x, _, mean, rstd = residuals
    assert x is not None
    assert mean is not None
    dx = _lift(torch.zeros_like(mean) if g_mean is None else g_mean, x)
    if g_rstd is not None:
        dx = dx - _lift(g_rstd * rstd**3, x) * (wide(x) - _lift(mean, x))
    return match((dx / _count(x)).expand(x.shape), x)


class BatchNorm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        training: bool,
        momentum: Number,
        eps: Number,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor]:
        (y, new_mean, new_var), residuals = fwd(x, weight, bias, running_mean, running_var, training, momentum, eps)
        # An input is not returned as an output: autograd would make another tensor of it.
        new_mean = None if new_mean is running_mean else new_mean
        new_var = None if new_var is running_var else new_var
        return batched_alike(y, new_mean, new_var, residuals.mean if training else None, residuals.rstd)

    @staticmethod
    def setup_context(
        ctx: Any,
        inputs: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None, bool, Number, Number],
        output: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor],
    ) -> None:
        x, weight, bias, running_mean, _, ctx.training, momentum, eps = inputs
        *_, mean, rstd = output
        ctx.momentum, ctx.eps = static(momentum), static(eps)
        need_x, need_weight, *_ = ctx.needs_input_grad
        need_x_hat = need_weight or (need_x and ctx.training)
        saved = Residuals(
            x if need_x_hat else None,
            weight if need_x else None,
            (mean if ctx.training else running_mean) if need_x_hat else None,
            rstd,
        )
        ctx.save_for_backward(*(saved if need_x or need_weight else [None] * 4))
        ctx.like = likes(x, weight, bias)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, g: Tensor | None, _new_mean: None, _new_var: None, g_mean: Tensor | None, g_rstd: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        residuals = Residuals(*ctx.saved_tensors)
        dx, dweight, dbias = (
            (None, None, None) if g is None else bwd(ctx.training, ctx.momentum, ctx.eps, residuals, g, wanted(ctx))
        )
        # Second order only: mean and rstd are outputs. In evaluation they depend on constants alone.
        if ctx.needs_input_grad[0] and ctx.training and not (g_mean is None and g_rstd is None):
            dx = add(dx, bwd_residuals(residuals, g_mean=g_mean, g_rstd=g_rstd))
        return dx, dweight, dbias, None, None, None, None, None


def batch_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    training: bool,
    momentum: Number = 0.1,
    eps: Number = 1e-5,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """y = (x − mean)·rstd·weight + bias with rstd = 1/√(var + eps), over each channel.

    In training, mean and var, the biased one, are those of the batch: over all axes but the channels. In evaluation
    they are running_mean and running_var. The batch of a DTensor is the whole of it; that of a process's own tensor is
    that tensor alone.

    Args:
        x: (b, c, ...) floating, with more than one number a channel in training.
        weight: (c,) floating, or None for 1.
        bias: (c,) floating, or None for 0.
        running_mean: (c,) floating, a constant to the derivative, or None; required in evaluation. It is not
            overwritten, as `torch.nn.functional.batch_norm` would: copy the result into a buffer, after
            the backward of an evaluation, which holds `running_mean`.
        running_var: (c,) floating, the same for the variance.
        training: whether the batch's own statistics normalize; True or False.
        momentum: the weight of the batch in the running statistics, from 0 to 1; a number, which may be
            a tensor: 1 / num_batches_tracked gives the plain mean of all, as `torch.nn.BatchNorm1d` with momentum None.
        eps: added to the variance; a number, which may be a tensor: a constant to the derivative.

    Returns:
        y: (b, c, ...), of x's dtype; computed in float32 if that is narrower.
        running_mean, running_var: (c,), of the dtypes that came, without gradient; None where None came. In training
            (1 − momentum)·old + momentum·new, where the new variance is the unbiased one, over n − 1. In evaluation,
            and after an empty batch, they are as they came.

    Saves:
        x: (b, c, ...), an input, no new bytes; not saved if x and weight need no gradient, nor in evaluation if the
            weight needs none.
        weight: (c,), an input, no new bytes; not saved if x needs no gradient. The bias is not saved: no gradient
            depends on it.
        mean: (c,), new, 4 bytes a channel (8 in float64): without it the backward would reduce x again. In evaluation
            it is running_mean, an input, no new bytes; not saved where x is not.
        rstd: (c,), new, 4 bytes a channel (8 in float64): without it the backward would reduce (x − mean)² again.

    Raises:
        TypeError: an array is not floating, training is not a bool, or momentum or eps is not a number.
        ValueError: x has fewer than 2 axes, or in training one number a channel; another array is not (c,);
            running_mean or running_var is missing in evaluation; momentum is not from 0 to 1; or eps is negative.

    Source:
        Ioffe & Szegedy, "Batch Normalization" (2015), algorithms 1 and 2.
    """
    given = x, weight, bias, running_mean, running_var, momentum, eps
    if is_proxy(*given):
        options: Any = {"training": training, "momentum": momentum, "eps": eps}
        kept: Any = {"running_mean": running_mean, "running_var": running_var}
        return handle_torch_function(batch_norm, given, x, weight, bias, **kept, **options)
    x = floating("x", x)
    if x.ndim < 2:
        raise ValueError(f"x: expected at least 2 axes, of which the second has the channels, got {list(x.shape)}")
    training = boolean("training", training)
    if momentum is None:
        mean_of_all = "for the mean of all batches pass 1 / num_batches_tracked, a number or a tensor"
        raise TypeError(f"momentum: expected a number from 0 to 1, got None: {mean_of_all}")
    weight = None if weight is None else floating("weight", weight)
    bias = None if bias is None else floating("bias", bias)
    running_mean = None if running_mean is None else floating("running_mean", running_mean).detach()
    running_var = None if running_var is None else floating("running_var", running_var).detach()
    running = (("running_mean", running_mean), ("running_var", running_var))
    for name, a in (("weight", weight), ("bias", bias), *running):
        if a is not None and a.shape != x.shape[1:2]:
            raise ValueError(f"{name}: expected shape [{x.shape[1]}], as the second axis of x, got {list(a.shape)}")
        if a is None and not training and name.startswith("running"):
            raise ValueError(f"{name}: expected a tensor in evaluation, got None")
    if training and _count(x) == 1:
        raise ValueError(f"x: expected more than one value per channel in training, got shape {list(x.shape)}")
    momentum, eps = number("momentum", momentum, most=1), number("eps", eps)
    y, new_mean, new_var, _, _ = BatchNorm.apply(x, weight, bias, running_mean, running_var, training, momentum, eps)
    # Detached, since the rule that vmap generates forgets what `mark_non_differentiable` says.
    running_mean = running_mean if new_mean is None else new_mean.detach()
    running_var = running_var if new_var is None else new_var.detach()
    return y, running_mean, running_var

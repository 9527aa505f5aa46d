"""The seed problem: y = Σ x·sin x, and dx = g·(sin x + x·cos x)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.blocks import in_blocks
from residuals_torch._lib.checks import described, floating, is_proxy
from residuals_torch._lib.cotangents import add


class Residuals(NamedTuple):
    x: Tensor  # (...)  input: multiplies cos x
    sin_x: Tensor  # (...)  new: saved so that the backward takes no second sine


RECOMPUTES: dict[str, str] = {}


def fwd(x: Tensor) -> tuple[Tensor, Residuals]:
    sin_x = torch.sin(x)
    return torch.sum(x * sin_x), Residuals(x, sin_x)


def bwd(residuals: Residuals, g: Tensor) -> tuple[Tensor]:
    x, sin_x = residuals
    return (g * (sin_x + x * torch.cos(x)),)


def bwd_residuals(residuals: Residuals, *, g_sin_x: Tensor) -> Tensor:
    """What reaches x through the residual sin x: g_sin_x·cos x."""
    return g_sin_x * torch.cos(residuals.x)


class XSinX(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        y, residuals = fwd(x)
        return y, residuals.sin_x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        (x,), (_, sin_x) = inputs, output
        ctx.save_for_backward(*Residuals(x, sin_x))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, g_sin_x: Tensor | None) -> Tensor | None:
        residuals = Residuals(*ctx.saved_tensors)
        dx = None if g is None else in_blocks(lambda x, sin_x, g: bwd(Residuals(x, sin_x), g)[0], *residuals, g)
        if g_sin_x is not None:  # second order only: sin x is an output, so its cotangent arrives here
            dx = add(dx, bwd_residuals(residuals, g_sin_x=g_sin_x))
        return dx


def x_sin_x(x: Tensor) -> Tensor:
    """y = Σ x·sin x, with dx = g·(sin x + x·cos x).

    Args:
        x: (...) floating, any shape.

    Returns:
        A scalar of x's dtype.

    Saves:
        x: (...), an input, no new bytes.
        sin_x: (...), new, as many bytes as x: without it the backward would take the sine again.

    Raises:
        TypeError: x is not a floating tensor.

    Source:
        The exercise `custom_vjp_with_extra_residual`: a rule that saves more than its inputs.
    """
    if is_proxy(x):
        return handle_torch_function(x_sin_x, (x,), x)
    y, _ = XSinX.apply(floating("x", x))
    return y


f_with_sin = x_sin_x  # the exercise's name for it


def custom_vjp_with_extra_residual(x: Tensor) -> Tensor:
    """The seed exercise: the gradient sin x + x·cos x of `f_with_sin`, through its custom rule.

    Args:
        x: (n,) floating.

    Returns:
        (n,), of x's dtype.

    Saves:
        What `x_sin_x` saves.

    Raises:
        ValueError: x is not a 1-D floating tensor.
    """
    try:
        x = floating("x", x)
    except TypeError as problem:
        raise ValueError(str(problem)) from None
    if x.ndim != 1:
        raise ValueError(f"x: expected a 1-D floating tensor, got {described(x)}")
    return torch.func.grad(f_with_sin)(x)

"""The mini-example: y = x·scale with broadcasting; dx = g·scale and dscale = g·x, each summed to its primal's shape."""

from numbers import Real
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.checks import floating, is_proxy
from residuals_torch._lib.cotangents import Likes, likes, match, wanted
from residuals_torch._lib.dtypes import to_dtype


class Residuals(NamedTuple):
    x: Tensor | None  # (...)  input: scale's cotangent is g·x; None if scale is frozen
    scale: Tensor | None  # (...)  input: x's cotangent is g·scale; None if x is frozen


RECOMPUTES: dict[str, str] = {}


def fwd(x: Tensor, scale: Tensor) -> tuple[Tensor, Residuals]:
    return x * scale, Residuals(x, scale)


def bwd(residuals: Residuals, g: Tensor, like: Likes | None = None) -> tuple[Tensor | None, Tensor | None]:
    x, scale = residuals
    like_x, like_scale = like or likes(x, scale)
    dx = dscale = None
    if like_x is not None and scale is not None:
        dx = match(g * scale, like_x)
    if like_scale is not None and x is not None:
        dscale = match(g * x, like_scale)
    return dx, dscale


class Scaled(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor) -> Tensor:
        return fwd(x, scale)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        x, scale = inputs
        need_x, need_scale = ctx.needs_input_grad
        ctx.save_for_backward(*Residuals(x if need_scale else None, scale if need_x else None))
        ctx.like = likes(x, scale)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        return (None, None) if g is None else bwd(Residuals(*ctx.saved_tensors), g, wanted(ctx))


def scaled(x: Tensor, scale: Tensor | float) -> Tensor:
    """y = x·scale, with dx = g·scale and dscale = g·x.

    Args:
        x: (...) floating.
        scale: (...) floating, of any shape that broadcasts with x; or a Python number, which is not rounded to x's
            dtype.

    Returns:
        The product, in the shape to which both broadcast and the dtype to which both promote: x's for a number. A 0-d
        tensor does not promote one with axes: float32 times a 0-d float64 is float32 here, and float64 in JAX.

    Saves:
        x: (...), an input, no new bytes; not saved if scale needs no gradient.
        scale: (...), an input, no new bytes; not saved if x needs no gradient.

    Raises:
        TypeError: x is not floating, or scale is neither floating nor a number.
        ValueError: their shapes do not broadcast.

    Source:
        The mini-example of saved residuals, which usually forgets that a broadcast argument's gradient is a sum.
    """
    if is_proxy(x, scale):
        return handle_torch_function(scaled, (x, scale), x, scale)
    x = floating("x", x)
    if isinstance(scale, Real) and not isinstance(scale, bool | Tensor):
        # In float32 at least: float16 would make 1e5 infinite and 1e-8 zero.
        number = torch.full((), float(scale), dtype=torch.float64, device=x.device)
        return to_dtype(Scaled.apply(x, to_dtype(number, torch.promote_types(x.dtype, torch.float32))), x.dtype)
    scale = floating("scale", cast(Tensor, scale))
    try:
        torch.broadcast_shapes(x.shape, scale.shape)
    except RuntimeError:
        raise ValueError(
            f"scale: expected a shape that broadcasts with x {list(x.shape)}, got {list(scale.shape)}"
        ) from None
    return Scaled.apply(x, scale)

"""Softmax along one axis: y = exp x / Σ exp x, and dx = y·(g − Σ g·y)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.blocks import in_blocks
from residuals_torch._lib.checks import floating, floating_dtype, integer, is_proxy
from residuals_torch._lib.cotangents import match
from residuals_torch._lib.dtypes import to_dtype, wide


class Residuals(NamedTuple):
    y: Tensor  # (...)  output: all that the gradient needs, so x may go


RECOMPUTES: dict[str, str] = {}


def fwd(x: Tensor, axis: int) -> tuple[Tensor, Residuals]:
    rows = wide(x)
    if x.ndim == 0 or x.shape[axis] != 0:  # an empty axis has no maximum
        # Any shift gives the same y, so the maximum is a constant to the derivative.
        rows = rows - torch.amax(rows.detach(), dim=axis, keepdim=True)
    e = torch.exp(rows)
    y = to_dtype(e / torch.sum(e, dim=axis, keepdim=True), x.dtype)
    return y, Residuals(y)


def bwd(axis: int, residuals: Residuals, g: Tensor) -> tuple[Tensor]:
    y, g = wide(residuals.y), wide(g)
    dot = torch.sum(g * y, dim=axis, keepdim=True)
    is_narrow = residuals.y.dtype != y.dtype
    if is_narrow:
        # y is rounded, and no longer adds up to 1; where one entry is nearly 1, g − Σ g·y would be all rounding.
        g = g * torch.sum(y, dim=axis, keepdim=True)
    return (match(y * (g - dot), residuals.y),)


class Softmax(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, axis: int) -> Tensor:
        return in_blocks(lambda x: fwd(x, axis)[0], x, axis=axis)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], y: Tensor) -> None:
        _, ctx.axis = inputs
        ctx.save_for_backward(*Residuals(y))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, None]:
        if g is None:
            return None, None
        dx = in_blocks(lambda y, g: bwd(ctx.axis, Residuals(y), g)[0], *ctx.saved_tensors, g, axis=ctx.axis)
        return dx, None


def softmax(x: Tensor, *, axis: int = -1, dtype: torch.dtype | None = None) -> Tensor:
    """y = exp x / Σ exp x along one axis, with dx = y·(g − Σ g·y).

    Args:
        x: (...) floating. An entry of −∞ gives 0; a row that is −∞ throughout gives NaN, as in `torch.softmax`.
        axis: the axis to sum along, from -x.ndim to x.ndim - 1; a Python int.
        dtype: floating, to which x is converted first; None for x's.

    Returns:
        (...), of this dtype; computed in float32 if that is narrower.

    Saves:
        y: (...), the output, of this dtype; no new bytes where the next operation saves its input anyway.

    Raises:
        TypeError: x or dtype is not floating, or axis is not an int.
        ValueError: x has no such axis. A scalar counts as a row of 1, as in `torch.softmax`; JAX raises.

    Source:
        Bridle, "Probabilistic Interpretation of Feedforward Classification Network Outputs" (1990), equation 4.
    """
    if is_proxy(x):
        return handle_torch_function(softmax, (x,), x, axis=axis, dtype=dtype)
    x = floating("x", x)
    if dtype is not None:
        x = to_dtype(x, floating_dtype("dtype", dtype))
    axis = integer("axis", axis)
    axes = max(x.ndim, 1)
    if not -axes <= axis < axes:
        raise ValueError(f"axis: expected one of the {axes} axes of x, got {axis}")
    return Softmax.apply(x, axis)

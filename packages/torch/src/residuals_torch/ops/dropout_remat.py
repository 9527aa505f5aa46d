"""Dropout that saves its key: y = x·mask/(1 - rate), and the backward draws the same mask again."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.checks import Number, floating, is_proxy, read
from residuals_torch._lib.dropout import axes, drawn, drop, keep_mask, two_words


class Residuals(NamedTuple):
    key: Tensor | None  # (2,)  input: the mask is a function of it; None at the rates 0 and 1


RECOMPUTES: dict[str, str] = {
    "random": "Threefry draws the same mask from the key again; the key has 64 bits, the mask one for each element",
}


def fwd(x: Tensor, key: Tensor | None, rate: float, broadcast: tuple[int, ...]) -> tuple[Tensor, Residuals]:
    return drop(x, keep_mask(key, drawn(x, broadcast), rate), rate), Residuals(key if 0 < rate < 1 else None)


def bwd(rate: float, broadcast: tuple[int, ...], residuals: Residuals, g: Tensor) -> tuple[Tensor, None]:
    return drop(g, keep_mask(residuals.key, drawn(g, broadcast), rate), rate), None


class DropoutRemat(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, key: Tensor | None, rate: float, broadcast: tuple[int, ...]) -> Tensor:
        return fwd(x, key, rate, broadcast)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor | None, float, tuple[int, ...]], output: Tensor) -> None:
        _, key, ctx.rate, ctx.broadcast = inputs
        ctx.save_for_backward(*Residuals(key if 0 < ctx.rate < 1 else None))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        return (
            (None, None, None, None)
            if g is None
            else (*bwd(ctx.rate, ctx.broadcast, Residuals(*ctx.saved_tensors), g), None, None)
        )


def dropout_remat(x: Tensor, rate: Number, key: Tensor | None, *, broadcast: Sequence[int] = ()) -> Tensor:
    """y = x·mask/(1 - rate): each element is zero with probability `rate`, else divided by 1 - rate.

    The probability is a multiple of 2⁻²³, so that rates nearer to 1 than 1e-6 are rounded.

    Each device's part of a DTensor gets its part of the mask of the whole.

    Args:
        x: (...) floating.
        rate: from 0, which keeps all, to 1, which keeps nothing; a Python number, or a tensor of no axes that can be
            read: not in compiled code, nor under vmap. It is a constant to the derivative.
        key: two uint32: the mask is a function of it and x's shape, the same bit for bit in NumPy, JAX and PyTorch and
            on every device. It may be None at the rates 0 and 1, where nothing is drawn.
        broadcast: axes of x along which all elements share one draw: (2, 3) drops whole channels, as `dropout2d` does.

    Returns:
        (...), of x's dtype. What is dropped is 0, even where x is infinite or NaN.

    Saves:
        key: (2,), an input, uint32, 8 bytes: the backward draws the mask from it again. Nothing at the rates 0 and 1.

    Raises:
        TypeError: x is not floating, key is not two uint32, rate is not a
            number, or broadcast is no tuple of ints.
        ValueError: rate is not from 0 to 1, or broadcast names an axis that x has not.

    Source:
        Srivastava et al., "Dropout" (2014); Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).
    """
    if is_proxy(x, key):
        return handle_torch_function(dropout_remat, (x, key), x, rate, key, broadcast=broadcast)
    x, rate = floating("x", x), read("rate", rate, most=1)
    if key is not None or 0 < rate < 1:
        key = two_words("key", key)
    return DropoutRemat.apply(x, key, rate, axes("broadcast", broadcast, x.ndim))

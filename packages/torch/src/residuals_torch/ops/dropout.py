"""Dropout that saves its mask: y = x·mask/(1 - rate), and dx = g·mask/(1 - rate)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.bits import pack_bits, unpack_bits
from residuals_torch._lib.blocks import in_blocks
from residuals_torch._lib.checks import Number, floating, is_proxy, read
from residuals_torch._lib.dropout import axes, drawn, drop, keep_mask, two_words


class Residuals(NamedTuple):
    mask: Tensor | None  # (..., ⌈n/8⌉)  new, packed bits: the draw is not repeated; None at the rates 0 and 1


RECOMPUTES: dict[str, str] = {}


def fwd(x: Tensor, key: Tensor | None, rate: float, broadcast: tuple[int, ...]) -> tuple[Tensor, Residuals]:
    mask = keep_mask(key, drawn(x, broadcast), rate)
    return drop(x, mask, rate), Residuals(None if mask is None else in_blocks(pack_bits, mask, axis=-1))


def bwd(rate: float, broadcast: tuple[int, ...], residuals: Residuals, g: Tensor) -> tuple[Tensor, None]:
    (mask,) = residuals
    return drop(g, None if mask is None else unpack_bits(mask, drawn(g, broadcast).shape), rate), None


class Dropout(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, key: Tensor | None, rate: float, broadcast: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        y, residuals = fwd(x, key, rate, broadcast)
        return y, residuals.mask

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor | None, float, tuple[int, ...]], output: tuple[Tensor, Tensor | None]
    ) -> None:
        (_, _, ctx.rate, ctx.broadcast), (_, mask) = inputs, output
        ctx.save_for_backward(*Residuals(mask))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, _mask: None) -> tuple[Tensor | None, None, None, None]:
        if g is None:
            return None, None, None, None
        dx = in_blocks(
            lambda g, mask: bwd(ctx.rate, ctx.broadcast, Residuals(mask), g)[0], g, *ctx.saved_tensors, axis=-1
        )
        return dx, None, None, None


def dropout(x: Tensor, rate: Number, key: Tensor | None = None, *, broadcast: Sequence[int] = ()) -> Tensor:
    """y = x·mask/(1 - rate): each element is zero with probability `rate`, else divided by 1 - rate.

    The probability is a multiple of 2⁻²³, so that rates nearer to 1 than 1e-6 are rounded.

    Each device's part of a DTensor gets its part of the mask of the whole.

    Args:
        x: (...) floating.
        rate: from 0, which keeps all, to 1, which keeps nothing; a Python number, or a tensor of no axes that can be
            read: not in compiled code, nor under vmap. It is a constant to the derivative.
        key: two uint32: the mask is a function of it and x's shape, the same bit for bit in NumPy, JAX and PyTorch and
            on every device. None: the global generator draws another mask each time.
        broadcast: axes of x along which all elements share one draw: (2, 3) drops whole channels, as `dropout2d` does.

    Returns:
        (...), of x's dtype. What is dropped is 0, even where x is infinite or NaN.

    Saves:
        mask: (..., ⌈n/8⌉), new, uint8: one bit an element, packed along the last axis of x, which has n; the first
            element of eight is the lowest bit. Nothing at the rates 0 and 1.

    Raises:
        TypeError: x is not floating, key is not two uint32, rate is not a
            number, or broadcast is no tuple of ints.
        ValueError: rate is not from 0 to 1, or broadcast names an axis that x has not.

    Source:
        Srivastava et al., "Dropout" (2014); Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).
    """
    if is_proxy(x, key):
        return handle_torch_function(dropout, (x, key), x, rate, key, broadcast=broadcast)
    x, rate, key = floating("x", x), read("rate", rate, most=1), None if key is None else two_words("key", key)
    y, _ = Dropout.apply(x, key, rate, axes("broadcast", broadcast, x.ndim))
    return y

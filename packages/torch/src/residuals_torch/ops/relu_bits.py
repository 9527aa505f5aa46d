"""Rectified linear unit that saves a bit an element: y = x where x > 0, else 0; dx = g where the bit is set, else 0."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.bits import pack_bits, unpack_bits, where_set
from residuals_torch._lib.blocks import in_blocks
from residuals_torch._lib.checks import floating, is_proxy


class Residuals(NamedTuple):
    mask: Tensor  # (..., ⌈n/8⌉)  new, uint8: bit i of byte j says whether element 8j + i of the last axis is alive


RECOMPUTES: dict[str, str] = {}


def fwd(x: Tensor) -> tuple[Tensor, Residuals]:
    return torch.clamp_min(x, 0), Residuals(pack_bits(~(x <= 0)))  # a NaN stays, and counts as alive


def bwd(residuals: Residuals, g: Tensor) -> tuple[Tensor]:
    (mask,) = residuals
    return (where_set(unpack_bits(mask, g.shape), g),)


class ReLUBits(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        def of_rows(x: Tensor) -> tuple[Tensor, Tensor]:
            y, residuals = fwd(x)
            return y, residuals.mask

        return in_blocks(of_rows, x, axis=-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        _, mask = output
        ctx.save_for_backward(*Residuals(mask))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, _mask: None) -> Tensor | None:
        return (
            None if g is None else in_blocks(lambda g, mask: bwd(Residuals(mask), g)[0], g, *ctx.saved_tensors, axis=-1)
        )


def relu_bits(x: Tensor) -> Tensor:
    """y = x where x > 0, else 0, with dx = g where the saved bit is set, else 0.

    Values and gradients are those of `relu`, at 0 and NaN too: dx = 0 at 0, and dx = g at NaN, as `torch.relu` has it;
    `jax.nn.relu` gives 0 there. The bits carry no derivative: a second one, as of a gradient penalty on this op
    alone, raises, where that of `relu` is 0.

    Args:
        x: (..., n) floating, any shape; a scalar counts as n = 1.

    Returns:
        (..., n), of x's dtype.

    Saves:
        mask: (..., ⌈n/8⌉), new, uint8, about 1/32 of the bytes of a float32 x. It pays where nothing else holds y;
            before a layer that saves its input, `relu` adds nothing and this adds its bits.

    Raises:
        TypeError: x is not floating.

    Source:
        Jain et al., "Gist: Efficient Data Encoding for Deep Neural Network Training" (2018), section 4.1.
    """
    if is_proxy(x):
        return handle_torch_function(relu_bits, (x,), x)
    y, _ = ReLUBits.apply(floating("x", x))
    return y

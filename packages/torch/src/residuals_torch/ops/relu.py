"""Rectified linear unit: y = x where x > 0, else 0; dx = g where y > 0, else 0, so that relu′(0) = 0."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.blocks import in_blocks
from residuals_torch._lib.checks import floating, is_proxy


class Residuals(NamedTuple):
    y: Tensor  # (...)  output: 0 where x was dead; the next layer holds it anyway


RECOMPUTES: dict[str, str] = {}


def fwd(x: Tensor) -> tuple[Tensor, Residuals]:
    y = torch.clamp_min(x, 0)  # keeps a NaN, and is many times as fast as a `where`
    return y, Residuals(y)


def bwd(residuals: Residuals, g: Tensor) -> tuple[Tensor]:
    (y,) = residuals
    # Where y is 0, y and not the number 0: dx is then a function of x, of slope 0, and can be differentiated again.
    return (torch.where(y <= 0, y, g),)


class ReLU(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return fwd(x)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], y: Tensor) -> None:
        ctx.save_for_backward(*Residuals(y))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Tensor | None:
        return None if g is None else in_blocks(lambda y, g: bwd(Residuals(y), g)[0], *ctx.saved_tensors, g)


def relu(x: Tensor) -> Tensor:
    """y = x where x > 0, else 0, with dx = g where y > 0, else 0.

    At 0 the derivative is 0. At NaN the value is NaN and dx = g, as `torch.relu` has it; `jax.nn.relu` gives 0 there.

    Args:
        x: (...) floating, any shape.

    Returns:
        (...), of x's dtype.

    Saves:
        y: (...), the output, no bytes beside it. Alone it is more than `relu_bits` saves; before a layer that saves its
            input it costs nothing.

    Raises:
        TypeError: x is not floating.

    Source:
        Nair & Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines" (2010).
    """
    if is_proxy(x):
        return handle_torch_function(relu, (x,), x)
    return ReLU.apply(floating("x", x))

"""Gated linear unit with a sigmoid linear gate: y = gate·σ(gate)·up."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.blocks import in_blocks
from residuals_torch._lib.checks import floating, is_proxy
from residuals_torch._lib.cotangents import Likes, likes, wanted
from residuals_torch._lib.dtypes import to_dtype, wide


class Residuals(NamedTuple):
    gate: Tensor  # (...)  input: rebuilds the sigmoid
    up: Tensor | None  # (...)  input: scales the gate's cotangent; None if gate is frozen


RECOMPUTES = {"sigmoid": "one exponential an element, where an array of it would be as large as gate"}


def fwd(gate: Tensor, up: Tensor) -> tuple[Tensor, Residuals]:
    a = wide(gate)
    silu = a * torch.sigmoid(a)
    return to_dtype(silu * wide(up), torch.promote_types(gate.dtype, up.dtype)), Residuals(gate, up)


def bwd(residuals: Residuals, g: Tensor, like: Likes | None = None) -> tuple[Tensor | None, Tensor | None]:
    like_gate, like_up = like or likes(*residuals)
    gate, g = wide(residuals.gate), wide(g)
    s = torch.sigmoid(gate)
    silu = gate * s
    dgate = dup = None
    if like_gate is not None and residuals.up is not None:
        # σ + gate·σ·(1 − σ) lies σ of the way from gate·σ to 1: one pass.
        dgate = to_dtype(g * wide(residuals.up) * torch.lerp(silu, s.new_ones(()), s), like_gate.dtype)
    if like_up is not None:
        dup = to_dtype(g * silu, like_up.dtype)
    return dgate, dup


class SwiGLU(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(gate: Tensor, up: Tensor) -> Tensor:
        return in_blocks(lambda gate, up: fwd(gate, up)[0], gate, up)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        gate, up = inputs
        ctx.save_for_backward(*Residuals(gate, up if ctx.needs_input_grad[0] else None))
        ctx.like = likes(gate, up)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        if g is None:
            return None, None
        like = wanted(ctx)
        return in_blocks(lambda gate, up, g: bwd(Residuals(gate, up), g, like), *ctx.saved_tensors, g)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """y = gate·σ(gate)·up, with dgate = g·up·(σ + gate·σ·(1 − σ)) and dup = g·gate·σ.

    Args:
        gate: (...) floating, any shape.
        up: (...) floating, of gate's shape: nothing is broadcast.

    Returns:
        (...), of the dtype to which both promote; computed in float32 if that is narrower.

    Saves:
        gate: (...), an input, no new bytes. The backward computes σ(gate) again.
        up: (...), an input, no new bytes; not saved if gate needs no gradient.

    Raises:
        TypeError: gate or up is not floating.
        ValueError: their shapes differ.

    Source:
        Shazeer, "GLU Variants Improve Transformer" (2020), equation 5.
    """
    if is_proxy(gate, up):
        return handle_torch_function(swiglu, (gate, up), gate, up)
    gate, up = floating("gate", gate), floating("up", up)
    if up.shape != gate.shape:
        raise ValueError(f"up: expected the shape of gate {list(gate.shape)}, got {list(up.shape)}")
    return SwiGLU.apply(gate, up)

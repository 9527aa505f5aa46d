"""Gated linear unit with a sigmoid linear gate: y = gate·σ(gate)·up."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.blocks import in_blocks
from residuals_torch._lib.checks import floating, is_proxy
from residuals_torch._lib.cotangents import Likes, likes, wanted
from residuals_torch._lib.dtypes import to_dtype, wide
from residuals_torch._lib.gates import check_halves, halves


class Residuals(NamedTuple):
    gate: Tensor  # (...)  input: rebuilds the sigmoid; (..., 2d) where one tensor holds both
    up: Tensor | None  # (...)  input: scales the gate's cotangent; None if gate holds it, or is frozen


RECOMPUTES = {"sigmoid": "one exponential an element, where an array of it would be as large as gate"}


def fwd(gate: Tensor, up: Tensor | None) -> tuple[Tensor, Residuals]:
    residuals = Residuals(gate, up)
    gate, up = halves(gate, up)
    a = wide(gate)
    silu = a * torch.sigmoid(a)
    return to_dtype(silu * wide(up), torch.promote_types(gate.dtype, up.dtype)), residuals


def bwd(residuals: Residuals, g: Tensor, like: Likes | None = None) -> tuple[Tensor | None, Tensor | None]:
    like_gate, like_up = like or likes(*residuals)
    gate, up = residuals
    is_packed = up is None and like_gate is not None  # the gradient of a gate needs up, so up is within gate
    if is_packed:
        gate, up = halves(gate, up)
        like_up = like_gate
    gate, g = wide(gate), wide(g)
    s = torch.sigmoid(gate)
    silu = gate * s
    dgate = dup = None
    if like_gate is not None and up is not None:
        # σ + gate·σ·(1 − σ) lies σ of the way from gate·σ to 1: one pass.
        dgate = to_dtype(g * wide(up) * torch.lerp(silu, s.new_ones(()), s), like_gate.dtype)
    if like_up is not None:
        dup = to_dtype(g * silu, like_up.dtype)
    if is_packed:
        return torch.cat([d for d in (dgate, dup) if d is not None], dim=-1), None
    return dgate, dup


class SwiGLU(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(gate: Tensor, up: Tensor | None) -> Tensor:
        return in_blocks(lambda gate, up: fwd(gate, up)[0], gate, up, axis=-1 if up is None else None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor | None], output: Tensor) -> None:
        gate, up = inputs
        ctx.save_for_backward(*Residuals(gate, up if ctx.needs_input_grad[0] else None))
        ctx.like = likes(gate, up)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        if g is None:
            return None, None
        (gate, up), like = ctx.saved_tensors, wanted(ctx)
        axis = -1 if up is None else None
        dgate, dup = in_blocks(lambda gate, up, g: bwd(Residuals(gate, up), g, like), gate, up, g, axis=axis)
        return dgate, dup


def swiglu(gate: Tensor, up: Tensor | None = None) -> Tensor:
    """y = gate·σ(gate)·up, with dgate = g·up·(σ + gate·σ·(1 − σ)) and dup = g·gate·σ.

    Args:
        gate: (...) floating, any shape; or (..., 2d) without up: its first half is the gate, its second is up.
        up: (...) floating, of gate's shape: nothing is broadcast.

    Returns:
        (...), or (..., d) without up, of the dtype to which both promote; computed in float32 if that is narrower.

    Saves:
        gate: (...), an input, no new bytes. The backward computes σ(gate) again.
        up: (...), an input, no new bytes; not saved if gate needs no gradient. Halves of one array stay one array.

    Raises:
        TypeError: gate or up is not floating.
        ValueError: their shapes differ, or there is no up and the last axis of gate is odd or missing.

    Source:
        Shazeer, "GLU Variants Improve Transformer" (2020), equation 5.
    """
    if is_proxy(gate, up):
        return handle_torch_function(swiglu, (gate, up), gate, up)
    gate, up = floating("gate", gate), None if up is None else floating("up", up)
    check_halves(gate, up)
    return SwiGLU.apply(gate, up)

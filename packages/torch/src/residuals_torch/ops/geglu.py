"""Gated linear unit with a Gaussian error gate: y = gate·Φ(gate)·up, Φ the normal distribution function, by erfc."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from residuals_torch._lib.blocks import in_blocks
from residuals_torch._lib.checks import floating, is_proxy
from residuals_torch._lib.cotangents import Likes, likes, wanted
from residuals_torch._lib.dtypes import to_dtype, wide


class Residuals(NamedTuple):
    gate: Tensor  # (...)  input: rebuilds Φ
    up: Tensor | None  # (...)  input: scales the gate's cotangent; None if gate is frozen


RECOMPUTES = {"erfc": "a polynomial an element, where an array of it would be as large as gate"}


def _cdf(x: Tensor) -> Tensor:
    """Φ(x)."""
    return 0.5 * torch.erfc(x * -math.sqrt(0.5))  # 1 + erf cancels where x is far to the left


def fwd(gate: Tensor, up: Tensor) -> tuple[Tensor, Residuals]:
    a = wide(gate)
    gelu = a * _cdf(a)
    return to_dtype(gelu * wide(up), torch.promote_types(gate.dtype, up.dtype)), Residuals(gate, up)


def bwd(residuals: Residuals, g: Tensor, like: Likes | None = None) -> tuple[Tensor | None, Tensor | None]:
    like_gate, like_up = like or likes(*residuals)
    gate, g = wide(residuals.gate), wide(g)
    phi = _cdf(gate)
    dgate = dup = None
    if like_gate is not None and residuals.up is not None:
        slope = torch.exp(-0.5 * gate * gate) * math.sqrt(0.5 / math.pi)  # Φ′
        dgate = to_dtype(g * wide(residuals.up) * torch.addcmul(phi, gate, slope), like_gate.dtype)
    if like_up is not None:
        dup = to_dtype(g * (gate * phi), like_up.dtype)
    return dgate, dup


class GEGLU(torch.autograd.Function):
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


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """y = gate·Φ(gate)·up with Φ(x) = erfc(−x/√2)/2, dgate = g·up·(Φ + gate·Φ′) and dup = g·gate·Φ.

    This is the exact form, as `torch.nn.functional.gelu` has it unless told otherwise.

    Args:
        gate: (...) floating, any shape.
        up: (...) floating, of gate's shape: nothing is broadcast.

    Returns:
        (...), of the dtype to which both promote; computed in float32 if that is narrower.

    Saves:
        gate: (...), an input, no new bytes. The backward computes Φ(gate) again.
        up: (...), an input, no new bytes; not saved if gate needs no gradient.

    Raises:
        TypeError: gate or up is not floating.
        ValueError: their shapes differ.

    Source:
        Shazeer, "GLU Variants Improve Transformer" (2020), equation 5.
    """
    if is_proxy(gate, up):
        return handle_torch_function(geglu, (gate, up), gate, up)
    gate, up = floating("gate", gate), floating("up", up)
    if up.shape != gate.shape:
        raise ValueError(f"up: expected the shape of gate {list(gate.shape)}, got {list(up.shape)}")
    return GEGLU.apply(gate, up)

"""The two tensors of a gated linear unit."""

import torch
from torch import Tensor


def check_halves(gate: Tensor, up: Tensor | None) -> None:
    """ValueError unless `up` has the shape of `gate`, or, if it is None, the last axis of `gate` has halves."""
    if up is None and (gate.ndim == 0 or gate.shape[-1] % 2):
        raise ValueError(f"gate: expected an even last axis, since there is no up, got shape {list(gate.shape)}")
    if up is not None and up.shape != gate.shape:
        raise ValueError(f"up: expected the shape of gate {list(gate.shape)}, got {list(up.shape)}")


def halves(gate: Tensor, up: Tensor | None) -> tuple[Tensor, Tensor]:
    """`gate` and `up`; without `up`, the halves of `gate` along its last axis."""
    if up is not None:
        return gate, up
    first, second = torch.chunk(gate, 2, dim=-1)
    return first, second

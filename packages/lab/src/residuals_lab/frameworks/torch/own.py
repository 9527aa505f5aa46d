"""PyTorch's own op for an op of ours, where it has one: what `residuals compare` sets beside it."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    is_causal: bool,
    scale: float | None,
    **others: Any,
) -> Tensor:
    """`F.scaled_dot_product_attention`, which has none of the others: a softcap and a window."""
    if mask is not None:
        bias = torch.zeros((), dtype=q.dtype) if bias is None else bias
        bias = torch.where(mask, bias, -torch.inf)
    return F.scaled_dot_product_attention(q, k, v, bias, is_causal=is_causal, scale=scale, enable_gqa=True)


OWN: dict[str, tuple[str, Callable[..., Any]]] = {
    "relu": ("F.relu", lambda x: F.relu(x)),
    "relu_bits": ("F.relu", lambda x: F.relu(x)),
    "sigmoid": ("torch.sigmoid", lambda x: torch.sigmoid(x)),
    "tanh": ("torch.tanh", lambda x: torch.tanh(x)),
    "silu": ("F.silu", lambda x: F.silu(x)),
    "gelu": ("F.gelu", lambda x, approximate: F.gelu(x, approximate=approximate)),
    "swiglu": ("F.silu(gate)*up", lambda gate, up: F.silu(gate) * up),
    "geglu": ("F.gelu(gate)*up", lambda gate, up, approximate: F.gelu(gate, approximate=approximate) * up),
    "softmax": ("torch.softmax", lambda x, axis: torch.softmax(x, axis)),
    "dropout": (
        "F.dropout",
        lambda x, rate, broadcast, key=None: F.dropout(x, rate),
    ),  # a key is not passed on: F.dropout draws a mask of its own
    "dropout_remat": ("F.dropout", lambda x, rate, broadcast, key=None: F.dropout(x, rate)),
    "layer_norm": (
        "F.layer_norm",
        lambda x, weight=None, bias=None, *, axis=-1, eps: F.layer_norm(x, x.shape[-1:], weight, bias, eps),
    ),
    "rms_norm": (
        "F.rms_norm",
        lambda x, weight=None, *, axis=-1, offset=0.0, eps: F.rms_norm(x, x.shape[-1:], weight, eps),
    ),
    "group_norm": (
        "F.group_norm",
        lambda x, weight=None, bias=None, *, num_groups, axis, eps: F.group_norm(x, num_groups, weight, bias, eps),
    ),
    "attention": ("F.scaled_dot_product_attention", _sdpa),
    "flash_attention": ("F.scaled_dot_product_attention", _sdpa),
    "cross_entropy": (
        "F.cross_entropy",
        lambda logits, labels, **options: _cross_entropy(logits, labels, **options),
    ),
    "linear_cross_entropy": (
        "F.cross_entropy(F.linear)",
        lambda x, weight, labels, bias=None, class_weight=None, *, chunk, **options: _cross_entropy(
            F.linear(x, weight, bias), labels, class_weight, **options
        ),
    ),
    "batch_norm": (  # it writes into the running statistics that it is given
        "F.batch_norm",
        lambda x, weight=None, bias=None, running_mean=None, running_var=None, *, training, momentum, eps: F.batch_norm(
            x, running_mean, running_var, _wide(weight, x), _wide(bias, x), training, momentum, eps
        ),
    ),
}


def _wide(a: Tensor | None, x: Tensor) -> Tensor | None:
    """A weight or bias as F.batch_norm wants it beside a narrow x on a CPU: in float32, like its statistics."""
    return None if a is None else a.to(torch.promote_types(x.dtype, torch.float32))


def _cross_entropy(
    logits: Tensor, labels: Tensor, weight: Tensor | None = None, *, z_loss: float, axis: int = -1, **options: Any
) -> Tensor:
    """F.cross_entropy, which wants rows of one axis, and labels of 64 bits; it has no z-loss."""
    logits = logits.movedim(axis, -1)
    rows, shape = logits.reshape(-1, logits.shape[-1]), logits.shape[:-1]
    given = labels.movedim(axis, -1).reshape(rows.shape) if labels.is_floating_point() else labels.reshape(-1).long()
    weight = None if weight is None else weight.to(logits.dtype)
    loss = F.cross_entropy(rows, given, weight, **options)
    return loss.reshape(shape) if options["reduction"] == "none" else loss

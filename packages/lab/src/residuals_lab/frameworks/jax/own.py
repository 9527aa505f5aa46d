"""JAX's own op for an op of ours, where it has one: what `residuals compare` sets beside it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def _sdpa(
    q: Any, k: Any, v: Any, bias: Any = None, mask: Any = None, *, is_causal: bool, scale: float | None, **others: Any
) -> Any:
    """`jax.nn.dot_product_attention`, which has none of the others: a softcap and a window."""
    q, k, v = (jnp.swapaxes(a, -2, -3) for a in (q, k, v))
    y = jax.nn.dot_product_attention(q, k, v, bias, mask, is_causal=is_causal, scale=scale)
    return jnp.swapaxes(y, -2, -3)


OWN: dict[str, tuple[str, Callable[..., Any]]] = {
    "relu": ("jax.nn.relu", lambda x: jax.nn.relu(x)),
    "relu_bits": ("jax.nn.relu", lambda x: jax.nn.relu(x)),
    "sigmoid": ("jax.nn.sigmoid", lambda x: jax.nn.sigmoid(x)),
    "tanh": ("jnp.tanh", lambda x: jnp.tanh(x)),
    "silu": ("jax.nn.silu", lambda x: jax.nn.silu(x)),
    "gelu": ("jax.nn.gelu", lambda x, approximate: jax.nn.gelu(x, approximate=approximate == "tanh")),
    "swiglu": ("jax.nn.silu(gate)*up", lambda gate, up: jax.nn.silu(gate) * up),
    "geglu": (
        "jax.nn.gelu(gate)*up",
        lambda gate, up, approximate: jax.nn.gelu(gate, approximate=approximate == "tanh") * up,
    ),
    "softmax": ("jax.nn.softmax", lambda x, axis: jax.nn.softmax(x, axis=axis)),
    "attention": ("jax.nn.dot_product_attention", _sdpa),
    "flash_attention": ("jax.nn.dot_product_attention", _sdpa),
    "layer_norm": (
        "jax.nn.standardize(x)*weight+bias",
        lambda x, weight=1.0, bias=0.0, *, axis=-1, eps: jax.nn.standardize(x, epsilon=eps) * weight + bias,
    ),
}

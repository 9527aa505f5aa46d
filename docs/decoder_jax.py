"""A decoder of four layers in JAX, as it is often written, and with up to four of its parts replaced."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import residuals_jax

LAYERS, WIDTH, HEADS, HIDDEN, CLASSES = 4, 1024, 16, 4096, 32000


def params() -> dict[str, Any]:
    """Zeros in the shapes of the parameters: an audit looks at no numbers."""
    shapes = {
        "norm1": (WIDTH,), "qkv": (WIDTH, 3 * WIDTH), "out": (WIDTH, WIDTH),
        "norm2": (WIDTH,), "up": (WIDTH, 2 * HIDDEN), "down": (HIDDEN, WIDTH),
    }  # fmt: skip
    layers = [{name: jnp.zeros(shape, jnp.bfloat16) for name, shape in shapes.items()} for _ in range(LAYERS)]
    tables = {"embedding": jnp.zeros((CLASSES, WIDTH), jnp.bfloat16), "head": jnp.zeros((CLASSES, WIDTH), jnp.bfloat16)}
    return {"layers": layers, "norm": jnp.ones(WIDTH, jnp.bfloat16), **tables}


def rms_norm(x: Array, weight: Array) -> Array:
    wide = x.astype(jnp.float32)
    rstd = jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + 1e-6)
    return weight * (wide * rstd).astype(x.dtype)


def attend(q: Array, k: Array, v: Array) -> Array:
    scores = (q @ k.mT * q.shape[-1] ** -0.5).astype(jnp.float32)
    mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    return jax.nn.softmax(jnp.where(mask, scores, -jnp.inf)).astype(v.dtype) @ v


def lean_attend(q: Array, k: Array, v: Array) -> Array:
    return residuals_jax.flash_attention(q, k, v, is_causal=True)


def gate(a: Array, b: Array) -> Array:
    return jax.nn.silu(a) * b


def cross_entropy(x: Array, head: Array, labels: Array) -> Array:
    logits = (x @ head.T).astype(jnp.float32)
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)
    return -jnp.mean(picked)


def layer(p: dict[str, Array], x: Array, norm: Callable[..., Any], attend: Callable[..., Any], gate: Any) -> Array:
    q, k, v = (heads(a) for a in jnp.split(norm(x, p["norm1"]) @ p["qkv"], 3, axis=-1))
    x = x + jnp.swapaxes(attend(q, k, v), -2, -3).reshape(x.shape) @ p["out"]
    return x + gate(*jnp.split(norm(x, p["norm2"]) @ p["up"], 2, axis=-1)) @ p["down"]


def heads(a: Array) -> Array:
    return jnp.swapaxes(a.reshape(*a.shape[:-1], HEADS, -1), -2, -3)


PARTS = ("attention", "loss", "norm", "gate")


def decoder(*lean: str) -> Callable[..., Array]:
    """The loss as a function of parameters, tokens and labels, with these parts replaced."""
    norm = residuals_jax.rms_norm if "norm" in lean else rms_norm
    loss = residuals_jax.linear_cross_entropy if "loss" in lean else cross_entropy
    attention = lean_attend if "attention" in lean else attend
    gated = residuals_jax.swiglu if "gate" in lean else gate

    def decode(params: dict[str, Any], tokens: Array, labels: Array) -> Array:
        x = params["embedding"][tokens]
        for p in params["layers"]:
            x = layer(p, x, norm, attention, gated)
        return loss(norm(x, params["norm"]), params["head"], labels)

    return decode


usual, lean = decoder(), decoder(*PARTS)

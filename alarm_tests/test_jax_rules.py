"""Right rules in JAX are left alone: those that its documentation teaches, written anew, and unusual ones."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alarms import ALL, passes, right

KEY = np.array([1, 2], np.uint32)


@jax.custom_vjp
def sin_times(x: Any, y: Any) -> Any:
    return jnp.sin(x) * y


sin_times.defvjp(
    lambda x, y: (sin_times(x, y), (jnp.cos(x), jnp.sin(x), y)), lambda kept, g: (kept[0] * g * kept[2], kept[1] * g)
)


@jax.custom_vjp
def log1pexp(x: Any) -> Any:
    return jnp.logaddexp(x, 0.0)


log1pexp.defvjp(lambda x: (log1pexp(x), x), lambda x, g: (g * jax.nn.sigmoid(x),))


@jax.custom_jvp
def log1pexp_forward(x: Any) -> Any:
    return jnp.logaddexp(x, 0.0)


@log1pexp_forward.defjvp
def _(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    return log1pexp_forward(x), (1 - 1 / (1 + jnp.exp(x))) * dx


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def clip_gradient(low: float, high: float, x: Any) -> Any:
    return x


clip_gradient.defvjp(lambda low, high, x: (x, None), lambda low, high, _, g: (jnp.clip(g, low, high),))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def fixed_point(f: Any, a: Any, guess: Any) -> Any:
    return jax.lax.fori_loop(0, 100, lambda _, x: f(a, x), guess)


def fixed_point_fwd(f: Any, a: Any, guess: Any) -> Any:
    x = fixed_point(f, a, guess)
    return x, (a, x)


def fixed_point_bwd(f: Any, kept: Any, g: Any) -> Any:
    a, x = kept
    _, pull_a = jax.vjp(lambda a: f(a, x), a)
    _, pull_x = jax.vjp(lambda x: f(a, x), x)
    u = fixed_point(lambda g, u: g + pull_x(u)[0], g, g)
    return (*pull_a(u), jnp.zeros_like(x))


fixed_point.defvjp(fixed_point_fwd, fixed_point_bwd)


@jax.custom_vjp
def exp(x: Any) -> Any:
    return jnp.exp(x)


def exp_fwd(x: Any) -> Any:
    y = jnp.exp(x)
    return y, y


exp.defvjp(exp_fwd, lambda y, g: (g * y,))


@jax.custom_vjp
def relu_bits(x: Any) -> Any:
    return jnp.maximum(x, 0)


relu_bits.defvjp(
    lambda x: (relu_bits(x), jnp.packbits(x > 0, axis=-1)),
    lambda bits, g: (g * jnp.unpackbits(bits, axis=-1, count=g.shape[-1]) if g.size else g,),
)


@jax.custom_vjp
def rms_norm(x: Any, weight: Any) -> Any:
    return rms_norm_fwd(x, weight)[0]


def wide(x: Any) -> Any:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def rms_norm_fwd(x: Any, weight: Any) -> Any:
    rstd = jax.lax.rsqrt(jnp.mean(jnp.square(wide(x)), -1, keepdims=True) + 1e-6)
    return (wide(x) * rstd).astype(x.dtype) * weight, (x, weight, rstd)


def rms_norm_bwd(kept: Any, g: Any) -> Any:
    x, weight, rstd = kept
    normed, scaled = wide(x) * rstd, wide(g) * wide(weight)
    dx = rstd * (scaled - normed * jnp.mean(scaled * normed, -1, keepdims=True))
    dweight = jnp.sum(wide(g) * normed, tuple(range(g.ndim - 1)))
    return dx.astype(x.dtype), dweight.astype(weight.dtype)


rms_norm.defvjp(rms_norm_fwd, rms_norm_bwd)


@jax.custom_vjp
def rms_norm_in_float32(x: Any, weight: Any) -> Any:
    """In float32 whatever x is, and multiplied by a weight that is not."""
    return rms_norm_in_float32_fwd(x, weight)[0]


def rms_norm_in_float32_fwd(x: Any, weight: Any) -> Any:
    narrow = x.astype(jnp.float32)
    rstd = jax.lax.rsqrt(jnp.mean(narrow * narrow, -1, keepdims=True) + 1e-6)
    return (narrow * rstd * weight).astype(x.dtype), (x, weight, rstd)


def rms_norm_in_float32_bwd(kept: Any, g: Any) -> Any:
    x, weight, rstd = kept
    g, normed = g.astype(jnp.float32), x.astype(jnp.float32) * rstd
    scaled = weight * g
    dx = rstd * (scaled - normed * jnp.mean(normed * scaled, -1, keepdims=True))
    return dx.astype(x.dtype), jnp.sum(g * normed, tuple(range(g.ndim - 1))).astype(weight.dtype)


rms_norm_in_float32.defvjp(rms_norm_in_float32_fwd, rms_norm_in_float32_bwd)


@jax.custom_vjp
def rounded(x: Any) -> Any:
    return jnp.round(x)


rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def dropout(x: Any, rate: float, key: Any) -> Any:
    return dropout_fwd(x, rate, key)[0]


def dropout_fwd(x: Any, rate: float, key: Any) -> Any:
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0), key


def dropout_bwd(rate: float, key: Any, g: Any) -> Any:
    return dropout_fwd(g, rate, key)[0], np.zeros(np.shape(key), jax.dtypes.float0)


dropout.defvjp(dropout_fwd, dropout_bwd)


@jax.custom_vjp
def both(x: Any, y: Any) -> Any:
    return jnp.sin(x) * y, jnp.cos(x)


def both_fwd(x: Any, y: Any) -> Any:
    return both(x.value, y.value), (x.value, y.value)


def both_bwd(kept: Any, gs: Any) -> Any:
    x, y = kept
    zero = jax.custom_derivatives.SymbolicZero
    one, two = ((jnp.zeros(x.shape, x.dtype) if isinstance(g, zero) else g) for g in gs)
    return one * jnp.cos(x) * y - two * jnp.sin(x), one * jnp.sin(x)


both.defvjp(both_fwd, both_bwd, symbolic_zeros=True)


@jax.custom_vjp
def square(z: Any) -> Any:
    return z * z


square.defvjp(lambda z: (z * z, z), lambda z, g: (2 * z * g,))


@jax.custom_vjp
def take(weight: Any, ids: Any) -> Any:
    return weight[ids]


take.defvjp(
    lambda weight, ids: (weight[ids], (weight, ids)),
    lambda kept, g: (jnp.zeros_like(kept[0]).at[kept[1]].add(g), np.zeros(kept[1].shape, jax.dtypes.float0)),
)


@jax.custom_vjp
def silu(x: Any) -> Any:
    return x * jax.nn.sigmoid(x)


def silu_bwd(x: Any, g: Any) -> Any:
    s = jax.nn.sigmoid(x)
    return (g * s * (1 + x * (1 - s)),)


silu.defvjp(lambda x: (silu(x), x), silu_bwd)


@jax.custom_vjp
def remat(x: Any, y: Any) -> Any:
    return jnp.cumsum(jnp.tanh(x * y), -1)


remat.defvjp(
    lambda x, y: (remat(x, y), (x, y)),
    lambda kept, g: jax.vjp(lambda x, y: jnp.cumsum(jnp.tanh(x * y), -1), *kept)[1](g),
)


@jax.custom_vjp
def affine(tree: Any, x: Any) -> Any:
    return {"y": x @ tree["w"] + tree["b"]}


def affine_bwd(kept: Any, g: Any) -> Any:
    (w, x), dy = kept, g["y"]
    outer, axes = jnp.einsum("...i,...j->ij", x, dy), tuple(range(dy.ndim - 1))
    return {"w": outer, "b": dy.sum(axes)}, dy @ w.T


affine.defvjp(lambda tree, x: (affine(tree, x), (tree["w"], x)), affine_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def top(x: Any, k: int) -> Any:
    values, at = jax.lax.top_k(x, k)
    return values, at


def top_fwd(x: Any, k: int) -> Any:
    values, at = jax.lax.top_k(x, k)
    return (values, at), (at, jnp.zeros((x.shape[-1], 0), x.dtype))


def top_bwd(k: int, kept: Any, gs: Any) -> Any:
    at, like = kept
    return ((gs[0][..., None] * jax.nn.one_hot(at, len(like), dtype=like.dtype)).sum(-2),)


top.defvjp(top_fwd, top_bwd)

RULES = {
    "sin_times": right(sin_times, (4, 6), (4, 6)),
    "log1pexp": right(log1pexp),
    "log1pexp_jvp": right(log1pexp_forward),
    "clip_gradient": right(
        lambda x: clip_gradient(-0.1, 0.1, x), vjp_reference=lambda args, g: (jnp.clip(g, -0.1, 0.1),)
    ),
    "fixed_point": right(lambda x: fixed_point(lambda a, x: jnp.cos(0.3 * jnp.tanh(a) * x), x, jnp.ones_like(x))),
    "exp": right(exp),
    "relu_bits": right(relu_bits),
    "rms_norm": right(rms_norm, (4, 6), (6,)),
    "rms_norm_reference": right(
        rms_norm,
        (4, 6),
        (6,),
        reference=lambda x, w: (
            (wide(x) / jnp.sqrt(jnp.mean(wide(x) ** 2, -1, keepdims=True) + 1e-6)).astype(x.dtype) * w
        ),
    ),
    "rms_norm_in_float32": right(rms_norm_in_float32, (4, 6), (6,)),
    "straight_through": right(rounded, vjp_reference=lambda args, g: (g,)),
    "dropout": right(lambda x: dropout(x, 0.3, KEY)),
    "dropout_key": right(lambda x: dropout(x, 0.3, jax.random.key(0))),
    "symbolic_zeros": right(both, (4, 6), (4, 6)),
    "symbolic_zeros_one": right(lambda x, y: both(x, y)[1] + 0 * y, (4, 6), (4, 6)),
    "square": right(square),
    "complex": right(lambda x, y: square(x + 1j * y), (5,), (5,)),
    "take": right(lambda w: take(w, jnp.array([[0, 2], [2, 1]])), (4, 3)),
    "silu": right(silu),
    "silu_0d": right(silu, ()),
    "silu_1d": right(silu, (1,)),
    "silu_numpy": right(silu, reference=lambda x: x / (1 + np.exp(-x))),
    "remat": right(remat, (4, 6), (4, 6)),
    "checkpoint": right(jax.checkpoint(lambda x: jnp.tanh(jnp.sin(x)))),
    "tree": right(lambda w, b, x: affine({"w": w, "b": b}, x), (6, 3), (3,), (4, 6)),
    "tied": right(lambda x: affine({"w": x, "b": x[0]}, x), (5, 5)),
    "top": right(lambda x: top(x, 2)),
    "composed": right(lambda x, w: rms_norm(silu(x), w).sum(-1), (4, 6), (6,)),
    "residual": right(lambda x: x + exp(jnp.sin(x))),
    "scan": right(lambda x: jax.lax.scan(lambda c, row: (silu(c + row), exp(c)), jnp.zeros_like(x[0]), x)),
    "cond": right(lambda x: jax.lax.cond(x[0, 0] > 0, silu, exp, x)),
    "jitted": right(jax.jit(rms_norm), (4, 6), (6,)),
    "vmapped": right(jax.vmap(rms_norm, (0, None)), (4, 6), (6,)),
    "numpy_result": right(lambda x: (silu(x), np.ones(3), 3)),
}


@pytest.mark.parametrize("name", RULES)
@ALL
def test_a_right_rule_is_left_alone(name: str, dtype: str, seed: int) -> None:
    passes("jax", RULES[name], dtype, seed)

"""JAX's own edges: weak types and Python numbers, debug flags, and where a float32 kernel loses what it need not."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import residuals_jax as R
from residuals_lab import frameworks
from residuals_lab.ops.tolerance import ULP

NARROW = ["bfloat16", "float16"]
UNARY: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "relu": (R.relu, jax.nn.relu),
    "relu_bits": (R.relu_bits, jax.nn.relu),
    "sigmoid": (R.sigmoid, jax.nn.sigmoid),
    "tanh": (R.tanh, jnp.tanh),
    "silu": (R.silu, jax.nn.silu),
    "gelu": (R.gelu, lambda x: jax.nn.gelu(x, approximate=False)),
    "swiglu": (lambda x: R.swiglu(x, x), lambda x: jax.nn.silu(x) * x),
    "geglu": (lambda x: R.geglu(x, x), lambda x: jax.nn.gelu(x, approximate=False) * x),
    "softmax": (R.softmax, jax.nn.softmax),
    "scaled": (lambda x: R.scaled(x, 2.0), lambda x: x * 2.0),
    "dropout": (lambda x: R.dropout(x, 0.5, jax.random.key(0)), lambda x: x * 2.0),
    "layer_norm": (R.layer_norm, jax.nn.standardize),
}


@pytest.mark.parametrize("op", UNARY)
def test_a_weak_type_stays_weak(op: str) -> None:
    """Wherever the framework's own does: otherwise a later product with bfloat16 is float32. So does the gradient."""
    x = jnp.full((3,), 1.5)
    assert x.weak_type
    ours, theirs = UNARY[op]
    for fn in (ours, jax.jit(ours)):
        assert fn(x).weak_type >= theirs(x).weak_type
        assert jax.grad(lambda x, fn=fn: fn(x).sum())(x).weak_type >= theirs(x).weak_type


@pytest.mark.parametrize("dtype", [*NARROW, "float32"])
@pytest.mark.parametrize("number", [0.1, 3, -257, 1e5, 1e-8])
def test_a_python_number_keeps_the_dtype_and_is_not_rounded_to_it(dtype: str, number: float) -> None:
    x = jnp.asarray([0.5, -0.6, 2.0**-10, 0.1], dtype)
    expected = jnp.asarray(np.asarray(x, "float64") * number, dtype)
    with jax.numpy_dtype_promotion("strict"):
        for fn in (R.scaled, jax.jit(R.scaled), jax.jit(lambda x, number: R.scaled(x, number), static_argnums=1)):
            y = fn(x, number)
            assert y.dtype == dtype
            np.testing.assert_allclose(*(np.asarray(a, "float64") for a in (y, expected)), rtol=ULP[dtype])
        assert jax.grad(lambda x: R.scaled(x, number).sum())(x).dtype == dtype


@pytest.mark.parametrize("op", ["gelu", "geglu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_left_tail_of_the_normal_distribution(op: str, dtype: str) -> None:
    """Of the value and of the gradient, where 1 + erf is all rounding."""
    x = jnp.asarray([-3.0, -4.0, -5.0, -6.0, -8.0, -12.0], dtype)
    fn = R.gelu if op == "gelu" else lambda x: R.geglu(x, jnp.ones_like(x))
    phi = np.array([0.5 * math.erfc(-a / math.sqrt(2)) for a in np.asarray(x, "float64")])
    wide = np.asarray(x, "float64")
    slope = phi + wide * np.exp(-wide * wide / 2) / math.sqrt(2 * math.pi)
    y, (dx,) = frameworks.load("jax").value_and_vjp(fn, [x], jnp.ones_like(x))
    np.testing.assert_allclose(np.asarray(y, "float64"), wide * phi, rtol=ULP[dtype] + 1e-5)
    np.testing.assert_allclose(np.asarray(dx, "float64"), slope, rtol=ULP[dtype] + 1e-5)


ATTENTIONS: dict[str, Callable[..., Any]] = {
    "attention": R.attention,
    "flash_attention": R.flash_attention,
    "qk_norm_attention": lambda *qkv, **options: R.qk_norm_attention(*qkv, scale=2.0, **options),
}
each_attention = pytest.mark.parametrize("op", ATTENTIONS)


def draw(*shapes: tuple[int, ...]) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), "float32") for shape in shapes]


@pytest.mark.parametrize("op", ["attention", "flash_attention"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [1e9, 1e12])
def test_huge_scores_under_jit(op: str, dtype: str, size: float) -> None:
    """XLA would fuse a scale of the scores with the subtraction of their maximum, and the largest got above 0."""
    q, k, v = draw((2, 64, 32), (2, 80, 32), (2, 80, 32))
    given = [a.astype(dtype) for a in (q * size, k, v)]
    y, gradients = jax.jit(jax.value_and_grad(lambda *qkv: ATTENTIONS[op](*qkv).sum(), (0, 1, 2)))(*given)
    assert all(np.isfinite(np.asarray(a, "float32")).all() for a in (y, *gradients))


@each_attention
@pytest.mark.parametrize("queries", [5, 300])
def test_hidden_keys_are_no_infinity_to_debug_infs(op: str, queries: int) -> None:
    """Nor a NaN, in the value and the gradients of eager calls, with fewer key heads too."""
    qkv = draw((2, queries, 4), (1, queries, 4), (1, queries, 4))
    mask = jnp.arange(queries) != 1
    with jax.debug_infs(True), jax.debug_nans(True):
        jax.block_until_ready(
            jax.value_and_grad(lambda *qkv: ATTENTIONS[op](*qkv, mask=mask, is_causal=True).sum(), (0, 1, 2))(*qkv)
        )

"""JAX's own edges: weak types and Python numbers, debug flags, and where a float32 kernel loses what it need not."""

import importlib
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
    mask = (jnp.arange(queries) != 1) & (jnp.arange(queries) != 2)[:, None]  # no key for one query
    with jax.debug_infs(True), jax.debug_nans(True):
        jax.block_until_ready(
            jax.value_and_grad(lambda *qkv: ATTENTIONS[op](*qkv, mask=mask, is_causal=True).sum(), (0, 1, 2))(*qkv)
        )


@pytest.mark.parametrize("op", [R.dropout, R.dropout_remat])
@pytest.mark.parametrize("kind", ["rbg", "unsafe_rbg"])
def test_keys_of_every_kind(op: Callable[..., Any], kind: str) -> None:
    """The mask is that of `jax.random.bernoulli`, in the gradient too; an untyped key is one of the default kind."""
    x, key = jnp.ones((64, 5)), jax.random.key(3, impl=kind)
    kept = 2.0 * jax.random.bernoulli(key, 0.5, x.shape)
    for fn in (op, jax.jit(op, static_argnums=1)):
        np.testing.assert_array_equal(fn(x, 0.5, key), kept)
        np.testing.assert_array_equal(jax.grad(lambda x, fn=fn: fn(x, 0.5, key).sum())(x), kept)
    with jax.default_prng_impl(kind):
        np.testing.assert_array_equal(op(x, 0.5, jax.random.PRNGKey(3)), kept)


@pytest.mark.parametrize("kind", ["rbg", "threefry2x32"])
def test_weights_are_dropped_by_keys_of_every_kind(kind: str) -> None:
    """As the op `dropout` drops them; v is the identity, so that y is the weights."""
    q, k, v, key = *draw((2, 64, 4), (2, 9, 4)), jnp.eye(9)[None].repeat(2, 0), jax.random.key(3, impl=kind)
    np.testing.assert_array_equal(
        R.attention(q, k, v, dropout=0.25, key=key), R.dropout(R.attention(q, k, v), 0.25, key)
    )
    with pytest.raises(TypeError, match=r"^key: expected two uint32 or a jax.random.key, got NoneType$"):
        R.attention(q, k, v, dropout=0.25)


@pytest.mark.parametrize("op", [R.dropout, R.dropout_remat])
def test_no_key_where_nothing_is_drawn(op: Callable[..., Any]) -> None:
    x = jnp.ones((4, 5))
    for rate in (0.0, 1.0):
        y, dx = jax.value_and_grad(lambda x, rate=rate: op(x, rate, None).sum())(x)
        assert y == dx.sum() == (1 - rate) * x.size
    with pytest.raises(TypeError, match=r"^key: expected two uint32 or a jax.random.key, got NoneType$"):
        op(x, 0.5, None)


X = np.random.default_rng(5).standard_normal((6, 4, 5)).astype("float32")


def updated_statistics(x: Any, momentum: Any) -> jax.Array:
    old = {"running_mean": jnp.ones(4, x.dtype), "running_var": jnp.full(4, 2, x.dtype)}
    return jnp.stack(R.batch_norm(x, momentum=momentum, training=True, **old)[1:])


TRACED: dict[str, tuple[Callable[..., Any], float]] = {
    "layer_norm eps": (lambda x, number: R.layer_norm(x, eps=number), 0.3),
    "rms_norm eps": (lambda x, number: R.rms_norm(x, eps=number), 0.3),
    "group_norm eps": (lambda x, number: R.group_norm(x, 2, eps=number), 0.3),
    "batch_norm eps": (lambda x, number: R.batch_norm(x, training=True, eps=number)[0], 0.3),
    "batch_norm momentum": (updated_statistics, 0.3),
    "dropout rate": (lambda x, number: R.dropout(x, number, jax.random.key(0)), 0.3),
    "dropout rate 0": (lambda x, number: R.dropout(x, number, jax.random.key(0)), 0.0),
    "dropout rate 1": (lambda x, number: R.dropout(x, number, jax.random.key(0)), 1.0),
    "dropout_remat rate": (lambda x, number: R.dropout_remat(x, number, jax.random.key(0)), 0.3),
    "attention dropout": (lambda x, number: R.attention(x, x, x, dropout=number, key=jax.random.key(0)), 0.3),
    "attention dropout 0": (lambda x, number: R.attention(x, x, x, dropout=number, key=jax.random.key(0)), 0.0),
    "attention scale": (lambda x, number: R.attention(x, x, x, scale=number), 0.3),
    "flash_attention scale": (lambda x, number: R.flash_attention(x, x, x, scale=number), 0.3),
}


@pytest.mark.parametrize("what", TRACED)
def test_a_number_may_be_traced(what: str) -> None:
    """It is the same as the Python number, in the gradient too, and one compilation does for all."""
    fn, number = TRACED[what]
    traces = []

    @jax.jit
    def value_and_gradients(number: Any) -> Any:
        traces.append(number)
        y, pull = jax.vjp(lambda x, number: fn(x, number), X, number)
        return y, *pull(jnp.cos(y))

    y, dx, dnumber = value_and_gradients(number)
    value_and_gradients(number / 2)
    assert len(traces) == 1
    expected, pull = jax.vjp(lambda x: fn(x, number), X)
    for one, other in zip((y, dx), (expected, *pull(jnp.cos(expected))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    if "scale" in what:  # learned; the others are constants to the derivative
        step = 1e-2
        slope = (fn(X, number + step) - fn(X, number - step)) / (2 * step)
        np.testing.assert_allclose(dnumber, jnp.sum(jnp.cos(y) * slope), rtol=1e-2)
    else:
        assert dnumber == 0


@pytest.mark.parametrize("what", TRACED)
def test_a_traced_number_has_the_bits_of_float64(what: str) -> None:
    """In float64 it is the Python number, and nothing of it is promoted."""
    fn, number = TRACED[what]
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        x = jnp.asarray(X, "float64")
        y, pull = jax.vjp(lambda x: jax.jit(fn)(x, number), x)
        expected, expected_pull = jax.vjp(lambda x: fn(x, number), x)
        for one, other in ((y, expected), (pull(y)[0], expected_pull(y)[0])):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


SOFTCAPS: dict[str, tuple[Callable[..., Any], float]] = {
    f"{op} softcap": (lambda x, number, op=op: ATTENTIONS[op](x, x, x, softcap=number), 0.3)
    for op in ("attention", "flash_attention")
}


@pytest.mark.parametrize("what", TRACED | SOFTCAPS)
def test_a_number_may_be_an_array_of_numpy(what: str) -> None:
    fn, number = (TRACED | SOFTCAPS)[what]
    np.testing.assert_array_equal(fn(X, np.array(number)), fn(X, number))


def branches_of(queries: int) -> tuple[int, list[list[int]]]:
    """Of the gradient of a causal flash attention: the length of its program, and the sizes of the scores in the
    branches of each of its loops.
    """
    q = jax.ShapeDtypeStruct((queries, 4), "float32")
    jaxpr = jax.make_jaxpr(jax.grad(lambda q: R.flash_attention(q, q, q, is_causal=True).sum()))(q)
    loops = [eqn.params["jaxpr"].eqns for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
    switches = [eqn.params["branches"] for eqns in loops for eqn in eqns if eqn.primitive.name == "cond"]
    largest = [[max(v.aval.size for e in b.eqns for v in e.outvars) for b in branches] for branches in switches]
    return len(str(jaxpr).splitlines()), largest


def test_a_causal_block_looks_at_few_keys_that_it_does_not_attend() -> None:
    """Each branch serves as many blocks, so the mean of their scores is the share of the square that is computed."""
    block = importlib.import_module("residuals_jax.ops.flash_attention").BLOCK
    (short, of_short), (long, of_long) = branches_of(16 * block), branches_of(64 * block)
    assert short == long  # the program does not grow
    for blocks, switches in ((16, of_short), (64, of_long)):
        assert len(switches) == 2  # forward and backward
        for scores in switches:
            assert np.mean(scores) <= 0.6 * blocks * block * block

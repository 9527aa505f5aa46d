"""The audit on models that are not ours, in JAX: a transformer in Flax and one in Equinox, exact to the byte."""

import time
from collections.abc import Hashable
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from residuals_lab.audit import Audit, audit, parameter

IDS = jnp.arange(32).reshape(2, 16)


class FlaxBlock(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(x))
        return x + nn.Dense(64)(nn.gelu(nn.Dense(128)(nn.LayerNorm()(x))))


class FlaxModel(nn.Module):
    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        x = nn.Embed(256, 64)(ids)
        for _ in range(2):
            x = FlaxBlock()(x)
        return nn.Dense(256)(nn.LayerNorm()(x))


class EquinoxBlock(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    first: eqx.nn.LayerNorm
    second: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP

    def __init__(self, key: jax.Array) -> None:
        one, two = jax.random.split(key)
        self.attention = eqx.nn.MultiheadAttention(4, 64, key=one)
        self.first, self.second = eqx.nn.LayerNorm(64), eqx.nn.LayerNorm(64)
        self.mlp = eqx.nn.MLP(64, 64, 128, 1, activation=jax.nn.gelu, key=two)

    def __call__(self, x: jax.Array) -> jax.Array:
        h = jax.vmap(self.first)(x)
        x = x + self.attention(h, h, h)
        return x + jax.vmap(self.mlp)(jax.vmap(self.second)(x))


class EquinoxModel(eqx.Module):
    embedding: eqx.nn.Embedding
    blocks: list[EquinoxBlock]
    out: eqx.nn.Linear

    def __init__(self, key: jax.Array) -> None:
        a, b, c, d = jax.random.split(key, 4)
        self.embedding, self.out = eqx.nn.Embedding(256, 64, key=a), eqx.nn.Linear(64, 256, key=d)
        self.blocks = [EquinoxBlock(b), EquinoxBlock(c)]

    def __call__(self, ids: jax.Array) -> jax.Array:
        x = jax.vmap(self.embedding)(ids)
        for block in self.blocks:
            x = block(x)
        return jax.vmap(self.out)(x)


def scattered(tree: Any) -> Any:
    """The same parameters with noise, so that no two of them are equal."""
    rng = np.random.default_rng(0)

    def with_noise(a: Any) -> Any:
        return a + 0.1 * rng.standard_normal(a.shape).astype(a.dtype) if eqx.is_inexact_array(a) else a

    return jax.tree.map(with_noise, tree)


def held(fn: Any, params: Any, ids: jax.Array) -> int:
    """Bytes of the distinct arrays among the leaves of the `jax.vjp` result, beyond parameters, inputs and outputs.

    Arrays are told apart by what is in them, since run without a jit, `jnp.asarray` in a library copies a parameter;
    those that are one number throughout, as an activation's mask may be, by where they are. Single numbers, which a jit
    has as constants, are left out.
    """
    out, pull = jax.vjp(fn, params)

    def identity(a: jax.Array) -> Hashable:
        numbers = np.asarray(a)
        is_constant = numbers.min() == numbers.max()
        return (a.shape, numbers.tobytes()) if not is_constant else a.unsafe_buffer_pointer()

    alive = {identity(a) for a in jax.tree.leaves((params, ids, out)) if a.shape}
    kept = {identity(a): a.nbytes for a in jax.tree.leaves(pull) if a.shape}
    return sum(nbytes for key, nbytes in kept.items() if key not in alive)


def new_bytes(report: Audit) -> int:
    return sum({r.storage: r.storage_bytes for r in report.residuals if r.is_new and r.value.shape}.values())


def test_flax() -> None:
    model = FlaxModel()
    variables = scattered(model.init(jax.random.key(0), IDS))
    report = audit(model.apply, parameter(variables), IDS)
    assert new_bytes(report) == held(lambda v: model.apply(v, IDS), variables, IDS)
    assert any(r.module.startswith("FlaxModel/FlaxBlock_1") for r in report.residuals)


def test_equinox() -> None:
    model = scattered(EquinoxModel(jax.random.key(0)))
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    report = audit(model, IDS[0])
    assert new_bytes(report) == held(lambda p: eqx.combine(p, rest)(IDS[0]), params, IDS[0])
    assert {r.kind for r in report.residuals} >= {"parameter", "new"}


def test_eight_billion_parameters_unrolled_and_as_a_scan(capfd: pytest.CaptureFixture[str]) -> None:
    """The scan keeps less, since what no turn changes, such as a mask, is there once; and it has as many operations
    however many layers there are.

    Seconds are printed, since these are no matter of a test.
    """
    width, hidden, tokens, heads, kv_heads, vocabulary = 4096, 14336, 8192, 32, 8, 128256
    layer_shapes = {
        **{"norm1": (width,), "q": (width, width), "k": (width, width // 4), "v": (width, width // 4)},
        **{"out": (width, width), "norm2": (width,), "gate": (width, hidden), "up": (width, hidden)},
        "down": (hidden, width),
    }

    def rms_norm(x: jax.Array, weight: jax.Array) -> jax.Array:
        wide = x.astype("float32")
        return (wide * jax.lax.rsqrt((wide * wide).mean(-1, keepdims=True) + 1e-6)).astype(x.dtype) * weight

    def layer(x: jax.Array, p: dict[str, jax.Array]) -> jax.Array:
        h = rms_norm(x, p["norm1"])
        q, k, v = ((h @ p[name]).reshape(tokens, n, -1) for name, n in (("q", heads), ("k", kv_heads), ("v", kv_heads)))
        x = x + jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(tokens, width) @ p["out"]
        h = rms_norm(x, p["norm2"])
        return x + (jax.nn.silu(h @ p["gate"]) * (h @ p["up"])) @ p["down"]

    def unrolled(layers: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
        for p in layers:
            x = layer(x, p)
        return x

    def scanned(layers: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, p: (layer(x, p), None), x, layers)[0]

    def model(body: Any) -> Any:
        def loss(params: dict[str, Any], ids: jax.Array) -> jax.Array:
            logits = body(params["layers"], params["embedding"][ids]) @ params["embedding"].T
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), ids[:, None], 1).mean()

        return loss

    def shapes(*lead: int) -> dict[str, Any]:
        return {name: jax.ShapeDtypeStruct((*lead, *shape), "bfloat16") for name, shape in layer_shapes.items()}

    ids = jax.ShapeDtypeStruct((tokens,), "int32")
    embedding = jax.ShapeDtypeStruct((vocabulary, width), "bfloat16")
    steps = set()
    for n in (4, 8, 16, 32):
        reports = {}
        for how, body, layers in (("unrolled", unrolled, [shapes() for _ in range(n)]), ("scan", scanned, shapes(n))):
            start = time.perf_counter()
            report = audit(model(body), parameter({"layers": layers, "embedding": embedding}), ids)
            _ = report.findings, report.repeats
            ops = {a.op for a in report.advice}
            seconds, reports[how] = time.perf_counter() - start, report
            with capfd.disabled():
                print(f"\n{n} layers, {how}: {len(report.trace.steps)} operations, {seconds:.2f} s, ", end="")
                print(f"{report.new_bytes / 2**30:.1f} GiB new", end="")
            assert ops >= {"flash_attention", "linear_cross_entropy", "swiglu"}
        assert reports["scan"].new_bytes < reports["unrolled"].new_bytes
        steps.add(len(reports["scan"].trace.steps))
    assert len(steps) == 1

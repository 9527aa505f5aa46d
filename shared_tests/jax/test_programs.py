"""The bytes that an audit says are new, in programs of many kinds, against the arrays that a pullback really holds."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from residuals_lab.audit import audit
from residuals_lab.frameworks.jax.walk import address

X, W = jax.random.normal(jax.random.key(0), (8, 16)), jax.random.normal(jax.random.key(1), (16, 16))
KEY, OLD_KEY = jax.random.key(2), jax.random.PRNGKey(2)
POLICIES = jax.checkpoint_policies


def is_inexact(a: Any) -> bool:
    return hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jnp.inexact)


def held(fn: Callable[..., Any], args: Sequence[Any]) -> int:
    """Bytes of the distinct buffers in what `jax.vjp` gives, but for those of arguments, results and older arrays."""
    leaves, treedef = jax.tree.flatten([*args])
    places = [i for i, a in enumerate(leaves) if is_inexact(a)]

    def of_inexact(*some: Any) -> Any:
        given = dict(zip(places, some, strict=True))
        out = jax.tree.leaves(fn(*treedef.unflatten([given.get(i, a) for i, a in enumerate(leaves)])))
        out = [y if hasattr(y, "dtype") else jnp.asarray(y) for y in out]
        return [y for y in out if is_inexact(y)], [y for y in out if not is_inexact(y)]

    before = [*jax.live_arrays(), *(a for a in leaves if hasattr(a, "dtype"))]
    out, pull, others = jax.vjp(of_inexact, *(leaves[i] for i in places), has_aux=True)
    known = {address(a) for a in (*before, *out, *others)}
    return sum({address(a): a.nbytes for a in jax.tree.leaves(pull) if address(a) not in known}.values())


class Pair(NamedTuple):
    w: jax.Array
    b: jax.Array | None


def layer(pair: Pair, x: jax.Array) -> jax.Array:
    y = x @ pair.w
    return jnp.tanh(y if pair.b is None else y + pair.b).sum()


def dropped(x: jax.Array, key: jax.Array) -> jax.Array:
    return jnp.sin(x * jax.random.bernoulli(key, 0.5, x.shape)).sum()


def named(x: jax.Array) -> jax.Array:
    return jnp.sin(checkpoint_name(jnp.exp(x @ W), "grown")) @ W


def sharded(x: jax.Array, w: jax.Array) -> jax.Array:
    mesh, spec = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,)), jax.sharding.PartitionSpec
    inner = lambda x, w: lax.psum(jnp.tanh(x @ w).sum(), "i")  # noqa: E731
    return jax.shard_map(inner, mesh=mesh, in_specs=(spec("i"), spec()), out_specs=spec())(x, w)


@jax.custom_jvp
def softened(x: jax.Array) -> jax.Array:
    return jnp.log1p(jnp.exp(x))


softened.defjvp(lambda p, t: (softened(*p), t[0] * jax.nn.sigmoid(p[0])))


def scoped(x: jax.Array) -> jax.Array:
    with jax.named_scope("outer"):
        return jnp.sin(jnp.exp(x * 2)).sum()


def lstm(x: jax.Array, w: jax.Array) -> jax.Array:
    def step(state: Any, row: jax.Array) -> Any:
        i, f, g, o = jnp.split(jnp.tile(row, 1) @ w + jnp.tile(state["h"], 4), 4)
        c = state["c"] * jax.nn.sigmoid(f) + jax.nn.sigmoid(i) * jnp.tanh(g)
        return {"h": jax.nn.sigmoid(o) * jnp.tanh(c), "c": c}, None

    return lax.scan(step, {"h": jnp.zeros(4), "c": jnp.zeros(4)}, x)[0]["h"].sum()


def nested(x: jax.Array) -> jax.Array:
    inner = lambda c, r: lax.scan(lambda d, _: (jnp.sin(d * r) * 2, d), c, None, length=3)[0]  # noqa: E731
    return lax.scan(lambda c, r: (inner(c, r), None), jnp.ones(16), x)[0].sum()


def with_others(x: jax.Array) -> Any:
    h = jnp.tanh(x * 2)
    return h.sum(), {"h": h, "best": jnp.argmax(h, -1), "step": 3, "none": None}


def in_64_bits(x: jax.Array) -> jax.Array:
    return (jnp.sin(x.astype("float64") * 2) * jnp.arange(16)).sum()


PROGRAMS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "a static argument": (lambda x, how, n: (getattr(jnp, how)(x) ** n).sum(), (X, "tanh", 3)),
    "a jit with a static argument": (jax.jit(lambda x, n: (jnp.sin(x) ** n).sum(), static_argnums=1), (X, 3)),
    "a jit that is given its argument": (
        lambda x: jax.jit(lambda x: jnp.sin(jnp.exp(x)).sum(), donate_argnums=0)(x * 2),
        (X,),
    ),
    "a jit that is called twice": (
        partial(lambda leak, x: leak(leak(x)).sum(), jax.jit(lambda x: 0.2 * jnp.sin(x))),
        (X,),
    ),
    "a tree with None": (layer, (Pair(W, None), X)),
    "a tree with both": (layer, (Pair(W, jnp.ones(16)), X)),
    "a dict with words": (lambda p, x: getattr(jnp, p["act"])(x @ p["w"]).sum(), ({"w": W, "act": "sin"}, X)),
    "a partial with an array": (partial(lambda w, x: jnp.tanh(x @ w).sum(), W), (X,)),
    "a key": (dropped, (X, KEY)),
    "an old key": (dropped, (X, OLD_KEY)),
    "a checkpoint of products": (
        lambda x, w: jax.checkpoint(lambda x: jnp.sin(jnp.sin(x @ w) @ w), policy=POLICIES.dots_saveable)(x).sum(),
        (X, W),
    ),
    "a checkpoint of names": (
        lambda x: jax.checkpoint(named, policy=POLICIES.save_only_these_names("grown"))(x).sum(),
        (X,),
    ),
    "a jvp rule": (lambda x: softened(x * 2).sum(), (X,)),
    "a mesh of one device": (sharded, (X, W)),
    "results of integers and results that are kept": (with_others, (X,)),
    "a named scope": (scoped, (X,)),
    "a recurrent cell": (lstm, (X, W)),
    "a loop in a loop": (nested, (X,)),
    "branches, mapped": (lambda x: jax.vmap(lambda r: lax.cond(r[0] > 0, jnp.sin, jnp.cos, r))(x).sum(), (X,)),
    "an indexed loss": (
        lambda x, y: jnp.take_along_axis(jax.nn.log_softmax(x * 2), y[:, None], -1).sum(),
        (X, jnp.arange(8)),
    ),
    "a gradient inside": (lambda x: (jax.grad(lambda x: jnp.sin(x * 2).sum())(x) ** 2).sum(), (X,)),
    "an empty array": (lambda x: jnp.sin(x).sum(), (jnp.ones((0, 16)),)),
    "a function that is mapped": (jax.vmap(lambda r: jnp.sin(r).sum()), (X,)),
    "64 bits": (in_64_bits, (X,)),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_new_bytes_are_what_a_pullback_holds(program: str) -> None:
    fn, args = PROGRAMS[program]
    with jax.enable_x64(program == "64 bits"):
        expected = held(fn, args)
        for is_concrete in (False, True):
            report = audit(fn, *args, framework="jax", is_concrete=is_concrete)
            assert report.new_bytes == expected, is_concrete
            assert sum(f.nbytes for f in report.findings) <= expected

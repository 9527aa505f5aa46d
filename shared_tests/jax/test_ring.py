"""Attention to a sequence in parts, one a device, under `shard_map` with its default settings.

The truth is `attention` to the whole sequence on one device. Parts are longer than a block, so that the loop over
blocks runs on every device.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from markdown import script
from residuals_jax import attention, flash_attention
from residuals_jax.ops.flash_attention import BLOCK
from residuals_lab.ops.tolerance import error

LIMIT = 1e-12
DEVICES = 8
PARTS = P(None, "seq", None)
WHOLE = P()
RING = script("ring_attention")
SEVERAL = BLOCK + 44  # queries of a device

Arrays = list[np.ndarray]


def make_mesh(kind: AxisType = AxisType.Explicit) -> Mesh:
    return jax.make_mesh((DEVICES,), ("seq",), axis_types=(kind,), devices=jax.devices("cpu"))


def draw(tokens: int, heads: int = 2, key_heads: int = 1) -> Arrays:
    """g, q, k and v of the whole sequence."""
    rng = np.random.default_rng(0)
    shapes = ((heads, 6), (heads, 4), (key_heads, 4), (key_heads, 6))
    return [rng.standard_normal((h, DEVICES * tokens, d)) for h, d in shapes]


def vjp(fn: Callable[..., Any], g: Any, *args: Any) -> Any:
    """The value and the gradients."""
    y, pull = jax.vjp(fn, *args)
    return y, *pull(g)


def assert_same(
    local: Callable[..., Any], whole: Callable[..., Any], arrays: Arrays, mesh: Mesh, specs: Sequence[P] = (PARTS,) * 3
) -> None:
    """`local` on every device's parts is `whole` on one device, in value and gradients."""
    with jax.enable_x64(True):
        truth = jax.jit(partial(vjp, whole))(*arrays)
        with jax.set_mesh(mesh):
            placed = [
                jax.device_put(a, NamedSharding(mesh, spec)) for a, spec in zip(arrays, (PARTS, *specs), strict=True)
            ]
            mapped = jax.shard_map(local, in_specs=tuple(specs), out_specs=PARTS)
            found = jax.jit(partial(vjp, mapped))(*placed)
        for one, true in zip(found, truth, strict=True):
            assert error(one, true) <= LIMIT


@pytest.mark.parametrize(
    ("name", "tokens", "is_causal", "kind"),
    [
        ("plain_ring", SEVERAL, False, AxisType.Explicit),
        ("plain_ring", 3, True, AxisType.Auto),
        ("ring_attention", SEVERAL, True, AxisType.Auto),
        ("ring_attention", 3, False, AxisType.Explicit),
        ("ring_attention", 3, True, AxisType.Explicit),
    ],
)
def test_ring(name: str, tokens: int, is_causal: bool, kind: AxisType) -> None:
    """As autodiff goes round the ring, and with the rule that keeps the device's own parts alone."""
    ring = getattr(RING, name)
    assert_same(
        lambda q, k, v: ring(q, k, v, "seq", is_causal),
        partial(attention, is_causal=is_causal),
        draw(tokens),
        make_mesh(kind),
    )


def test_ring_of_tokens_in_any_order() -> None:
    """Causal by a mask: the positions of the keys travel with them. Some queries attend no key of a part."""
    tokens = 3
    positions = np.random.default_rng(1).permutation(DEVICES * tokens)

    def local(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        mine = jax.lax.dynamic_slice_in_dim(jnp.asarray(positions), jax.lax.axis_index("seq") * tokens, tokens)

        def attended(k: jax.Array, v: jax.Array, theirs: jax.Array) -> Any:
            return flash_attention(q, k, v, mask=mine[:, None] >= theirs, return_logsumexp=True)

        def step(carry: Any, _: None) -> Any:
            keys, whole = carry
            keys = RING.send_on(keys, "seq")
            return (keys, RING.merge(jnp, whole, attended(*keys))), None

        keys = (k, v, mine)
        (_, (out, _)), _ = jax.lax.scan(step, (keys, attended(*keys)), length=DEVICES - 1)
        return out

    assert_same(local, partial(attention, mask=positions[:, None] >= positions), draw(tokens), make_mesh())


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=lambda kind: kind.name)
def test_all_keys_on_every_device(kind: AxisType) -> None:
    """Queries in parts, keys and values whole: their gradients are summed over the devices. Causal by a bias."""

    def local(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        first = jax.lax.axis_index("seq") * q.shape[-2]
        rows, keys = (jax.lax.broadcasted_iota(jnp.int32, (q.shape[-2], k.shape[-2]), axis) for axis in (0, 1))
        return flash_attention(q, k, v, bias=jnp.where(keys <= rows + first, 0.0, -jnp.inf))

    g, q, k, v = draw(SEVERAL)
    keys = 2 * BLOCK + 10
    arrays = [g, q, k[:, :keys], v[:, :keys]]
    assert_same(local, partial(attention, is_causal=True), arrays, make_mesh(kind), (PARTS, WHOLE, WHOLE))


@pytest.mark.parametrize("name", ["plain_ring", "ring_attention"])
def test_bytes_of_a_device(name: str) -> None:
    """What the trace says a device holds is what a device holds."""
    mesh, fn, tokens, features = make_mesh(), getattr(RING, name), 5, 4
    x = [np.float32(a) for a in np.random.default_rng(0).standard_normal((3, 1, DEVICES * tokens, features))]
    ring = jax.shard_map(lambda q, k, v: fn(q, k, v, "seq"), mesh=mesh, in_specs=PARTS, out_specs=PARTS)
    _, pull = jax.jit(lambda *a: jax.vjp(ring, *a))(*(jax.device_put(a, NamedSharding(mesh, PARTS)) for a in x))
    really = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(pull))
    assert RING.saved_by_each_device(fn, DEVICES, tokens, features) == really

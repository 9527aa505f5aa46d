"""What JAX asks of every op on a mesh: `shard_map` and jit with shardings, on Auto and on Explicit axes.

The truth is a loop over the devices' parts on one device, in NumPy. Losses give every output its own cotangent: a
wrong sum over devices hides behind a cotangent that is the same everywhere.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cases import Case, only
from residuals_jax._lib.cotangents import match
from residuals_lab import frameworks
from residuals_lab.ops import BY_NAME
from residuals_lab.ops.call import Call
from residuals_lab.ops.tolerance import FLOAT64_LIMIT, error

AXES = ("rows", "columns")  # two axes: a sum over only one of them is a mistake to find
PARTS = P(AXES)
WHOLE = P()
DEVICES = 8

Flags = tuple[bool, ...]  # for each array of a call, whether every device has a part of its own


@contextmanager
def mesh_of(kind: AxisType) -> Iterator[Mesh]:
    mesh = jax.make_mesh((DEVICES // 2, 2), AXES, axis_types=(kind,) * 2, devices=jax.devices("cpu"))
    with jax.set_mesh(mesh):
        yield mesh


@pytest.fixture(params=[AxisType.Auto, AxisType.Explicit], ids=lambda kind: kind.name)
def mesh(request: pytest.FixtureRequest) -> Iterator[Mesh]:
    with mesh_of(request.param) as mesh:
        yield mesh


def put(mesh: Mesh, arrays: Sequence[np.ndarray], specs: Sequence[P]) -> list[jax.Array]:
    return [jax.device_put(a, NamedSharding(mesh, spec)) for a, spec in zip(arrays, specs, strict=True)]


def specs(flags: Flags) -> tuple[P, ...]:
    return tuple(PARTS if has_parts else WHOLE for has_parts in flags)


def choices(case: Case) -> list[Flags]:
    """The first array in parts; for one sample of each op, also every other one, all but one, and all."""
    n = len(case.call.arrays)
    alone = [tuple(i == j for i in range(n)) for j in range(n)]
    but_one = [tuple(i != j for i in range(n)) for j in range(n)]
    found = [*alone, *but_one, (True,) * n] if case.first else alone[:1]
    return [flags for flags in dict.fromkeys(found) if any(flags)]


def parts(case: Case) -> list[np.ndarray]:
    """Each array of the call with a leading axis of one different part a device."""
    return [np.stack([a + i * case.noise(a.shape, i) for i in range(DEVICES)]) for a in case.call.arrays.values()]


def loop(case: Case, arrays: list[np.ndarray], flags: Flags, gs: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """One device after the other: the values, stacked, and the gradients, stacked or summed."""
    ys, gradients = [], []
    for i, g in enumerate(gs):
        mine = [a[i if has_parts else 0] for a, has_parts in zip(arrays, flags, strict=True)]
        call = replace(case.call, arrays=dict(zip(case.call.arrays, mine, strict=True)))
        ys.append(call.forward())
        gradients.append(call.vjp(g).values())
    stacks = [np.stack(d) for d in zip(*gradients, strict=True)]
    return np.stack(ys), [d if has_parts else d.sum(0) for d, has_parts in zip(stacks, flags, strict=True)]


def assert_close(found: Any, truth: Any) -> None:
    for one, true in zip(jax.tree.leaves(found), jax.tree.leaves(truth), strict=True):
        assert error(one, true) <= FLOAT64_LIMIT


def on_each_device(fn: Callable[..., Any], flags: Flags) -> Callable[..., Any]:
    """`fn` of a device's own parts, times its share: XLA cannot run a `shard_map` of nothing but empty arrays."""

    def local(share: jax.Array, *args: jax.Array) -> jax.Array:
        mine = [a[0] if has_parts else a for a, has_parts in zip(args, flags, strict=True)]
        return share * fn(*mine)[None]

    return local


@only(first=True, dtype="float64", device="cpu")
def test_shard_map(jax_case: Case, mesh: Mesh) -> None:
    """With default settings, the gradient taken outside of the `shard_map`, and inside."""
    compare_with_loop(jax_case, mesh)


@only(dtype="float64", device="cpu", novel=True)
def test_shard_map_of_every_form(jax_case: Case) -> None:
    """With other arguments there, or without elements, on one mesh."""
    with mesh_of(AxisType.Explicit) as mesh:
        compare_with_loop(jax_case, mesh)


def compare_with_loop(jax_case: Case, mesh: Mesh) -> None:
    f = jax_case.call.ours(jax_case.adapter)
    arrays, wanted = parts(jax_case), choices(jax_case)
    gs = jax_case.noise((DEVICES, *jax_case.g.shape), 1)
    shares = jax_case.noise((DEVICES, *[1] * jax_case.g.ndim), 2)

    @jax.jit
    def run(stacked: list[jax.Array], single: list[jax.Array], shares: jax.Array, gs: jax.Array) -> list[Any]:
        found = []
        for flags in wanted:
            args = [a if has_parts else b for a, b, has_parts in zip(stacked, single, flags, strict=True)]
            local = on_each_device(f, flags)

            def inside(g: jax.Array, *operands: jax.Array, local: Callable[..., Any] = local) -> tuple[Any, ...]:
                return jax.vjp(local, *operands)[1](g)[1:]

            taken = (PARTS, *specs(flags))
            outer = jax.shard_map(local, in_specs=taken, out_specs=PARTS)
            inner = jax.shard_map(inside, in_specs=(PARTS, *taken), out_specs=specs(flags))
            loss = jax.grad(
                lambda *operands, f=outer: jnp.sum(gs * f(*operands)), argnums=tuple(range(1, 1 + len(args)))
            )
            found.append((outer(shares, *args), loss(shares, *args), inner(gs, shares, *args)))
        return found

    stacked = put(mesh, arrays, [PARTS] * len(arrays))
    single = put(mesh, [a[0] for a in arrays], [WHOLE] * len(arrays))
    found = run(stacked, single, *put(mesh, [shares, gs], [PARTS, PARTS]))
    for flags, (ys, outside, within) in zip(wanted, found, strict=True):
        truth, gradients = loop(jax_case, arrays, flags, shares * gs)
        assert_close((ys, outside, within), (shares * truth, gradients, gradients))


@only(first=True, dtype="float64", device="cpu")
def test_vmap_over_parts(jax_case: Case, mesh: Mesh) -> None:
    """Jit of a vmap whose mapped axis is sharded."""
    f = jax_case.call.ours(jax_case.adapter)
    arrays, wanted = parts(jax_case), choices(jax_case)
    gs = jax_case.noise((DEVICES, *jax_case.g.shape), 1)

    @jax.jit
    def run(stacked: list[jax.Array], single: list[jax.Array], gs: jax.Array) -> list[Any]:
        found = []
        for flags in wanted:
            args = [a if has_parts else b for a, b, has_parts in zip(stacked, single, flags, strict=True)]
            mapped = jax.vmap(f, in_axes=tuple(0 if has_parts else None for has_parts in flags))
            loss = jax.grad(lambda *args, f=mapped: jnp.sum(gs * f(*args)), argnums=tuple(range(len(args))))
            found.append((mapped(*args), loss(*args)))
        return found

    stacked = put(mesh, arrays, [PARTS] * len(arrays))
    single = put(mesh, [a[0] for a in arrays], [WHOLE] * len(arrays))
    found = run(stacked, single, *put(mesh, [gs], [PARTS]))
    for flags, one in zip(wanted, found, strict=True):
        assert_close(one, loop(jax_case, arrays, flags, gs))


@only(first=True, dtype="float64", device="cpu")
def test_jit_with_shardings(jax_case: Case, mesh: Mesh) -> None:
    """The op on a larger batch, of which the arrays, the cotangent or both are sharded: an axis more for a `...`, and a
    longer axis for a letter.
    """
    call, f = jax_case.call, jax_case.call.ours(jax_case.adapter)
    first = {name: next(iter(call.op.axes_of(name).split()), "") for name in call.arrays | call.constants}
    batch = next(iter(first.values()))
    many = parts(jax_case) + [np.stack([np.roll(a, i) for i in range(DEVICES)]) for a in call.constants.values()]
    larger = [
        (np.stack if batch == "..." else np.concatenate)(list(each)) if letter == batch else each[0]
        for each, letter in zip(many, first.values(), strict=True)
    ]
    n = len(call.arrays)
    arrays, constants = (
        dict(zip(of, some, strict=True)) for of, some in ((call.arrays, larger[:n]), (call.constants, larger[n:]))
    )
    call = replace(call, arrays=arrays, constants=constants)
    y = call.forward()
    g = jax_case.noise(np.shape(y), 1)
    taken = [PARTS if letter == batch else WHOLE for letter in first.values()]
    given = PARTS if g.shape and g.shape[0] % DEVICES == 0 else WHOLE
    ways = [[WHOLE, *taken], [given, *[WHOLE] * len(taken)], [given, *taken]]
    shardings = [[NamedSharding(mesh, spec) for spec in way] for way in ways]

    def run(g: jax.Array, *args: jax.Array) -> Any:
        return jax.grad(lambda *args: jnp.sum(g * f(*args)), argnums=tuple(range(n)))(*args), f(*args)

    found = jax.jit(
        lambda ways: [run(*way) for way in ways],
        in_shardings=(shardings,),
        out_shardings=[(tuple(way[1 : 1 + n]), None) for way in shardings],
    )([put(mesh, [g, *larger], way) for way in ways])
    for gradients, value in found:
        assert_close((gradients, value), (list(call.vjp(g).values()), y))


@only(first=True, dtype="float64", device="cpu")
def test_parameters_made_before_the_mesh(jax_case: Case) -> None:
    """They are on no mesh, and neither are their gradients; `jax.make_mesh` makes an Explicit one by default."""
    f, truth = jax_case.call.ours(jax_case.adapter), list(jax_case.call.vjp(jax_case.g).values())
    first, *rest = jax_case.call.arrays.values()
    made_before, g = [jnp.asarray(a) for a in rest], jnp.asarray(jax_case.g)
    mesh = jax.make_mesh((DEVICES // 2, 2), AXES, devices=jax.devices("cpu"))
    with jax.set_mesh(mesh):
        gradient = jax.grad(lambda *args: jnp.sum(g * f(*args)), tuple(range(1 + len(rest))))
        assert_close(gradient(*put(mesh, [first], [WHOLE]), *made_before), truth)


@pytest.mark.parametrize("op", ["attention", "flash_attention", "qk_norm_attention"])
def test_heads_that_share_keys(op: str, mesh: Mesh) -> None:
    """With the batch in parts, and the heads too; keys of fewer heads than there are parts are whole."""
    rng = np.random.default_rng(0)
    g, q, *kv = (rng.standard_normal((4, 8, 5, 3)) for _ in range(4))
    scale = {"scale": np.array(2.0)} if op == "qk_norm_attention" else {}
    calls = [
        Call.of(BY_NAME[op], {"q": q, **{n: a[:, :heads] for n, a in zip("kv", kv, strict=True)}, **scale})
        for heads in (4, 2, 1)
    ]
    given = []
    for call in calls:
        for spec in (P("rows"), P("rows", "columns")):
            of_keys = spec if call.arrays["k"].shape[1] > 1 else P(*spec[:1])
            some = [spec, of_keys, of_keys, P()][: len(call.arrays)]
            given.append((call, put(mesh, [a.astype("float32") for a in call.arrays.values()], some)))
    ours, cotangent = calls[0].ours(frameworks.load("jax")), jnp.asarray(g, "float32")
    gradient = jax.grad(lambda args: jnp.sum(cotangent * ours(*args)))
    found = jax.jit(lambda many: [gradient(args) for args in many])([args for _, args in given])
    for (call, _), gradients in zip(given, found, strict=True):
        for one, true in zip(gradients, call.vjp(g).values(), strict=True):
            assert error(np.asarray(one), true) <= 1e-5


def test_match_gives_the_sharding_of_the_primal(mesh: Mesh) -> None:
    """What needs it is an op of two batched arrays of which one is sharded, in Explicit mode, where it is a type."""
    whole, split = put(mesh, [np.ones((DEVICES, 3))] * 2, [WHOLE, PARTS])
    assert jax.typeof(match(split, whole)).sharding == jax.typeof(whole).sharding
    assert jax.typeof(match(whole, split)).sharding == jax.typeof(split).sharding

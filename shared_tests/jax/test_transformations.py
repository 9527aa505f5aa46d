"""What JAX asks of every op: its transformations, dtypes, devices and traces. Meshes are in `test_sharding`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import residuals_jax
from cases import Case, is_input, only
from residuals_lab.ops.call import Call
from residuals_lab.ops.tolerance import FLOAT64_LIMIT, error

# Values are compared in float64, where an error cannot hide in the rounding; what is abstract is asked of every dtype.
float64 = only(dtype="float64", novel=True)
policies = jax.checkpoint_policies


def assert_close(case: Case, found: Any, truth: Any) -> None:
    for one, true in zip(jax.tree.leaves(found), jax.tree.leaves(truth), strict=True):
        assert error(case.adapter.to_numpy(one), case.adapter.to_numpy(true)) <= FLOAT64_LIMIT


def rule(fn: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    """The value of `fn` and its gradients for a cotangent."""

    def run(args: Sequence[Any], g: Any) -> tuple[Any, Any]:
        y, pull = jax.vjp(fn, *args)
        return y, pull(g)

    return run


def loss(fn: Callable[..., Any], g: jax.Array) -> Callable[..., jax.Array]:
    """A scalar whose gradient gives every output its own cotangent."""
    return lambda *args: jnp.sum(g * fn(*args))


def truth(call: Call, g: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    return call.forward(), tuple(call.vjp(g).values())


def shapes(arrays: Sequence[jax.Array]) -> list[tuple[tuple[int, ...], Any]]:
    return [(a.shape, a.dtype) for a in arrays]


@only(first=True, dtype="float64")
def test_eager_and_jit(jax_case: Case) -> None:
    """Every sample runs under jit in `test_ops`."""
    call, args, g = jax_case.call, jax_case.args, jax_case.array(jax_case.g)
    f, expected = call.ours(jax_case.adapter), truth(call, jax_case.g)
    y, gradients = rule(f)(args, g)
    np.testing.assert_array_equal(y, f(*args), "fwd and the primal are not the same function")
    assert_close(jax_case, (y, gradients), expected)
    public = jax.jit(jax_case.adapter.public(call.op.name), static_argnames=tuple(call.static))
    jitted = SimpleNamespace(**{**vars(jax_case.adapter), "public": lambda name: public})
    assert_close(jax_case, jax.jit(rule(call.ours(jitted)))(args, g), expected)


@only(dtype="float64", first=True)
def test_any_choice_of_differentiated_arguments(jax_case: Case) -> None:
    args, g = jax_case.args, jax_case.array(jax_case.g)
    value = loss(jax_case.call.ours(jax_case.adapter), g)
    _, expected = truth(jax_case.call, jax_case.g)
    every = range(len(args))
    choices = [c for flags in product((False, True), repeat=len(args)) if (c := tuple(i for i in every if flags[i]))]
    found = jax.jit(lambda args: [jax.grad(value, argnums=c)(*args) for c in choices])(args)
    assert_close(jax_case, found, [[expected[i] for i in c] for c in choices])


@only(first=True, dtype="float64")
def test_two_forwards_then_two_backwards(jax_case: Case) -> None:
    call, g = jax_case.call, jax_case.array(jax_case.g)
    other = replace(call, arrays={n: a + jax_case.noise(a.shape, 2) for n, a in call.arrays.items()})
    f = call.ours(jax_case.adapter)
    _, pull = jax.vjp(f, *jax_case.args)
    _, other_pull = jax.vjp(f, *(jax_case.array(a) for a in other.arrays.values()))
    first = pull(g)
    assert_close(jax_case, first, truth(call, jax_case.g)[1])
    assert_close(jax_case, other_pull(g), truth(other, jax_case.g)[1])
    assert_close(jax_case, jax.jit(lambda pull, g: pull(g))(pull, g), first)
    for _ in range(2):
        for again, before in zip(pull(g), first, strict=True):
            np.testing.assert_array_equal(again, before)


@float64
def test_vmap(jax_case: Case) -> None:
    """The function, its VJP, and the VJP of the mapped function, with many choices of `in_axes`, against a loop."""
    call, n = jax_case.call, 2
    f = call.ours(jax_case.adapter)
    stacked = [np.stack([a + i * jax_case.noise(a.shape, i) for i in range(n)]) for a in call.arrays.values()]
    gs = jax_case.noise((n, *jax_case.g.shape), 1)
    every = range(len(stacked))
    choices = [(-1,) * len(stacked), *(tuple(-1 if i == j else None for i in every) for j in every)]
    if jax_case.first:
        choices += [(0,) * len(stacked), *(tuple(None if i == j else 0 for i in every) for j in every)]
    choices = [c for c in dict.fromkeys(choices) if any(axis is not None for axis in c)]

    @jax.jit  # one program for all
    def run(stacked: list[jax.Array], gs: jax.Array) -> list[Any]:
        found = []
        for in_axes in choices:
            args = [a[0] if i is None else jnp.moveaxis(a, 0, i) for a, i in zip(stacked, in_axes, strict=True)]
            mapped_vjp = jax.vmap(lambda g, *args: jax.vjp(f, *args)[1](g), in_axes=(0, *in_axes))
            found.append((*rule(jax.vmap(f, in_axes=in_axes))(args, gs), mapped_vjp(gs, *args)))
        return found

    found = run([jax_case.array(a) for a in stacked], jax_case.array(gs))
    for in_axes, (ys, gradients, each) in zip(choices, found, strict=True):
        rows = [
            dict(
                zip(
                    call.arrays,
                    (a[0 if axis is None else i] for a, axis in zip(stacked, in_axes, strict=True)),
                    strict=True,
                )
            )
            for i in range(n)
        ]
        expected = [truth(replace(call, arrays=row), g) for row, g in zip(rows, gs, strict=True)]
        stacks = [np.stack(parts) for parts in zip(*(d for _, d in expected), strict=True)]
        assert_close(jax_case, (ys, each), (np.stack([y for y, _ in expected]), stacks))
        for d, stack, axis in zip(gradients, stacks, in_axes, strict=True):
            assert_close(jax_case, d, stack.sum(0) if axis is None else np.moveaxis(stack, 0, axis))


@only(first=True, dtype="float64")
def test_scan(jax_case: Case) -> None:
    """Each step's input depends on the last step's value, so the gradient goes through the carry and the constants."""
    call, steps = jax_case.call, 3
    first, *rest = call.arrays.values()
    xs = first + jax_case.noise((steps, *first.shape), 2)
    weights = jax_case.array(jax_case.g / np.abs(call.forward()).max(initial=1.0))  # the carry stays about 1

    def scanned(fn: Callable[..., Any]) -> Callable[..., Any]:
        def run(xs: jax.Array, *rest: jax.Array) -> jax.Array:
            def body(carry: jax.Array, x: jax.Array) -> tuple[jax.Array, None]:
                return jnp.sum(weights * fn(x + jnp.cos(carry), *rest)), None

            return jax.lax.scan(body, jnp.zeros((), xs.dtype), xs)[0]

        return jax.value_and_grad(run, argnums=tuple(range(1 + len(rest))))

    ours, plain = (scanned(fn(jax_case.adapter)) for fn in (call.ours, call.plain))
    args = [jax_case.array(a) for a in (xs, *rest)]
    assert_close(jax_case, *jax.jit(lambda *args: (ours(*args), plain(*args)))(*args))


@float64
def test_checkpoint(jax_case: Case) -> None:
    call, args, g = jax_case.call, jax_case.args, jax_case.array(jax_case.g)
    fields = jax_case.adapter.op(call.op.name).Residuals._fields
    kept = [policies.save_only_these_names(*fields)]
    if jax_case.first:
        kept += [policies.nothing_saveable, policies.everything_saveable, policies.dots_saveable]
        kept += [policies.save_only_these_names()]
    f, expected = call.ours(jax_case.adapter), truth(call, jax_case.g)
    found = jax.jit(lambda *a: [rule(jax.checkpoint(f, policy=policy))(*a) for policy in kept])(args, g)
    assert_close(jax_case, found, [expected] * len(kept))
    if jax_case.first:
        for fn in (jax.checkpoint(f), jax.jit(jax.checkpoint(f))):
            assert_close(jax_case, rule(fn)(args, g), expected)
    nothing, everything, bare = (
        call.trace(jax_case.adapter, fn, args)
        for fn in (jax.checkpoint(f), jax.checkpoint(f, policy=policies.everything_saveable), f)
    )
    assert {r.kind for r in nothing.residuals} <= {"input"}
    assert everything.saved_bytes == bare.saved_bytes


@only(first=True, dtype="float32")
def test_forward_mode_is_a_clear_error(jax_case: Case) -> None:
    f, args = jax_case.call.ours(jax_case.adapter), jax_case.args
    for fn in (f, jax.jit(f)):
        with pytest.raises(TypeError, match=r"forward-mode autodiff \(jvp\) to a custom_vjp"):
            jax.jvp(fn, args, args)


def backward_shapes(fn: Callable[..., Any], args: Sequence[jax.Array]) -> list[tuple[tuple[int, ...], Any]]:
    """The gradients' shapes and dtypes, when the cotangent arrives under jit."""

    def gradients(*args: jax.Array) -> Any:
        y, pull = jax.vjp(fn, *args)
        return jax.jit(lambda pull, g: pull(g))(pull, jnp.ones_like(y))

    return shapes(jax.eval_shape(gradients, *args))


@only(novel=True)
def test_gradient_dtypes_under_strict_promotion(jax_case: Case) -> None:
    with jax.numpy_dtype_promotion("strict"):
        assert backward_shapes(jax_case.call.ours(jax_case.adapter), jax_case.args) == shapes(jax_case.args)


BROADCASTS = {"scaled"}  # arrays of different ranks are the caller's own
LOSSES = {"cross_entropy", "linear_cross_entropy"}


@only(dtype="float64", novel=True)
def test_no_rank_is_promoted_inside(jax_case: Case) -> None:
    if jax_case.call.op.name not in BROADCASTS | LOSSES:
        with jax.numpy_rank_promotion("raise"):
            assert backward_shapes(jax_case.call.ours(jax_case.adapter), jax_case.args) == shapes(jax_case.args)


@only(dtype="bfloat16")
def test_gradient_dtypes_where_one_differs(jax_case: Case) -> None:
    args = jax_case.args
    for i, a in enumerate(args):
        mixed = [*args[:i], a.astype("float32"), *args[i + 1 :]]
        assert backward_shapes(jax_case.call.ours(jax_case.adapter), mixed) == shapes(mixed)


@only(dtype="float64", novel=True)
def test_absent_arguments_have_no_gradient(jax_case: Case) -> None:
    call = jax_case.call
    public, bwd = jax_case.adapter.public(call.op.name), jax_case.adapter.op(call.op.name).bwd
    given = dict(zip(call.arrays, jax_case.args, strict=True))
    constants = dict(zip(call.constants, call.constants_in(jax_case.adapter), strict=True))
    args = {name: given.get(name) for name in call.op.arrays}

    def gradients(args: dict[str, Any]) -> Any:
        y, pull = jax.vjp(lambda args: jax.tree.leaves(public(**args, **constants, **call.static))[0], args)
        residuals = call.saved(jax_case.adapter)(*(args[name] for name in given))
        return pull(jnp.ones_like(y))[0], bwd(*call.static.values(), residuals, jnp.ones_like(y))

    named, formula = jax.eval_shape(gradients, args)
    absent = args.keys() - given.keys()
    assert {name for name, d in named.items() if d is None} == absent
    # The formula knows from the residuals, so that an array which is not saved, a bias, may be there for all it knows.
    fields = jax_case.adapter.op(call.op.name).Residuals._fields
    formula = dict(zip(args, formula, strict=False))  # without the None for each constant
    assert {name for name, d in formula.items() if d is None} == absent.intersection(fields)


@float64
def test_residuals_under_jit(jax_case: Case) -> None:
    """A jit around the op neither adds to what is held, nor drops or renames any of it."""
    call, args = jax_case.call, jax_case.args
    f, fields = call.ours(jax_case.adapter), call.saved(jax_case.adapter)

    def held(fn: Callable[..., Any]) -> list[tuple[Any, ...]]:
        crossing = call.trace(jax_case.adapter, fn, args).residuals
        return sorted((r.name, r.kind, r.storage_bytes, r.value.shape, r.value.dtype) for r in crossing)

    expected = jax.eval_shape(fields, *args)._asdict()
    assert held(jax.jit(f)) == held(f)
    assert {name for name, kind, *_ in held(f) if kind == "input"} == {
        r for r, a in expected.items() if a is not None and is_input(call, r)
    }
    assert {name: (shape, dtype) for name, _, _, shape, dtype in held(f)} == {
        name: (a.shape, str(a.dtype)) for name, a in expected.items() if a is not None
    }


@only(first=True, dtype="float32")
def test_a_saved_input_is_the_callers_own_array(jax_case: Case) -> None:
    """Not a copy of it, which would be bytes that nobody declared; seen in the address, since the numbers are equal."""
    args = jax_case.args
    _, pull = jax.vjp(jax_case.call.ours(jax_case.adapter), *args)
    held = {a.unsafe_buffer_pointer() for a in jax.tree.leaves(pull) if isinstance(a, jax.Array)}
    fields = jax_case.call.saved(jax_case.adapter)(*args)._asdict()
    for name, a in zip(jax_case.call.arrays, args, strict=True):
        assert (a.unsafe_buffer_pointer() in held) == (fields.get(name) is not None), name


@only(first=True, dtype="float32")
def test_no_tracer_leaks(jax_case: Case) -> None:
    args, g = jax_case.args, jax_case.array(jax_case.g)
    f = jax_case.call.ours(jax_case.adapter)
    with jax.checking_leaks():
        jax.jit(jax.grad(loss(f, g), argnums=tuple(range(len(args)))))(*args)


@only(first=True, dtype="float32")
def test_everything_stays_on_its_device(jax_case: Case) -> None:
    """On a device that is not the default one, so that nothing gets there by accident."""
    device = jax.devices(jax_case.device)[-1]
    args, g = jax.device_put((jax_case.args, jax_case.array(jax_case.g)), device)
    f = jax_case.call.ours(jax_case.adapter)
    constants = jax.device_put(jax_case.call.constants_in(jax_case.adapter), device)

    def with_constants(*args: jax.Array) -> jax.Array:
        return f(*args, *constants)

    for fn in (with_constants, jax.jit(with_constants)):
        y, pull = jax.vjp(fn, *args)
        for a in jax.tree.leaves((y, pull, pull(g))):
            assert a.devices() == {device}


@only(first=True, dtype="float32")
def test_numpy_arrays_are_differentiated_too(jax_case: Case) -> None:
    """Outside of a jit, JAX hands a rule its own kind of them, which are no `jax.Array`."""
    given = [np.asarray(a) for a in jax_case.args]
    sums = jax.grad(lambda *args: jnp.sum(jax_case.call.ours(jax_case.adapter)(*args)), range(len(given)))
    for d, same in zip(sums(*given), sums(*map(jnp.asarray, given)), strict=True):
        assert error(np.asarray(d), np.asarray(same)) <= 1e-5  # which program computes, decides about rounding


@pytest.mark.parametrize("number", [2.0, np.float32(2)])
def test_python_numbers_are_differentiated_too(number: Any) -> None:
    q = jnp.ones((1, 2, 3))
    for fn in (
        lambda s: residuals_jax.scaled(q, s).sum(),
        lambda s: (residuals_jax.qk_norm_attention(q, q, q * s, scale=s) ** 2).sum(),
        lambda b: (residuals_jax.flash_attention(q, q, q * b, bias=b) ** 2).sum(),
        lambda b: (residuals_jax.attention(q, q, q * b, bias=b) ** 2).sum(),
    ):
        assert error(np.asarray(jax.grad(fn)(number)), np.asarray(jax.grad(fn)(jnp.float32(2)))) <= 1e-5

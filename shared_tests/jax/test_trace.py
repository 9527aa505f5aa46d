"""What the JAX adapter sees: values through calls and constants, and what cannot be looked into."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from residuals_lab import frameworks
from residuals_lab.audit import audit
from residuals_lab.errors import UsageError
from residuals_lab.trace import Trace

ADAPTER = frameworks.load("jax")
SHARED = np.linspace(0.1, 0.8, 8, dtype=np.float32)


def x() -> jax.Array:
    return jnp.linspace(0.1, 0.8, 8)


def trace(fn: Any) -> Trace:
    return ADAPTER.trace(fn, [x()], ["x"])


def held(fn: Any) -> list[tuple[str, str, int]]:
    return [(r.name, r.kind, r.storage_bytes) for r in trace(fn).residuals]


def rule(fwd: Any, bwd: Any) -> Any:
    fn = jax.custom_vjp(lambda x: fwd(x)[0])
    fn.defvjp(fwd, bwd)
    return fn


@pytest.mark.parametrize("call", [jax.jit, jax.named_call, jax.checkpoint, lambda f: jax.jit(jax.checkpoint(f))])
def test_a_repetition_inside_a_call(call: Any) -> None:
    fn = rule(lambda x: (jnp.sin(x).sum(), x), lambda x, g: (g * call(jnp.sin)(x),))
    assert trace(fn).repeats() == ["sin"]
    assert trace(jax.jit(fn)).repeats() == ["sin"]


def test_another_operand_is_no_repetition() -> None:
    assert trace(rule(lambda x: (jnp.sin(x).sum(), x), lambda x, g: (g * jnp.sin(2 * x),))).repeats() == []
    assert trace(rule(lambda x: (jnp.sum(x), x), lambda x, g: (g * x * jnp.prod(x),))).repeats() == []


def test_no_operation_is_passed_over() -> None:
    assert trace(jax.checkpoint(lambda x: jnp.sin(jax.lax.top_k(x, 2)[0]).sum())).repeats() == ["topk"]
    assert trace(jax.checkpoint(lambda x: jax.lax.bessel_i0e(x).sum())).repeats() == ["bessel_i0e"]


def test_two_keys_are_two_draws() -> None:
    key = jax.random.key(0)

    def backward_with(other: Any) -> Any:
        def draw(key: Any) -> jax.Array:
            return jax.random.uniform(key, (8,))

        return rule(lambda x: ((x * draw(key)).sum(), x), lambda x, g: (g * draw(other),))

    assert "random" in trace(backward_with(key)).repeats()
    assert trace(backward_with(jax.random.key(1))).repeats() == []


def scanned(step: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """A loop over x, whose carry is `step(carry, x[i])`."""
    return lambda x: jax.lax.scan(lambda c, a: (step(c, a), None), 1.0, x, **options)[0]


def swinging(c: jax.Array, a: jax.Array) -> jax.Array:
    return jnp.sin(c) * a


def test_what_a_loop_saves() -> None:
    """One array for all iterations, called after the array of each; what the loop goes over is saved as it is."""
    assert held(scanned(swinging)) == [("x", "input", 32), ("cos", "new", 32), ("convert", "new", 32)]
    assert ("carry", "new", 32) in held(scanned(jax.checkpoint(swinging)))
    assert [r.value.shape for r in trace(scanned(lambda c, a: c * jnp.exp(a))).residuals] == [(8,)] * 2
    assert {s.op: s.times for s in trace(scanned(swinging)).steps}["sin"] == 8


@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"unroll": 2}], ids=str)
def test_a_repetition_inside_a_loop(options: dict[str, Any]) -> None:
    """The loop runs again, iteration for iteration: its other results, and what it carries, do not matter."""
    assert trace(scanned(swinging, **options)).repeats() == []
    assert trace(jax.checkpoint(scanned(swinging, **options))).repeats() == ["sin"]
    assert trace(scanned(jax.checkpoint(lambda c, a: jnp.sin(c) * jnp.exp(a)), **options)).repeats() == [
        "exp",
        "sin",
    ]

    def two(x: jax.Array) -> jax.Array:
        def step(c: Any, a: jax.Array) -> Any:
            return (jnp.sin(c[0]) * a, jnp.tanh(c[1]) * c[0]), None

        return jax.lax.scan(step, (1.0, 1.0), x, **options)[0][1]

    assert trace(two).repeats() == []
    assert trace(jax.checkpoint(two)).repeats() == ["sin", "tanh"]


def test_a_rule_inside_a_loop() -> None:
    again = rule(lambda x: (jnp.sin(x) * x, x), lambda x, g: (g * (jnp.sin(x) + x * jnp.cos(x)),))
    saved = rule(lambda x: (jnp.sin(x) * x, (x, jnp.sin(x))), lambda r, g: (g * (r[1] + r[0] * jnp.cos(r[0])),))
    for loop in (
        lambda fn: scanned(lambda c, a: c + fn(a)),
        lambda fn: lambda x: jax.lax.fori_loop(0, 5, lambda i, c: fn(c), x).sum(),
    ):
        assert trace(loop(again)).repeats() == ["sin"]
        assert trace(loop(saved)).repeats() == []


def test_another_turn_is_another_value() -> None:
    """In a loop within a loop, or beside it, of other steps, of another start or the other way round."""

    def differ(first: Callable[..., Any], second: Callable[..., Any]) -> bool:
        """Whether `second`, in a backward, repeats no sine of `first`, and has one."""
        found = trace(rule(lambda x: (first(x), x), lambda x, g: (g * second(x),)))
        assert sum(step.op == "sin" for step in found.steps) == 2
        return "sin" not in found.repeats()

    loop = scanned(swinging)
    assert not differ(loop, lambda x: loop(x) * x)
    assert differ(loop, lambda x: scanned(swinging, reverse=True)(x) * x)
    assert differ(loop, lambda x: scanned(lambda c, a: jnp.sin(c) * a * a)(x) * x)
    assert differ(loop, lambda x: jax.lax.scan(lambda c, a: (swinging(c, a), None), 2.0, x)[0] * x)
    assert differ(loop, lambda x: loop(x + 1) * x)

    def pairs(fn: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x: scanned(lambda c, a: c + scanned(lambda d, b: d + jnp.sin(fn(a, b)))(x))(x)

    assert not differ(pairs(jnp.multiply), lambda x: pairs(jnp.multiply)(x) * x)
    assert differ(pairs(lambda a, b: a * b), lambda x: pairs(lambda a, b: a * a)(x) * x)
    assert differ(pairs(lambda a, b: a * b), lambda x: pairs(lambda a, b: b * b)(x) * x)


def test_two_carries_from_one_start_are_told_apart() -> None:
    def step(c: Any, a: jax.Array) -> Any:
        return (jnp.exp(c[0]) * a, jnp.exp(c[1]) + a), None

    found = trace(lambda x: sum(jax.lax.scan(step, (1.0, 1.0), x)[0]))
    assert len({step.outs for step in found.steps if step.op == "exp"}) == 2


def test_a_loop_of_unknown_length() -> None:
    def wandering(x: jax.Array) -> jax.Array:
        found = jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, 1.0))
        return jnp.sum(x * found[1])

    assert [(r.kind, r.storage_bytes) for r in trace(wandering).residuals] == [("new", 4)]
    assert trace(wandering).repeats() == []
    assert trace(jax.checkpoint(wandering)).repeats() == ["sin"]

    def times(n: int, x: jax.Array) -> jax.Array:
        return jnp.sin(jax.lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, jnp.exp(c[1])), (0, x))[1])

    for n, found in ((3, ["exp", "sin"]), (4, ["exp"])):  # another number of turns is another end
        fn = rule(lambda x: (times(3, x).sum(), x), lambda x, g, n=n: (g * times(n, x),))
        assert trace(fn).repeats() == found


def test_a_repetition_inside_a_branch() -> None:
    def either(x: jax.Array) -> jax.Array:
        return jax.lax.cond(x[0] > 0, lambda x: jnp.sin(jnp.sqrt(x)), jnp.exp, x).sum()

    assert trace(either).repeats() == []
    assert trace(jax.checkpoint(either)).repeats() == ["exp", "sqrt"]
    again = rule(lambda x: (jnp.sin(x).sum(), x), lambda x, g: (g * jnp.sin(x),))
    assert trace(lambda x: jax.lax.cond(x[0] > 0, again, jnp.sum, x)).repeats() == ["sin"]
    assert trace(lambda x: jax.lax.switch(1, [jnp.sum, again, again], x)).repeats() == ["sin"]


def test_closed_over_arrays() -> None:
    fn = jax.jit(lambda x: (x * SHARED).sum())
    assert held(fn) == [("closed over", "parameter", 32)]
    assert ADAPTER.saved_bytes(fn, [x()]) == 32
    other = jnp.ones(8)
    fn = rule(lambda x: (x.sum(), x), lambda x, g: (g * x * other,))
    assert held(fn) == [("x", "input", 32), ("closed over", "hidden", 32)]
    assert ADAPTER.saved_bytes(fn, [x()]) == 64


def test_names_survive_a_checkpoint_that_saves() -> None:
    op = ADAPTER.op("x_sin_x")
    kept = jax.checkpoint(ADAPTER.public("x_sin_x"), policy=jax.checkpoint_policies.everything_saveable)
    found = ADAPTER.trace(kept, [x()], ["x"], lambda x: op.fwd(x)[1])
    assert [r.name for r in found.residuals] == ["x", "sin_x"]


def test_a_checkpoint_that_saves_dots_is_quadratic_again() -> None:
    """`dots_saveable` keeps the scores of every block; the rule itself keeps 4 bytes a row."""
    block, flash = ADAPTER.op("flash_attention").BLOCK, ADAPTER.public("flash_attention")
    saving_dots = jax.checkpoint(flash, policy=jax.checkpoint_policies.dots_saveable)

    def new_bytes(fn: Any, tokens: int) -> int:
        return ADAPTER.trace(fn, [jax.ShapeDtypeStruct((1, tokens, 8), "float32")] * 3, ["q", "k", "v"]).new_bytes

    for tokens in (block, 2 * block + 10, 4 * block):
        assert new_bytes(flash, tokens) == 4 * tokens
        assert new_bytes(jax.checkpoint(flash), tokens) == 0
        assert new_bytes(saving_dots, tokens) >= 4 * tokens**2


def test_what_a_backward_closes_over() -> None:
    """An array that the forward makes is new; an argument, and an array from outside, somebody else keeps alive."""

    def closing(over: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[[jax.Array, jax.Array], jax.Array]:
        def fn(x: jax.Array, n: jax.Array) -> jax.Array:
            kept = over(x, n)
            return rule(lambda z: (z.sum(), None), lambda _, g: (g * kept,))(x)

        return fn

    outside, n = x(), jnp.arange(8)
    for over, new in (
        (lambda _, n: jnp.exp(n.astype("float32")), 32),
        (lambda x, _: jax.lax.stop_gradient(jnp.exp(x)), 32),
        (lambda _, n: n, 0),
        (lambda _, n: outside, 0),
    ):
        jax.grad(closing(over))(x(), n)
        (residual,) = ADAPTER.trace(closing(over), [x(), n], ["x", "n"]).residuals
        assert (residual.kind, residual.storage_bytes, residual.is_new * 32) == ("hidden", 32, new)
    for over in (lambda x, _: jnp.exp(x), lambda x, _: x):
        with pytest.raises(jax.errors.UnexpectedTracerError):
            jax.grad(closing(over))(x(), n)
        with pytest.raises(UsageError, match=r"return.* from fwd, as a residual"):
            audit(closing(over), x(), n)


def test_a_run_with_numbers() -> None:
    """What is alive before it, or is NumPy's, it does not make; and a result may hold plain numbers."""
    outside = x()

    def fn(x: jax.Array) -> Any:
        return (jnp.sin(x) * outside).sum(), (x * SHARED).sum(), 3, 4.0

    with pytest.raises(UsageError, match="expected arrays to run it on, got ShapeDtypeStruct"):
        audit(fn, jax.ShapeDtypeStruct((8,), "float32"), is_concrete=True)
    concrete = ADAPTER.trace(fn, [x()], ["x"], is_abstract=False)
    assert (concrete.saved_bytes, concrete.new_bytes) == (96, 32)
    assert trace(fn).new_bytes == 32


@pytest.mark.parametrize("call", [lambda f: f, jax.jit, lambda f: jax.jit(lambda x: jax.jit(f)(x))])
def test_what_passes_a_name_or_a_barrier(call: Any) -> None:
    """It is the same buffer, except where a program gives both: then it is another, with the same values."""
    for passes in (lambda y: checkpoint_name(y, "y"), jax.lax.optimization_barrier, jax.lax.stop_gradient):
        fn = call(lambda x, passes=passes: (lambda y: passes(y) * y)(jnp.exp(x)).sum())
        found = ADAPTER.trace(fn, [jnp.ones(64)], ["x"]).saved_bytes
        assert found == ADAPTER.saved_bytes(fn, [jnp.ones(64)])


def test_what_a_branch_is_chosen_by_is_read() -> None:
    def fn(x: jax.Array, which: jax.Array) -> jax.Array:
        branches = [jnp.sin, lambda y: 2 * y, jnp.exp]
        return jax.lax.scan(lambda y, i: (jax.lax.switch(i, branches, y), None), x, which)[0].sum()

    report = audit(fn, x(), jnp.array([0, 1, 2, 1]))
    assert [(r.storage_bytes, r.is_unused) for r in report.residuals] == [(16, False), (128, False)]
    assert report.findings == [], "a number an iteration is passed over"


def test_a_value_that_the_backward_makes_itself_is_not_read() -> None:
    def fn(uses: Callable[..., jax.Array]) -> Any:
        bwd = lambda kept, g: (uses(g, *kept),)  # noqa: E731
        return lambda y: rule(lambda x: (jnp.exp(x), (x, jnp.exp(x))), bwd)(jnp.sin(y)).sum()

    for call in (lambda f: f, jax.jit, lambda f: lambda x: jax.lax.scan(lambda y, _: (y + f(y), None), x, None, 3)[0]):
        remade, used = fn(lambda g, x, y: g * jnp.exp(x)), fn(lambda g, x, y: g * y)
        assert [f.names for f in audit(call(remade), x()).findings if f.what == "unused"] == [("exp",)]
        assert "exp" not in {n for f in audit(call(used), x()).findings if f.what == "unused" for n in f.names}


DTYPES = [
    name for name in dir(jnp) if re.fullmatch(r"bool|u?int\d+|b?float(?!6_)\d\w*|complex\d+", name)
]  # not float6, which XLA refuses


@pytest.mark.parametrize("dtype", [*DTYPES, "threefry2x32", "rbg"])
def test_the_bytes_of_every_dtype(dtype: str) -> None:
    """Not the digits of its name: an element of int4 takes a byte, and a key two words or four."""
    with jax.enable_x64(True):
        a = jax.random.split(jax.random.key(0, impl=dtype), 5) if dtype not in DTYPES else jnp.zeros(5, dtype)
        found = ADAPTER.trace(lambda x, _: x.sum(), [x(), a], ["x", "a"])
    assert {(v.nbytes, str(v)) for v in found.values.values() if v.shape == (5,)} >= {(a.nbytes, f"{a.dtype}[5]")}

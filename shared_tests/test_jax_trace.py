"""What the JAX adapter sees: values through calls and constants, and what cannot be looked into."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from residuals_lab import frameworks
from residuals_lab.trace import Trace

ADAPTER = frameworks.load("jax")
SHARED = np.linspace(0.1, 0.8, 8, dtype=np.float32)


def x() -> jax.Array:
    return jnp.linspace(0.1, 0.8, 8)


def trace(fn: Any) -> Trace:
    return ADAPTER.trace(fn, [x()], ["x"])


def held(fn: Any) -> list[tuple[str, str, int]]:
    return [(r.name, r.kind, r.nbytes) for r in trace(fn).crossing]


def rule(fwd: Any, bwd: Any) -> Any:
    fn = jax.custom_vjp(lambda x: fwd(x)[0])
    fn.defvjp(fwd, bwd)
    return fn


@pytest.mark.parametrize("call", [jax.jit, jax.named_call, jax.checkpoint, lambda f: jax.jit(jax.checkpoint(f))])
def test_a_repetition_inside_a_call(call: Any) -> None:
    fn = rule(lambda x: (jnp.sin(x).sum(), x), lambda x, g: (g * call(jnp.sin)(x),))
    assert trace(fn).recomputed() == ["sin"]
    assert trace(jax.jit(fn)).recomputed() == ["sin"]


def test_another_operand_is_no_repetition() -> None:
    assert trace(rule(lambda x: (jnp.sin(x).sum(), x), lambda x, g: (g * jnp.sin(2 * x),))).recomputed() == []
    assert trace(rule(lambda x: (jnp.sum(x), x), lambda x, g: (g * x * jnp.prod(x),))).recomputed() == []


def test_no_operation_is_passed_over() -> None:
    assert trace(jax.checkpoint(lambda x: jnp.sin(jax.lax.top_k(x, 2)[0]).sum())).recomputed() == ["topk"]
    assert trace(jax.checkpoint(lambda x: jax.lax.bessel_i0e(x).sum())).recomputed() == ["bessel_i0e"]


def test_two_keys_are_two_draws() -> None:
    key = jax.random.key(0)

    def backward_with(other: Any) -> Any:
        def draw(key: Any) -> jax.Array:
            return jax.random.uniform(key, (8,))

        return rule(lambda x: ((x * draw(key)).sum(), x), lambda x, g: (g * draw(other),))

    assert "random" in trace(backward_with(key)).recomputed()
    assert trace(backward_with(jax.random.key(1))).recomputed() == []


def test_loops_are_said_not_to_be_looked_into() -> None:
    looping = trace(jax.checkpoint(lambda x: jax.lax.map(jnp.sin, x).sum()))
    assert (looping.recomputed(), looping.opaque()) == ([], ["scan"])
    assert trace(jnp.sum).opaque() == []


def test_closed_over_arrays() -> None:
    fn = jax.jit(lambda x: (x * SHARED).sum())
    assert held(fn) == [("closed over", "parameter", 32)]
    assert ADAPTER.held_bytes(fn, [x()]) == 32
    other = jnp.ones(8)
    fn = rule(lambda x: (x.sum(), x), lambda x, g: (g * x * other,))
    assert held(fn) == [("x", "input", 32), ("closed over", "hidden", 32)]
    assert ADAPTER.held_bytes(fn, [x()]) == 64


def test_names_survive_a_checkpoint_that_saves() -> None:
    op = ADAPTER.op("x_sin_x")
    kept = jax.checkpoint(ADAPTER.public("x_sin_x"), policy=jax.checkpoint_policies.everything_saveable)
    found = ADAPTER.trace(kept, [x()], ["x"], lambda x: op.fwd(x)[1])
    assert [r.name for r in found.crossing] == ["x", "sin_x"]


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

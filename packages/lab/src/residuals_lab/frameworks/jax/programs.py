"""Programs to be timed: in JAX forward and backward are one jitted program."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp

from residuals_lab.frameworks.program import Program


def program(
    fn: Callable[..., Any], args: Sequence[jax.Array], differentiated: Sequence[int], is_compiled: bool
) -> Program:
    """`is_compiled` or not: a program in JAX always is."""
    args = [a if isinstance(a, jax.Array) else jnp.asarray(a) for a in args]  # a constant is NumPy's

    def results(*given: Any) -> list[Any]:
        return [y for y in jax.tree.leaves(fn(*given)) if jnp.issubdtype(jnp.result_type(y), jnp.inexact)]

    def gradients(args: Sequence[Any], cotangents: list[Any]) -> Any:
        def part(*some: Any) -> list[Any]:
            chosen = dict(zip(differentiated, some, strict=True))
            return results(*(chosen.get(i, a) for i, a in enumerate(args)))

        outs, pull = jax.vjp(part, *(args[i] for i in differentiated))
        return outs, pull(cotangents)

    shapes = jax.eval_shape(results, *args)
    keys = jax.random.split(jax.random.key(0), len(shapes))
    cotangents = [jax.random.normal(key, y.shape, y.dtype) for key, y in zip(keys, shapes, strict=True)]
    forward = jax.jit(results).lower(*args).compile()
    both = jax.jit(gradients).lower(list(args), cotangents).compile()
    moved = [*args, *cotangents, *shapes, *(args[i] for i in differentiated)]
    return Program(
        _finished(forward, *args),
        _finished(both, list(args), cotangents),
        lambda: _peak_bytes(both),
        lambda: _flops(jax.make_jaxpr(gradients)(list(args), cotangents).jaxpr),
        sum(a.size * a.dtype.itemsize for a in moved),
    )


def _finished(run: Callable[..., Any], *args: Any) -> Callable[[], None]:
    """Runs it, and waits for what it computes."""

    def finished() -> None:
        jax.block_until_ready(run(*args))

    return finished


def _peak_bytes(compiled: Any) -> int:
    analysis = compiled.memory_analysis()
    return int(analysis.temp_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes)


def _flops(jaxpr: Any, times: int = 1) -> int:
    """Two for each product of two numbers in a matrix product, as often as its loop runs."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            left = eqn.invars[0].aval.shape
            each = 2 * eqn.outvars[0].aval.size
            for axis in contracted:
                each *= left[axis]
            total += times * each
        rounds = times * eqn.params["length"] if eqn.primitive.name == "scan" else times
        total += sum(_flops(inner, rounds) for inner in jax.extend.core.jaxprs_in_params(eqn.params))
    return total


def fused() -> AbstractContextManager[None]:
    """A program in JAX always is."""
    return nullcontext()


def copier(a: jax.Array) -> Callable[[], None]:
    """Copies an array: the memory's speed."""
    copy = jax.jit(jnp.copy).lower(a).compile()
    return _finished(copy, a)


def multiplier(a: jax.Array) -> Callable[[], None]:
    """Multiplies a square matrix by itself: the matrix unit's speed."""
    multiply = jax.jit(jnp.matmul).lower(a, a).compile()
    return _finished(multiply, a, a)

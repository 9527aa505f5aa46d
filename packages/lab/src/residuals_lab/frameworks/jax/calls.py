"""Calls of somebody's function in JAX; `residuals_lab.frameworks.calls` says what the names mean."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from residuals_lab.frameworks.calls import Function, Pull, Returned, Setting

CONJUGATES = False
FUNCTIONAL = False  # `jax.vjp` is such a transformation itself
PARTIAL = ("jax.shard_map",)
CONSTANT_RESIDUALS = False  # `fwd` is differentiated itself
QUICK = ("jax.jit",)
under_autocast: Callable[[Function], Function] | None = None
without_cotangents: Callable[..., list[Any]] | None = None
LAYOUTS: dict[str, Callable[[jax.Array], jax.Array | None]] = {}  # arrays have no strides


def _scanned(fn: Function) -> Function:
    def scanned(*arrays: Any) -> Any:
        _, stacked = jax.lax.scan(lambda carry, _: (carry, _outputs(fn, carry)), arrays, None, length=1)
        return [y[0] for y in stacked]

    return scanned


def _sharded(fn: Function) -> Function:
    """On a mesh of all devices: arrays of the highest rank are sharded along their first axis, the others are not."""

    def sharded(*arrays: Any) -> Any:
        rank = max(np.ndim(a) for a in arrays)
        rows = math.gcd(*(len(a) for a in arrays if np.ndim(a) == rank)) if rank else 1
        count = max(n for n in range(1, jax.device_count() + 1) if rows % n == 0)
        mesh = jax.make_mesh((count,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
        specs = [jax.P("i") if np.ndim(a) == rank and rank > 0 else jax.P() for a in arrays]
        shapes = jax.eval_shape(lambda *arrays: _outputs(fn, arrays), *arrays)
        if any(y.ndim == 0 for y in shapes):
            raise NotImplementedError("an output without an axis cannot be sharded")
        return jax.shard_map(
            lambda *arrays: _outputs(fn, arrays), mesh=mesh, in_specs=tuple(specs), out_specs=jax.P("i")
        )(*arrays)

    return sharded


TRANSFORMS: dict[str, Callable[[Function], Function]] = {
    "jax.jit": jax.jit,
    "jax.checkpoint": jax.checkpoint,
    "jax.checkpoint(policy=dots_saveable)": lambda fn: jax.checkpoint(fn, policy=jax.checkpoint_policies.dots_saveable),
    "jax.lax.scan": _scanned,
    "jax.shard_map": _sharded,
}


def parts(fn: Any) -> tuple[Function, Any]:
    return fn, None  # the arrays of a callable tree are among the arrays of the call anyway


def is_inexact(a: Any) -> bool:
    return hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jnp.inexact)


def is_differentiable(a: Any) -> bool:
    return is_inexact(a)


def to_numpy(a: Any) -> np.ndarray:
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        a = jax.random.key_data(a)
    if jnp.issubdtype(a.dtype, jnp.complexfloating):
        return np.array(a, np.complex128)
    return np.array(a, np.float64) if is_inexact(a) else np.array(a)


def like(a: Any, values: np.ndarray) -> jax.Array:
    if not is_inexact(a):  # an integer or a key: nobody can write to it
        return a
    if not jnp.issubdtype(a.dtype, jnp.complexfloating):
        values = values.real
    with np.errstate(over="ignore"):
        return jnp.asarray(values, a.dtype)


def share_memory(a: Any, b: Any) -> bool:
    return a is b


def cast(a: Any, dtype: str) -> Any:
    if not is_inexact(a):
        return a
    if jnp.issubdtype(a.dtype, jnp.complexfloating):
        dtype = "complex128" if dtype == "float64" else "complex64"
    return jnp.asarray(a, dtype)


def _outputs(fn: Function, arrays: Sequence[Any]) -> list[Any]:
    leaves = [y if hasattr(y, "dtype") else jnp.asarray(y) for y in jax.tree.leaves(fn(*arrays))]
    return [y for y in leaves if is_inexact(y)]


def forward(fn: Function, arrays: Sequence[Any]) -> list[Any]:
    return _outputs(fn, arrays)


def _of_some(fn: Function, arrays: Sequence[Any], wrt: Sequence[int]) -> Function:
    """`fn` as a function of the arrays at these places, with the others as they are."""

    def of_some(*some: Any) -> list[Any]:
        chosen = dict(zip(wrt, some, strict=True))
        return _outputs(fn, [chosen.get(i, a) for i, a in enumerate(arrays)])

    return of_some


def differentiable_outputs(fn: Function, arrays: Sequence[Any], wrt: Sequence[int]) -> list[bool]:
    """By the jaxpr: a result has a gradient if it depends on an argument past every `stop_gradient`."""
    try:
        made = jax.make_jaxpr(lambda *arrays: _outputs(fn, arrays))(*arrays)
    except jax.errors.ConcretizationTypeError:  # the path depends on numbers
        return [True] * len(_outputs(fn, arrays))
    return _reached(made.jaxpr, [i in wrt for i in range(len(made.jaxpr.invars))])


def _reached(jaxpr: Any, given: Sequence[bool]) -> list[bool]:
    """Which results of a jaxpr depend on the arguments given."""
    reached = {v for v, is_given in zip(jaxpr.invars, given, strict=True) if is_given}
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "stop_gradient":
            continue
        ins = [not isinstance(v, core.Literal) and v in reached for v in eqn.invars]
        inner = eqn.params.get("call_jaxpr") or eqn.params.get("jaxpr")
        inner = getattr(inner, "jaxpr", inner)
        is_call = inner is not None and len(inner.invars) == len(ins) and len(inner.outvars) == len(eqn.outvars)
        outs = _reached(inner, ins) if is_call and eqn.primitive.name != "scan" else [any(ins)] * len(eqn.outvars)
        reached.update(v for v, is_out in zip(eqn.outvars, outs, strict=True) if is_out)
    return [not isinstance(v, core.Literal) and v in reached for v in jaxpr.outvars]


def _in_one_program(run: Function) -> Function:
    """`run` compiled as a whole, which is far faster than every operation by itself, or as it is if that fails."""

    def compiled(*args: Any) -> Any:
        try:
            return jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})(*args)
        except Exception:  # code whose path depends on numbers, for one; others raise again
            return run(*args)

    return compiled


def vjp(fn: Function, arrays: Sequence[Any], wrt: Sequence[int]) -> tuple[list[Any], Pull]:
    outs, pulled = jax.vjp(_of_some(fn, arrays, wrt), *(arrays[i] for i in wrt))

    def pull(gs: Sequence[Any]) -> list[Any]:
        return list(pulled([jnp.zeros_like(y) if g is None else g for y, g in zip(outs, gs, strict=True)]))

    return outs, pull


def functional_vjp(
    fn: Function, arrays: Sequence[Any], wrt: Sequence[int], gs: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    outs, pull = jax.vjp(_of_some(fn, arrays, wrt), *(arrays[i] for i in wrt))
    return outs, list(pull(list(gs)))


def batched_vjp(
    fn: Function, arrays: Sequence[Any], wrt: Sequence[int], gs: Sequence[Any], axes: Sequence[int | None]
) -> tuple[list[Any], list[Any]]:
    def one(arrays: list[Any], gs: list[Any]) -> Any:
        return functional_vjp(fn, arrays, wrt, gs)

    outs, grads = _in_one_program(jax.vmap(one, in_axes=(list(axes), 0)))(list(arrays), list(gs))
    return outs, grads


def second(
    fn: Function, arrays: Sequence[Any], wrt: Sequence[int], gs: Sequence[Any], us: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    def first(some: list[Any], gs: list[Any]) -> list[Any]:
        return list(jax.vjp(_of_some(fn, arrays, wrt), *some)[1](gs))

    def both(some: list[Any], gs: list[Any], us: list[Any]) -> Any:
        return jax.vjp(first, some, gs)[1](us)

    d_some, d_gs = _in_one_program(both)([arrays[i] for i in wrt], list(gs), list(us))
    return d_some, d_gs


def seeded(seed: int) -> AbstractContextManager[None]:
    return nullcontext()  # there is no global generator


def settings() -> dict[str, Setting]:
    return {name: Setting(value, partial(jax.config.update, name)) for name, value in jax.config.values.items()}


def random_state() -> bytes:
    return b""


def returned(fn: Function, arrays: Sequence[Any], wrt: Sequence[int]) -> list[Returned]:
    return []  # JAX hands on a gradient as it is, or raises


def gradient_dtypes(fn: Function, arrays: Sequence[Any], wrt: Sequence[int]) -> list[str | None]:
    def gradients(*arrays: Any) -> Any:
        outs, pull = vjp(fn, arrays, wrt)
        return pull([jnp.ones_like(y) for y in outs])

    try:
        found = jax.eval_shape(gradients, *arrays)
    except jax.errors.ConcretizationTypeError:  # the path depends on numbers
        found = gradients(*arrays)
    return [str(d.dtype) for d in found]


def has_rule(fn: Function, arrays: Sequence[Any], wrt: Sequence[int]) -> bool:
    try:
        return "custom_vjp_call" in str(jax.make_jaxpr(lambda *arrays: _outputs(fn, arrays))(*arrays))
    except jax.errors.ConcretizationTypeError:  # the path depends on numbers
        return True


def leaks(fn: Function, arrays: Sequence[Any], wrt: Sequence[int]) -> str:
    return ""


def refuses(problem: BaseException) -> str:
    text = str(problem)
    if "must produce an output with the same type" in text and "manual ax" in text:
        return "an argument that all devices share has a gradient on each; jax.lax.psum it over the axes of the mesh"
    return ""

"""The JAX adapter; `residuals_lab.frameworks.protocol` says what its names mean."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np

import residuals_jax
from residuals_jax._lib import cotangents
from residuals_lab.errors import UsageError
from residuals_lab.frameworks.compiled import Compiled, Subject
from residuals_lab.frameworks.jax.own import OWN as OWN
from residuals_lab.frameworks.jax.programs import copier as copier
from residuals_lab.frameworks.jax.programs import fused as fused
from residuals_lab.frameworks.jax.programs import multiplier as multiplier
from residuals_lab.frameworks.jax.programs import program as program
from residuals_lab.frameworks.jax.record import record as record
from residuals_lab.frameworks.jax.tracing import trace as trace
from residuals_lab.frameworks.jax.walk import address
from residuals_lab.trace import Input

NAME = "jax"
TITLE = f"JAX {jax.__version__}"
DTYPES: tuple[str, ...] = ("float64", "float32", "bfloat16", "float16")


def op(name: str) -> ModuleType:
    return import_module(f"residuals_jax.ops.{name}")


def public(name: str) -> Callable[..., Any]:
    return getattr(residuals_jax, name)


def likes(*arrays: jax.Array | None) -> Any:
    return cotangents.likes(*arrays)


def devices() -> tuple[str, ...]:
    try:
        return ("cpu", "gpu") if jax.devices("gpu") else ("cpu",)
    except RuntimeError:
        return ("cpu",)


def placed(device: str) -> AbstractContextManager[Any]:
    return jax.default_device(jax.devices(device)[0])


def precision(dtype: str) -> AbstractContextManager[Any]:
    return jax.enable_x64(True) if dtype == "float64" else nullcontext()


def array(a: np.ndarray, dtype: str | None = None, device: str = "cpu") -> jax.Array:
    with np.errstate(over="ignore"):  # a number that overflows becomes infinite
        return jax.device_put(jnp.asarray(a, dtype), jax.devices(device)[0])


def constant(a: np.ndarray, device: str = "cpu") -> np.ndarray:
    return a  # on no device and no mesh, it follows the others


def to_numpy(a: jax.Array) -> np.ndarray:
    return np.asarray(a, np.complex128 if jnp.iscomplexobj(a) else np.float64)


def is_floating(a: Any) -> bool:
    return isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jnp.floating)


def dtype_of(a: jax.Array) -> str:
    return str(a.dtype)


def carried(fn: Callable[..., Any], args: Sequence[Any]) -> list[Input]:
    return []


def cast(arrays: Sequence[Any], dtype: str, device: str) -> AbstractContextManager[None]:
    return nullcontext()


# One program, which compiles far faster than every operation by itself, and runs but once: faster still unoptimized.
_quickly = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def value_and_vjp(fn: Callable[..., Any], args: Sequence[Any], g: Any) -> tuple[Any, tuple[Any, ...]]:
    @_quickly
    def run(args: Sequence[Any], g: Any) -> tuple[Any, tuple[Any, ...]]:
        y, pull = vjp(fn, args)
        return y, pull(g)

    return run(args, g)


def vjp(fn: Callable[..., Any], args: Sequence[Any]) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    return jax.vjp(fn, *args)


def uncompiled() -> AbstractContextManager[Any]:
    return jax.disable_jit()


def rule_of(fn: Callable[..., Any], x: jax.Array) -> Any:
    """The first `jax.custom_vjp` that `fn(x)` calls, with its `fwd` and its `bwd`."""
    called, call = [], jax.custom_vjp.__call__

    def noted(rule: Any, *args: Any, **kwargs: Any) -> Any:
        called.append(rule)
        return call(rule, *args, **kwargs)

    with patch.object(jax.custom_vjp, "__call__", noted), uncompiled():
        try:
            fn(x)
        except Exception:  # of somebody's rule, after it was seen: which rule it is does not depend on that
            if not called:
                raise
    return called[0] if called and called[0].bwd else None


def node_of(y: Any) -> None:
    return None


def second_vjp(fn: Callable[..., Any], args: Sequence[Any], g: Any, us: Sequence[Any]) -> tuple[Any, ...]:
    @_quickly
    def run(args: tuple[Any, ...], g: Any, us: tuple[Any, ...]) -> tuple[Any, ...]:
        _, pull = jax.vjp(lambda args, g: jax.vjp(fn, *args)[1](g), args, g)
        d_args, d_g = pull(us)
        return (*d_args, d_g)

    return run(tuple(args), g, tuple(us))


def arrays_in(tree: Any) -> tuple[dict[str, Any], Callable[[Sequence[Any]], Any]]:
    """Of any pytree; shapes and dtypes, `jax.ShapeDtypeStruct`, count as arrays."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    places = [i for i, (_, leaf) in enumerate(leaves) if hasattr(leaf, "shape") and hasattr(leaf, "dtype")]

    def rebuild(arrays: Sequence[Any]) -> Any:
        given = dict(zip(places, arrays, strict=True))
        return jax.tree.unflatten(treedef, [given.get(i, leaf) for i, (_, leaf) in enumerate(leaves)])

    return {jax.tree_util.keystr(leaves[i][0]): leaves[i][1] for i in places}, rebuild


def frozen(tree: Any) -> Any:
    """The tree as it is: no array in JAX says by itself that it is not to be differentiated."""
    return tree


def shaped(shape: tuple[int, ...], dtype: str) -> Any:
    """A `jax.ShapeDtypeStruct`."""
    if dtype == "key":
        return jax.eval_shape(lambda: jax.random.split(jax.random.key(0), shape or ()))
    if dtype in ("float64", "int64") and not jax.config.read("jax_enable_x64"):
        raise UsageError(f"argument: JAX computes in 32 bits unless JAX_ENABLE_X64=1 is set, got {dtype}")
    return jax.ShapeDtypeStruct(shape, dtype)


def random_like(a: Any) -> Any:
    if jnp.issubdtype(a.dtype, jnp.floating):
        return jax.random.uniform(jax.random.key(0), a.shape, a.dtype)
    return jnp.zeros(a.shape, a.dtype) if not jnp.issubdtype(a.dtype, jax.dtypes.extended) else jax.random.key(0)


def abstractly() -> AbstractContextManager[None]:
    """No special context: `without_computing` takes care of it."""
    return nullcontext()


def after_compilation(subject: Subject) -> Compiled:
    """XLA's scratch memory for one program of forward and backward, in which no array has to be saved between two.

    The arrays that it differentiates are those that `trace` differentiates.
    """
    arrays = [a.array for a in subject.inputs]
    is_inexact = [jnp.issubdtype(a.dtype, jnp.inexact) for a in arrays]
    differentiated = [i for i, a in enumerate(subject.inputs) if is_inexact[i] and a.role != "frozen"]

    def both(given: list[Any]) -> Any:
        def forward(*some: Any) -> Any:
            chosen = dict(zip(differentiated, some, strict=True))
            leaves = jax.tree.leaves(subject.flat(*(chosen.get(i, a) for i, a in enumerate(given))))
            return [y for y in leaves if jnp.issubdtype(jnp.result_type(y), jnp.inexact)]

        out, pull = jax.vjp(forward, *(given[i] for i in differentiated))
        return out, pull(jax.tree.map(jnp.ones_like, out))

    analysis = jax.jit(both).lower(arrays).compile().memory_analysis()
    scratch = analysis.temp_size_in_bytes if analysis is not None else 0
    return Compiled(f"XLA's scratch memory of one {jax.default_backend()} program", int(scratch))


def without_computing(make: Callable[[], Any]) -> Any:
    """With `jax.ShapeDtypeStruct`s in place of arrays."""
    rebuilds = []

    def arrays() -> list[Any]:
        found, rebuild = arrays_in(make())
        rebuilds.append(rebuild)
        return [*found.values()]

    shapes = jax.eval_shape(arrays)
    return rebuilds[0](shapes)


def outline(fn: Callable[..., Any], *args: Any) -> Any:
    return jax.eval_shape(fn, *args)


def checkpointed(fn: Callable[..., Any]) -> Callable[..., Any]:
    return jax.checkpoint(fn)


def saved_bytes(fn: Callable[..., Any], args: Sequence[jax.Array]) -> int:
    """The distinct buffers among the leaves of the `jax.vjp` result and the arrays that the backward closes over."""
    out, pull = jax.vjp(fn, *args)
    closed_over = jax.make_jaxpr(pull)(out).consts
    return sum({address(a): a.nbytes for a in (*jax.tree.leaves(pull), *closed_over)}.values())

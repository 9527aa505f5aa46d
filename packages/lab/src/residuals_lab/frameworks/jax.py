"""The JAX adapter. Its public functions are what every adapter provides."""

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

import residuals_jax
from residuals_jax import _lib
from residuals_lab.trace import Recorder, Trace

NAME = "jax"
TITLE = f"JAX {jax.__version__}"
DTYPES = ("float64", "float32", "bfloat16", "float16")

# Where this framework has another word than the traces' for an operation.
_OPS = {
    "broadcast_in_dim": "broadcast",
    "conv_general_dilated": "conv",
    "convert_element_type": "convert",
    "dot_general": "matmul",
    "logistic": "sigmoid",
    "max": "maximum",
    "min": "minimum",
    "random_bits": "random",
    "reduce_and": "all",
    "reduce_max": "max",
    "reduce_min": "min",
    "reduce_or": "any",
    "reduce_prod": "prod",
    "reduce_sum": "sum",
    "select_n": "where",
    "threefry2x32": "random",
    "top_k": "topk",
}
# Calls whose body is part of the caller's trace, by the parameter that holds it.
_BODIES = {
    "checkpoint": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "eval_jaxpr": "call_jaxpr",  # JAX 0.11 and later, around what a checkpoint computed
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "remat2": "jaxpr",
    "shard_map": "jaxpr",
}
# Operations that pass their operands on as they are: names, barriers for the compiler and for the derivative.
_IDENTITIES = {"name", "optimization_barrier", "stop_gradient"}


# The framework's own op, where it has one: its name, and what it is as a function of our op's arguments.
def _sdpa(q: Any, k: Any, v: Any, bias: Any = None, mask: Any = None, *, is_causal: bool, scale: float | None) -> Any:
    q, k, v = (jnp.swapaxes(a, -2, -3) for a in (q, k, v))
    y = jax.nn.dot_product_attention(q, k, v, bias, mask, is_causal=is_causal, scale=scale)
    return jnp.swapaxes(y, -2, -3)


OWN: dict[str, tuple[str, Callable[..., Any]]] = {
    "relu": ("jax.nn.relu", lambda x: jax.nn.relu(x)),
    "relu_bits": ("jax.nn.relu", lambda x: jax.nn.relu(x)),
    "sigmoid": ("jax.nn.sigmoid", lambda x: jax.nn.sigmoid(x)),
    "tanh": ("jnp.tanh", lambda x: jnp.tanh(x)),
    "silu": ("jax.nn.silu", lambda x: jax.nn.silu(x)),
    "gelu": ("jax.nn.gelu", lambda x, approximate: jax.nn.gelu(x, approximate=approximate == "tanh")),
    "swiglu": ("jax.nn.silu(gate)*up", lambda gate, up: jax.nn.silu(gate) * up),
    "geglu": ("jax.nn.gelu(gate)*up", lambda gate, up: jax.nn.gelu(gate, approximate=False) * up),
    "softmax": ("jax.nn.softmax", lambda x, axis: jax.nn.softmax(x, axis=axis)),
    "attention": ("jax.nn.dot_product_attention", _sdpa),
    "flash_attention": ("jax.nn.dot_product_attention", _sdpa),
    "layer_norm": (
        "jax.nn.standardize(x)*weight+bias",
        lambda x, weight=1.0, bias=0.0, *, eps: jax.nn.standardize(x, epsilon=eps) * weight + bias,
    ),
}


def op(name: str) -> ModuleType:
    """The op's module, with `Residuals`, `RECOMPUTES`, `fwd` and `bwd`."""
    return import_module(f"residuals_jax.ops.{name}")


def public(name: str) -> Callable[..., Any]:
    """The op as its users call it."""
    return getattr(residuals_jax, name)


def likes(*arrays: jax.Array | None) -> Any:
    """What a `bwd` is told of its op's arrays, by which it makes gradients of arrays that it was not given."""
    return _lib.types(*arrays)


def devices() -> tuple[str, ...]:
    """The kinds of device at hand, of "cpu" and "gpu"."""
    try:
        return ("cpu", "gpu") if jax.devices("gpu") else ("cpu",)
    except RuntimeError:
        return ("cpu",)


def precision(dtype: str) -> AbstractContextManager[Any]:
    """A context in which arrays of this dtype can be made and used."""
    return jax.enable_x64(True) if dtype == "float64" else nullcontext()


def array(a: np.ndarray, dtype: str | None = None, device: str = "cpu") -> jax.Array:
    """A differentiable array on `device`, in `dtype` or `a`'s own."""
    with np.errstate(over="ignore"):  # a number that overflows becomes infinite
        return jax.device_put(jnp.asarray(a, dtype), jax.devices(device)[0])


def constant(a: np.ndarray, device: str = "cpu") -> np.ndarray:
    """An array that is never differentiated, in `a`'s own dtype, to be used beside arrays on `device`."""
    return a  # on no device and no mesh, it follows the others


def to_numpy(a: jax.Array) -> np.ndarray:
    """Any array in float64."""
    return np.asarray(a, np.float64)


def is_floating(a: Any) -> bool:
    """Whether this is one array of real floating numbers."""
    return isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jnp.floating)


def dtype_of(a: jax.Array) -> str:
    return str(a.dtype)


def value_and_vjp(fn: Callable[..., Any], args: Sequence[Any], g: Any) -> tuple[Any, tuple[Any, ...]]:
    """`fn(*args)`, and its gradients for the cotangent `g`."""

    @jax.jit  # one program compiles far faster than every operation by itself
    def run(args: Sequence[Any], g: Any) -> tuple[Any, tuple[Any, ...]]:
        y, pull = jax.vjp(fn, *args)
        return y, pull(g)

    return run(args, g)


def second_vjp(fn: Callable[..., Any], args: Sequence[Any], g: Any, us: Sequence[Any]) -> tuple[Any, ...]:
    """The VJP of the VJP: the gradients of `Σ u·vjp(fn)(args, g)` with respect to `args` and `g`."""

    @jax.jit
    def run(args: tuple[Any, ...], g: Any, us: tuple[Any, ...]) -> tuple[Any, ...]:
        _, pull = jax.vjp(lambda args, g: jax.vjp(fn, *args)[1](g), args, g)
        d_args, d_g = pull(us)
        return (*d_args, d_g)

    return run(tuple(args), g, tuple(us))


def outline(fn: Callable[..., Any], *args: Any) -> Any:
    """`fn(*args)`, or what has its shapes and dtypes."""
    return jax.eval_shape(fn, *args)


def checkpointed(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` with nothing saved but its inputs: the floor, at the price of running it again."""
    return jax.checkpoint(fn)


def held_bytes(fn: Callable[..., Any], args: Sequence[jax.Array]) -> int:
    """Bytes really held between forward and backward: the distinct buffers among the leaves of the `jax.vjp` result and
    the arrays that the backward closes over.
    """
    out, pull = jax.vjp(fn, *args)
    closed_over = jax.make_jaxpr(pull)(out).consts
    return sum({_buffer(a): a.nbytes for a in (*jax.tree.leaves(pull), *closed_over)}.values())


def _buffer(a: Any) -> Hashable:
    """What tells one buffer from another: its address, where it has a single one."""
    if isinstance(a, jax.Array) and a.nbytes and len(a.devices()) == 1:
        return a.unsafe_buffer_pointer()
    return "array", id(a)


def trace(
    fn: Callable[..., Any],
    args: Sequence[jax.Array],
    names: Sequence[str],
    fields: Callable[..., Any] | None = None,
) -> Trace:
    """Record one forward and one backward of `fn`, without computing anything.

    What is held are the leaves of the `jax.vjp` result, and arrays that the backward closes over.

    Args:
        fn: a function of arrays only.
        args: its arguments.
        names: what to call each argument.
        fields: a function of the same arguments whose result is a NamedTuple: a held array that has the value of one of
            its fields is called by that field's name.
    """
    recorder = Recorder()
    made, (out, pull) = jax.make_jaxpr(lambda *a: jax.vjp(fn, *a), return_shape=True)(*args)
    read = jax.make_jaxpr(lambda pull, g: pull(g))(pull, out)
    out = jax.tree.leaves(out)

    inputs = [_array(recorder, ("input", i), a) for i, a in enumerate(args)]
    made_arrays = _run(recorder, made.jaxpr, _constants(recorder, made), inputs)
    outputs, saved = made_arrays[: len(out)], made_arrays[len(out) :]

    recorder.phase = "backward"
    cotangents = [_array(recorder, ("cotangent", i), o) for i, o in enumerate(out)]
    closed_over = _constants(recorder, read)
    _run(recorder, read.jaxpr, closed_over, [*saved, *cotangents])

    recorder.phase = "naming"
    labels = dict(zip((a.number for a in inputs), names, strict=True))
    if fields is not None:
        named, shape = jax.make_jaxpr(fields, return_shape=True)(*args)
        found = iter(_run(recorder, named.jaxpr, _constants(recorder, named), inputs))
        labels |= {next(found).number: name for name, leaf in shape._asdict().items() if leaf is not None}

    held = [(a, False) for a in saved] + [(a, True) for a in closed_over]
    return recorder.trace(
        [(a.number, a.storage, a.nbytes, hidden) for a, hidden in held],
        {a.number: a.storage for a in inputs},
        {a.number: a.storage for a in outputs},
        labels,
    )


class _Array(NamedTuple):
    """One array of a run: equal numbers are equal values, equal storages are the same array."""

    number: int
    storage: Hashable
    nbytes: int


def _array(recorder: Recorder, key: Hashable, like: Any) -> _Array:
    return _Array(recorder.value(key, like.shape, str(like.dtype)), key, like.size * like.dtype.itemsize)


def _constants(recorder: Recorder, closed: core.ClosedJaxpr) -> list[_Array]:
    return [_array(recorder, ("constant", id(c)), c) for c in closed.consts]


def _run(recorder: Recorder, jaxpr: core.Jaxpr, consts: Sequence[_Array], ins: Sequence[_Array]) -> list[_Array]:
    """Number the values of a jaxpr, bodies of calls included, and return its outputs."""
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *ins), strict=True))

    def read(atom: Any) -> _Array:
        if not isinstance(atom, core.Literal):
            return env[atom]
        # The same value wherever it is written, and an array of its own each time that it is held.
        return _array(recorder, ("literal", str(atom)), atom.aval)._replace(storage=("literal", id(atom)))

    for eqn in jaxpr.eqns:
        reads = [read(atom) for atom in eqn.invars]
        name = eqn.primitive.name
        if name in _IDENTITIES or _keeps_precision(eqn):
            outs = reads
        elif name in _BODIES:
            body = eqn.params[_BODIES[name]]
            if isinstance(body, core.ClosedJaxpr):
                outs = _run(recorder, body.jaxpr, _constants(recorder, body), reads)
            else:
                outs = _run(recorder, body, (), reads)
        else:
            avals: list[Any] = [v.aval for v in eqn.outvars]
            shapes = [(aval.shape, str(aval.dtype)) for aval in avals]
            numbers = recorder.step(_OPS.get(name, name), str(eqn.params), [a.number for a in reads], shapes)
            outs = [
                _Array(number, ("made", len(recorder.steps), i), aval.size * aval.dtype.itemsize)
                for i, (number, aval) in enumerate(zip(numbers, avals, strict=True))
            ]
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _keeps_precision(eqn: Any) -> bool:
    """Whether this is the `reduce_precision` that a checkpoint puts on what it saves: it reduces nothing."""
    if eqn.primitive.name != "reduce_precision":
        return False
    kept = jnp.finfo(eqn.invars[0].aval.dtype)
    return (eqn.params["exponent_bits"], eqn.params["mantissa_bits"]) == (kept.nexp, kept.nmant)

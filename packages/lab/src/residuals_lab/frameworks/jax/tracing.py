"""How the JAX adapter traces: it numbers the values of the jaxprs of a forward and of its backward."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from residuals_lab.errors import UsageError
from residuals_lab.frameworks.jax import eager
from residuals_lab.frameworks.jax.walk import EFFECT, Array, Body, Walk
from residuals_lab.show import size
from residuals_lab.trace import Kind, Role, Trace
from residuals_lab.trace.recorder import Recorder, Saved


def trace(
    fn: Callable[..., Any],
    args: Sequence[Any],
    names: Sequence[str],
    fields: Callable[..., Any] | None = None,
    *,
    roles: Sequence[Role] = (),
    around: Mapping[str, Any] = MappingProxyType({}),
    is_abstract: bool = True,
    with_contents: bool = False,
) -> Trace:
    """By the jaxprs of a forward and of its backward. The arguments of floating numbers are differentiated.

    The residuals are the leaves of the `jax.vjp` result, and the arrays that the backward closes over. Unless
    `is_abstract`, they are buffers, and how these were made is not seen. A run without a jit may hold more than jaxprs
    show: there `jnp.asarray` copies what is differentiated, such as the parameters of a dense layer of Flax; a note of
    the trace says how much.
    """
    return traced(fn, args, names, fields, roles, around, is_abstract, with_contents)


def traced(
    fn: Callable[..., Any],
    args: Sequence[Any],
    names: Sequence[str],
    fields: Callable[..., Any] | None,
    roles: Sequence[Role],
    around: Mapping[str, Any],
    is_abstract: bool,
    with_contents: bool,
    hear: Callable[[Body, Mapping[int, Any]], None] | None = None,
) -> Trace:
    """A trace; `hear` is told the jaxpr of `fn` with the numbers of its values, and the values that are spelled out."""
    roles = roles or ["input"] * len(args)
    differentiated = [i for i, a in enumerate(args) if _is_inexact(a) and roles[i] != "frozen"]
    if not differentiated:
        raise UsageError("expected an argument of floating numbers to differentiate, got none")
    walk = Walk(Recorder())
    walk.hear = hear
    walk.inputs = [walk.array(("input", i), a) for i, a in enumerate(args)]
    forward = _with_pullback(fn, differentiated, walk.given)
    asked = list[Any]()  # for numbers that they would have in a run without a jit
    if is_abstract:
        with eager.noted(asked):
            made, (out, rest, pull) = jax.make_jaxpr(eager.at_outermost(forward), return_shape=True)(*args)
        made_arrays = walk.run(made, walk.inputs)
    else:
        if shape := next((a for a in args if isinstance(a, jax.ShapeDtypeStruct)), None):
            raise UsageError(f"expected arrays to run it on, got {shape}")
        args = [jnp.asarray(a) for a in args]  # on the device before they are known by their buffers
        alive = jax.live_arrays()
        out, rest, pull = forward(*args)
        made_arrays = walk.buffers(args, alive, jax.tree.leaves((out, rest, pull)))
    if not out:
        raise UsageError("expected a result of floating numbers, got none")
    read = _backward(pull, out, is_abstract)
    if read and not _reaches(read.jaxpr, len(out)):
        raise UsageError("expected a result that depends on what is differentiated, got none that does")
    outputs, leaves = made_arrays[: len(out) + len(rest)], made_arrays[len(out) + len(rest) :]

    walk.recorder.phase = "backward"
    cotangents = [walk.array(("cotangent", i), o) for i, o in enumerate(out)]
    gradients = walk.run(read, [*leaves, *cotangents]) if read else []
    if not read:
        walk.unseen(leaves)

    walk.recorder.phase = "naming"
    if is_abstract:
        _run_for_names(walk, fn, args)
    labels = _around(walk, around) | walk.names | walk.fields
    labels |= zip((a.number for a in walk.inputs), names, strict=True)
    labels |= _fields(walk, fields, args) if fields else {}
    kinds: list[Kind] = ["parameter" if role == "parameter" else "input" for role in roles]
    known = [a.known_as(kind) for kind, a in zip(kinds, walk.inputs, strict=True)]
    known += [a.known_as("output") for a in outputs]
    saved = [a.saved_as(is_hidden=False) for a in leaves]
    saved += [a.saved_as(is_hidden=True) for a in (walk.constants(read) if read else ())]
    found = walk.recorder.trace(saved, known, [EFFECT, *(a.storage for a in gradients)], labels)
    if asked and (said := _copies(_new_bytes_without_a_jit(fn, differentiated, args) - _new_bytes(outputs, leaves))):
        found = replace(found, notes=[*found.notes, said])
    return replace(found, contents=_contents(made, args, saved, read)) if with_contents and is_abstract else found


def _copies(nbytes: int) -> str:
    """What is kept in code without a jit alone, as a sentence."""
    said = f"Outside of jax.jit it keeps {size(nbytes)} more: copies that jnp.asarray makes; --concrete shows them."
    return said if nbytes > 0 else ""


def _new_bytes(outputs: Sequence[Array], leaves: Sequence[Array]) -> int:
    """Bytes of what is made for a pullback, and is no output."""
    known = {a.storage for a in outputs}
    return sum({a.storage: a.nbytes for a in leaves if a.storage[0] == "made" and a.storage not in known}.values())


def _new_bytes_without_a_jit(fn: Callable[..., Any], differentiated: Sequence[int], args: Sequence[Any]) -> int:
    """The same, where `jnp.asarray` copies; 0 if `fn` cannot be traced so."""
    walk = Walk(Recorder())
    walk.inputs = [walk.array(("input", i), a) for i, a in enumerate(args)]
    forward = eager.at_outermost(_with_pullback(fn, differentiated, walk.given))
    try:
        with eager.copying():
            made, (out, rest, _) = jax.make_jaxpr(forward, return_shape=True)(*args)
    except Exception:  # of any kind: code may ask a tracer that stands for numbers for these
        return 0
    arrays = walk.run(made, walk.inputs)
    results = len(out) + len(rest)
    return _new_bytes(arrays[:results], arrays[results:])


def _contents(
    made: core.ClosedJaxpr, args: Sequence[Any], saved: Sequence[Saved], read: core.ClosedJaxpr | None
) -> dict[int, Any]:
    """What is saved: the last results of the forward, and the arrays that the backward closes over."""
    closed_over = read.consts if read else []
    results = core.jaxpr_as_fun(made)(*args)
    leaves = [*results[len(results) + len(closed_over) - len(saved) :], *closed_over]
    return {a.number: leaf for a, leaf in zip(saved, leaves, strict=True)}


def _with_pullback(fn: Callable[..., Any], differentiated: Sequence[int], given: dict[int, int]) -> Callable[..., Any]:
    """`fn` as a function that gives its floating results, its others, and the function that pulls cotangents back.

    Into `given` go the tracers that stand for its arguments.
    """

    def forward(*args: Any) -> Any:
        given.update((id(a), i) for i, a in enumerate(args) if isinstance(a, jax.core.Tracer))

        def of_differentiated(*some: Any) -> Any:
            chosen = dict(zip(differentiated, some, strict=True))
            leaves = jax.tree.leaves(fn(*(chosen.get(i, a) for i, a in enumerate(args))))
            leaves = [y if hasattr(y, "dtype") else jnp.asarray(y) for y in leaves]
            return [y for y in leaves if _is_inexact(y)], [y for y in leaves if not _is_inexact(y)]

        out, pull, rest = jax.vjp(of_differentiated, *(args[i] for i in differentiated), has_aux=True)
        return out, rest, pull

    return forward


def _backward(pull: Callable[..., Any], out: Any, is_abstract: bool) -> core.ClosedJaxpr | None:
    """The jaxpr of a backward; None if it cannot be traced, as it needs the numbers that a run has."""
    try:
        return jax.make_jaxpr(lambda pull, g: pull(g))(pull, out)
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
        if is_abstract:
            raise
        return None


def _around(walk: Walk, around: Mapping[str, Any]) -> dict[int, str]:
    """The names of the arrays around a function, by their numbers."""
    return {walk.constant(a).number: name for name, a in around.items() if isinstance(a, (jax.Array, np.ndarray))}


def _run_for_names(walk: Walk, fn: Callable[..., Any], args: Sequence[Any]) -> None:
    """Number `fn` once more, for the names that rules give to what they make: in this jaxpr rules are rules."""
    begin = len(walk.recorder.steps)
    walk.bodies = [] if walk.hear else None
    walk.run(jax.make_jaxpr(fn)(*args), walk.inputs)
    if walk.hear and walk.bodies:
        walk.hear(walk.bodies[0], walk.spelled_out)
    walk.bodies = None
    walk.recorder.forget(begin)


def _fields(walk: Walk, fields: Callable[..., Any], args: Sequence[Any]) -> dict[int, str]:
    """The names of the fields that a function gives, by number."""
    named, shape = jax.make_jaxpr(fields, return_shape=True)(*args)
    found = iter(walk.run(named, walk.inputs))
    return {next(found).number: name for name, leaf in shape._asdict().items() if leaf is not None}


def _reaches(jaxpr: Any, cotangents: int) -> bool:
    """Whether a backward makes any gradient of its last arguments, the cotangents."""
    reached = set(jaxpr.invars[len(jaxpr.invars) - cotangents :])
    for eqn in jaxpr.eqns:
        if not reached.isdisjoint(v for v in eqn.invars if not isinstance(v, core.Literal)):
            reached.update(eqn.outvars)
    return not reached.isdisjoint(v for v in jaxpr.outvars if not isinstance(v, core.Literal))


def _is_inexact(a: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(a), jnp.inexact)

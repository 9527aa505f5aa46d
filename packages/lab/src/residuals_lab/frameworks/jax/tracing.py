"""How the JAX adapter traces: it numbers the values of the jaxprs of a forward and of its backward."""

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from residuals_lab.errors import UsageError
from residuals_lab.frameworks.jax.walk import Walk
from residuals_lab.trace import Trace
from residuals_lab.trace.recorder import Recorder


def trace(
    fn: Callable[..., Any],
    args: Sequence[Any],
    names: Sequence[str],
    fields: Callable[..., Any] | None = None,
    *,
    parameters: Collection[int] = (),
    frozen: Collection[int] = (),
    around: Mapping[str, Any] = MappingProxyType({}),
    is_abstract: bool = True,
) -> Trace:
    """By the jaxprs of a forward and of its backward. The arguments of floating numbers are differentiated.

    The residuals are the leaves of the `jax.vjp` result, and the arrays that the backward closes over. Unless
    `is_abstract`, they are buffers, and how these were made is not seen.
    """
    differentiated = [i for i, a in enumerate(args) if _is_inexact(a) and i not in frozen]
    if not differentiated:
        raise UsageError("expected an argument of floating numbers to differentiate, got none")
    recorder = Recorder()
    walk = Walk(recorder)

    def forward(*args: Any) -> Any:
        walk.given |= {id(a): i for i, a in enumerate(args) if isinstance(a, jax.core.Tracer)}

        def of_differentiated(*some: Any) -> Any:
            given = dict(zip(differentiated, some, strict=True))
            leaves = jax.tree.leaves(fn(*(given.get(i, a) for i, a in enumerate(args))))
            leaves = [y if hasattr(y, "dtype") else jnp.asarray(y) for y in leaves]
            return [y for y in leaves if _is_inexact(y)], [y for y in leaves if not _is_inexact(y)]

        out, pull, rest = jax.vjp(of_differentiated, *(args[i] for i in differentiated), has_aux=True)
        return out, rest, pull

    walk.inputs = inputs = [walk.array(("input", i), a) for i, a in enumerate(args)]
    if is_abstract:
        made, (out, rest, pull) = jax.make_jaxpr(forward, return_shape=True)(*args)
        made_arrays = walk.run(made, inputs)
    else:
        if shape := next((a for a in args if isinstance(a, jax.ShapeDtypeStruct)), None):
            raise UsageError(f"expected arrays to run it on, got {shape}")
        args = [jnp.asarray(a) for a in args]  # on the device before they are known by their buffers
        alive = jax.live_arrays()
        out, rest, pull = forward(*args)
        made_arrays = walk.buffers(args, alive, jax.tree.leaves((out, rest, pull)))
    if not out:
        raise UsageError("expected a result of floating numbers, got none")
    read = jax.make_jaxpr(lambda pull, g: pull(g))(pull, out)
    if not _reaches(read.jaxpr, len(out)):
        raise UsageError("expected a result that depends on what is differentiated, got none that does")
    outputs, saved = made_arrays[: len(out) + len(rest)], made_arrays[len(out) + len(rest) :]

    recorder.phase = "backward"
    cotangents = [walk.array(("cotangent", i), o) for i, o in enumerate(out)]
    gradients = walk.run(read, [*saved, *cotangents])

    recorder.phase, begin = "naming", len(recorder.steps)
    labels = dict(zip((a.number for a in inputs), names, strict=True))
    if is_abstract:
        walk.run(jax.make_jaxpr(fn)(*args), inputs)  # in which rules are still rules
        recorder.forget(begin)
    closed_over = {
        walk.constant(a).number: name for name, a in around.items() if isinstance(a, (jax.Array, np.ndarray))
    }
    labels = closed_over | walk.fields | labels
    if fields is not None:
        named, shape = jax.make_jaxpr(fields, return_shape=True)(*args)
        found = iter(walk.run(named, inputs))
        labels |= {next(found).number: name for name, leaf in shape._asdict().items() if leaf is not None}

    known = [a.known_as("parameter" if i in parameters else "input") for i, a in enumerate(inputs)]
    held = [a.held(is_hidden=False) for a in saved] + [a.held(is_hidden=True) for a in walk.constants(read)]
    known += [a.known_as("output") for a in outputs]
    return recorder.trace(held, known, [a.storage for a in gradients], labels)


def _reaches(jaxpr: Any, cotangents: int) -> bool:
    """Whether a backward makes any gradient of its last arguments, the cotangents."""
    reached = set(jaxpr.invars[len(jaxpr.invars) - cotangents :])
    for eqn in jaxpr.eqns:
        if not reached.isdisjoint(v for v in eqn.invars if not isinstance(v, core.Literal)):
            reached.update(eqn.outvars)
    return not reached.isdisjoint(v for v in jaxpr.outvars if not isinstance(v, core.Literal))


def _is_inexact(a: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(a), jnp.inexact)

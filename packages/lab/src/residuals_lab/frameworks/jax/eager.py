"""Copies that JAX makes in code that runs without a jit.

There `jnp.asarray`, which many libraries call on every parameter, copies an array that is being differentiated even if
it has the right dtype; in a jit it gives the same array. JAX decides so by asking whether a tracer stands for numbers,
which none does in an abstract trace. Its functions for that have no public name: where they are not found, no copy is.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
from jax.extend.core.primitives import copy_p

_core: Any = None
_lax: Any = None
with suppress(ImportError, AttributeError):
    _found: tuple[Any, Any] = import_module("jax._src.core"), import_module("jax._src.lax.lax")
    _is_concrete, _converted, _ = _found[0].is_concrete, _found[1]._convert_element_type, _found[0].trace_ctx.trace
    _core, _lax = _found  # only if all of these are there
_outermost: list[Any] = []  # the traces of the functions that are traced so, the innermost last


def _has_numbers_in_a_run(a: Any) -> bool:
    """Whether a tracer of an abstract trace would have numbers in a run without a jit: it is differentiated and not
    mapped by `vmap`, and no jit and no loop is being traced.
    """
    within, current = a, _core.trace_ctx.trace
    while isinstance(within, jax.core.Tracer) and hasattr(within, "primal"):
        within = within.primal
    while not isinstance(current, type(_outermost[-1])) and hasattr(current, "parent_trace"):
        current = current.parent_trace
    if current is not _outermost[-1] or within is a or not isinstance(within, jax.core.Tracer):
        return False
    return getattr(within, "_trace", None) is current and jnp.issubdtype(a.dtype, jnp.inexact)


@contextmanager
def noted(found: list[Any]) -> Iterator[None]:
    """A context in which tracers that JAX asks for numbers, and that would have some in a run, go into `found`."""
    if _core is None:
        yield
        return

    def is_concrete(a: Any) -> bool:
        if _outermost and _has_numbers_in_a_run(a):
            found.append(a)
        return _is_concrete(a)

    with patch.object(_core, "is_concrete", is_concrete):
        yield


@contextmanager
def copying() -> Iterator[None]:
    """A context in which an abstract trace copies what a run without a jit does."""

    def is_concrete(a: Any) -> bool:
        return bool(_outermost and _has_numbers_in_a_run(a) and a.shape) or _is_concrete(a)

    def converted(operand: Any, *args: Any, **kwargs: Any) -> Any:
        made = _converted(operand, *args, **kwargs)
        is_copied = _outermost and isinstance(operand, jax.core.Tracer) and _has_numbers_in_a_run(operand)
        is_same = is_copied and (made.dtype, made.weak_type) == (operand.dtype, operand.weak_type)
        return copy_p.bind(made) if is_same else made

    with patch.object(_core, "is_concrete", is_concrete), patch.object(_lax, "_convert_element_type", converted):
        yield


def at_outermost(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` as the outermost function of a trace, whose tracers stand for arrays of a run."""

    def called(*args: Any) -> Any:
        _outermost.append(_core and _core.trace_ctx.trace)
        try:
            return fn(*args)
        finally:
            _outermost.pop()

    return called

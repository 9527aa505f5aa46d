"""Counts what a pullback of JAX holds, by the addresses of buffers, and asks the audit about the same call."""

import gc
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Call = tuple[Callable[..., Any], tuple[Any, ...], str]


def measured(fn: Callable[..., Any], args: tuple[Any, ...], roles: str) -> dict[str, Any]:
    """The bytes counted, and those that the audit says, abstractly and of a run."""
    from residuals_lab.audit import audit, frozen, parameter
    from residuals_lab.errors import UsageError

    mark = {"parameter": parameter, "frozen": frozen, "input": lambda a: a}
    marked = [mark[role](a) for role, a in zip(roles.split(), args, strict=True)]
    audits = {}
    for way, is_concrete in (("abstract", False), ("concrete", True)):
        try:
            report = audit(fn, *marked, framework="jax", is_concrete=is_concrete)
            unsure = [line for line in str(report).splitlines() if line.startswith(("Not exact", "Outside of jax.jit"))]
            audits[way] = {"bytes": report.new_bytes, "unsure": unsure, "refused": ""}
        except UsageError as problem:
            audits[way] = {"bytes": None, "unsure": [], "refused": str(problem)}
    return {"counted": new_bytes(fn, args, roles), "audits": audits}


def new_bytes(fn: Callable[..., Any], args: tuple[Any, ...], roles: str) -> int:
    """Bytes of the buffers that are there because of the backward, each once.

    That is what the pullback of a real `jax.vjp` holds, as the leaves of its tree or closed over by the backward, but
    for the arguments, for results, and for what was there before.
    """
    return sum(a.nbytes for a in held(fn, args, roles))


def held(fn: Callable[..., Any], args: tuple[Any, ...], roles: str) -> list[Any]:
    """These arrays themselves, one a buffer."""
    call, some = of_differentiated(fn, args, roles)
    jax.vjp(call, *some, has_aux=True)  # once before, so that what a library caches is there before
    gc.collect()
    before = [*jax.live_arrays(), *filter(is_array, jax.tree.leaves(args))]
    out, pull, others = jax.vjp(call, *some, has_aux=True)
    closed_over = jax.make_jaxpr(pull)(out).consts
    known = {address(a) for a in (*before, *jax.tree.leaves((out, others)))}
    kept = {address(a): a for a in (*jax.tree.leaves(pull), *closed_over) if is_array(a) and a.nbytes}
    return [a for key, a in kept.items() if key not in known]


def of_differentiated(
    fn: Callable[..., Any], args: tuple[Any, ...], roles: str
) -> tuple[Callable[..., Any], Sequence[Any]]:
    """`fn` as a function of the arrays that are differentiated, which gives floating results and the others; and these
    arrays: the floating ones that are not frozen.
    """
    leaves, treedef = jax.tree.flatten(args)
    frozen = jax.tree.leaves([jax.tree.map(lambda _, r=r: r, a) for r, a in zip(roles.split(), args, strict=True)])
    places = [i for i, a in enumerate(leaves) if is_inexact(a) and frozen[i] != "frozen"]

    def call(*some: Any) -> Any:
        given = dict(zip(places, some, strict=True))
        out = jax.tree.leaves(fn(*treedef.unflatten([given.get(i, a) for i, a in enumerate(leaves)])))
        return [y for y in out if is_inexact(y)], [y for y in out if not is_inexact(y)]

    return call, [leaves[i] for i in places]


def is_array(a: Any) -> bool:
    return hasattr(a, "dtype") and hasattr(a, "nbytes")


def is_inexact(a: Any) -> bool:
    return hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jnp.inexact)


def address(a: Any) -> Hashable:
    """Where an array's numbers are."""
    if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        a = jax.random.key_data(a)
    return a.unsafe_buffer_pointer() if isinstance(a, jax.Array) else a.ctypes.data

"""A function of somebody's as a program that is run again with ops in place of some of its equations."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

import residuals_jax
from residuals_lab.frameworks.jax.tracing import traced
from residuals_lab.frameworks.jax.walk import Body, Equation, scan_parts
from residuals_lab.frameworks.jax.words import PROGRAMS
from residuals_lab.frameworks.sites import Loop, Read, Site, Unplaced
from residuals_lab.trace import Role, Trace

_MANY = 2**26  # elements of an array that is not computed
_INLINE = {"closed_call", "core_call", "eval_jaxpr", *PROGRAMS}
_REMAT = {"checkpoint", "remat2"}


@dataclass
class _Instead:
    """What stands in place of some values, and which of it was met."""

    sites: Mapping[int, Site]
    loops: set[int]  # values that a loop gives whose body is to be in a checkpoint
    values: Mapping[int, Any]  # as a trace has them
    makers: Mapping[int, Equation]  # value → an equation that makes it
    met: set[int] = field(default_factory=set)


class Record:
    """The jaxpr of a function, with the numbers that a trace has for its values."""

    def __init__(
        self, body: Body, spelled_out: Mapping[int, Any], rebuild: Any, differentiated: Sequence[bool]
    ) -> None:
        self._body, self._spelled_out, self._tree, self._differentiated = body, spelled_out, rebuild, differentiated
        self._makers = {n: equation for equation in _all(body) for n in equation.outs}

    def instead(self, trace: Trace, sites: Sequence[Site | Loop]) -> Callable[..., Any]:
        """The function of the same arrays, with the ops in place."""
        ops = {site.number: site for site in sites if isinstance(site, Site)}
        loops = {trace.steps[site.bounds[-1]].outs[0] for site in sites if isinstance(site, Loop)}

        def replayed(*args: Any) -> Any:
            instead = _Instead(ops, loops, trace.values, self._makers)
            outs = _evaluate(self._body, [*self._body.consts, *args], instead, self._spelled_out)
            if unmet := (ops.keys() | loops) - instead.met:
                raise Unplaced(f"{len(unmet)} of its calls are not met in the program, as within a rule or a mesh")
            return jax.tree.unflatten(self._tree, outs)

        return replayed

    def numbers(self, trace: Trace, read: Read) -> Any:
        """By the equations that make it."""
        if trace.values[read.number].elements > _MANY:
            return None
        try:
            return np.asarray(self._number(read.number, {}))
        except Unplaced:
            return None

    def _number(self, n: int, known: dict[int, Any]) -> Any:
        if n in self._spelled_out:
            return self._spelled_out[n]
        if n not in known:
            equation = self._makers.get(n)
            if equation is None or equation.eqn.primitive.name in ("scan", "while", "cond"):
                raise Unplaced("it is given")
            made = _bound(equation.eqn, [self._number(i, known) for i in equation.ins])
            known.update(zip(equation.outs, made, strict=True))
        return known[n]

    def has_numbers(self, args: Sequence[Any]) -> bool:
        return not any(isinstance(a, jax.ShapeDtypeStruct) for a in args)

    def outcome(self, fn: Callable[..., Any], args: Sequence[Any]) -> list[Any]:
        """The floating results, and the gradients of the arguments that are differentiated."""
        args = [jnp.asarray(a) for a in args]
        wrt = [i for i, d in enumerate(self._differentiated) if d]

        def of_some(*some: Any) -> list[Any]:
            chosen = dict(zip(wrt, some, strict=True))
            outs = [jnp.asarray(y) for y in jax.tree.leaves(fn(*(chosen.get(i, a) for i, a in enumerate(args))))]
            return [y for y in outs if jnp.issubdtype(y.dtype, jnp.inexact)]

        @jax.jit  # which compiles once, where each operation by itself would be compiled
        def all_of_it(*some: Any) -> list[Any]:
            outs, pull = jax.vjp(of_some, *some)
            return [*outs, *pull([jnp.ones_like(y) for y in outs])]

        return [np.asarray(a, np.float64) for a in all_of_it(*(args[i] for i in wrt))]


def _all(body: Body) -> Iterator[Equation]:
    for equation in body.equations:
        yield equation
        for inside in equation.bodies:
            yield from _all(inside)


def _bound(eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
    """What an equation gives."""
    found = eqn.primitive.get_bind_params(eqn.params)
    functions, params = found if isinstance(found, tuple) else ((), found)  # one dict from 0.10 on
    made = eqn.primitive.bind(*functions, *values, **params)
    return made if eqn.primitive.multiple_results else [made]


def _evaluate(body: Body, values: Sequence[Any], instead: _Instead, around: Mapping[int, Any]) -> list[Any]:
    """What a jaxpr gives, with the ops in place."""
    env = dict(zip((*body.jaxpr.constvars, *body.jaxpr.invars), values, strict=True))
    known = {**around, **dict(zip(body.ins, values, strict=True))}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else env[atom]

    for equation in body.equations:
        eqn = equation.eqn
        site = next((instead.sites[n] for n in equation.outs if n in instead.sites), None)
        if site is None or len(equation.outs) > 1:
            made = [*_inside(equation, [read(atom) for atom in eqn.invars], instead, known)]
        if site is not None:
            instead.met.add(site.number)
            made = made if len(equation.outs) > 1 else [None]
            made[[*equation.outs].index(site.number)] = _made(site, instead, known)
        env.update(zip(eqn.outvars, made, strict=True))
        known.update(zip(equation.outs, made, strict=True))
    return [read(atom) for atom in body.jaxpr.outvars]


def _made(site: Site, instead: _Instead, known: Mapping[int, Any]) -> Any:
    """What an op makes in place of a value."""
    made = site.make(_op(site.op), *(_needed(read.number, instead, known) for read in site.reads))
    value = instead.values[site.number]
    return made.astype(value.dtype).reshape(value.shape)


def _needed(n: int, instead: _Instead, known: Mapping[int, Any]) -> Any:
    """A value that the op needs; made again, if it was made within a call that ran as a whole."""
    if n in known:
        return known[n]
    equation = instead.makers.get(n)
    if equation is None or equation.eqn.primitive.name in ("scan", "while", "cond"):
        raise Unplaced("an array that the op needs is not met before it")
    made = _bound(equation.eqn, [_needed(i, instead, known) for i in equation.ins])
    return made[[*equation.outs].index(n)]


def _op(name: str) -> Callable[..., Any]:
    """An op of ours; one that draws gets a key."""
    op = getattr(residuals_jax, name)
    key = jnp.array([1, 2], jnp.uint32)
    if name == "attention":
        return partial(op, key=key)
    return op if name != "dropout" else lambda x, rate: op(x, rate, key)


def _run_inside(body: Body, instead: _Instead, known: Mapping[int, Any], *values: Any) -> list[Any]:
    return _evaluate(body, [*body.consts, *values], instead, known)


def _inside(equation: Equation, values: Sequence[Any], instead: _Instead, known: Mapping[int, Any]) -> Sequence[Any]:
    """What an equation gives, with the ops in place in the jaxprs in it."""
    eqn, bodies = equation.eqn, equation.bodies
    name, is_loop = eqn.primitive.name, not instead.loops.isdisjoint(equation.outs)
    wanted = instead.sites.keys() | instead.loops
    if not is_loop and not any(n in wanted for body in bodies for e in _all(body) for n in e.outs):
        return _bound(eqn, values)
    if name in _INLINE:
        return _run_inside(bodies[-1], instead, known, *values)
    if name in _REMAT:
        policy = eqn.params.get("policy")
        again = jax.checkpoint(partial(_run_inside, bodies[-1], instead, known), policy=policy)
        return again(*values)
    if name == "cond":
        branches = [partial(_run_inside, branch, instead, known) for branch in bodies]
        return jax.lax.switch(values[0], branches, *values[1:])
    if name != "scan":
        return _bound(eqn, values)
    instead.met.update(instead.loops.intersection(equation.outs))
    first, split = scan_parts(eqn.params)
    n = split - first

    def step(carry: Any, xs: Any) -> Any:
        outs = _run_inside(bodies[-1], instead, known, *values[:first], *carry, *xs)
        return outs[:n], outs[n:]

    params = {key: eqn.params[key] for key in ("length", "reverse", "unroll")}
    carry, stacked = jax.lax.scan(
        jax.checkpoint(step) if is_loop else step, [*values[first:split]], [*values[split:]], **params
    )
    return [*carry, *stacked]


def record(
    fn: Callable[..., Any], args: Sequence[Any], *, roles: Sequence[Role] = (), is_abstract: bool = True
) -> Record:
    """The program of `fn`, by its jaxpr."""
    heard = list[tuple[Body, Mapping[int, Any]]]()
    names = [str(i) for i in range(len(args))]
    traced(fn, args, names, None, roles, {}, True, False, hear=lambda *found: heard.append(found))
    roles = roles or ["input"] * len(args)
    is_inexact = [jnp.issubdtype(jnp.result_type(a), jnp.inexact) for a in args]
    differentiated = [d and role != "frozen" for d, role in zip(is_inexact, roles, strict=True)]
    body, spelled_out = heard[0]
    tree = jax.tree.structure(jax.eval_shape(fn, *args))
    return Record(body, dict(spelled_out), tree, differentiated)

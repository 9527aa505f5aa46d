"""Whether a mutant is another program at all, and whether it is a wrong one: shown on all samples of its op."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mutants.calls import arguments, original
from mutants.functions import called, plain
from residuals_lab.frameworks import calls
from residuals_lab.frameworks.protocol import Framework
from residuals_lab.ops.call import Call, samples
from residuals_lab.ops.tolerance import error

# How far apart numbers of the same program may be that adds up in another order: relative to the largest.
ROUNDING = {"float64": 1e-12, "float32": 2.0**-20, "bfloat16": 2.0**-7}


def difference(adapter: Framework, op: str, covering: Sequence[str]) -> tuple[str, str]:
    """What differs between the op in this process and the repository's, and the first sample that shows it, of those
    that run the lines of the fault; two empty texts if nothing differs on any of them.

    Compared, but for rounding: values, gradients and their dtypes, in three dtypes; in float64 also second derivatives,
    the gradients where each argument alone is trained, those of a second backward and those of a cotangent that is not
    contiguous, arguments and cotangents afterwards, and the state of the random generator. Further what is saved, by
    kind and bytes, and what the backward repeats.
    """
    one, two = adapter.public(op), vars(original(adapter.NAME, op))[op]
    every = samples(op)
    for name in covering:
        for dtype in ROUNDING:
            with adapter.precision(dtype):
                if _program(adapter, one, every[name], dtype) == _program(adapter, two, every[name], dtype) != "":
                    continue
                pairs = zip(
                    _seen(adapter, one, every[name], dtype), _seen(adapter, two, every[name], dtype), strict=False
                )
                for (what, a), (_, b) in pairs:
                    if not _same(a, b, ROUNDING[dtype]):
                        return what, name
    return "", ""


def _program(adapter: Framework, public: Callable[..., Any], call: Call, dtype: str) -> str:
    """In JAX the program of values, residuals, gradients and second derivatives: where two are the same, so is all that
    they compute, and nothing has to run. "" where there is none.
    """
    if adapter.NAME != "jax":
        return ""
    import jax

    of, fn, count = calls.load("jax"), called(public, call), len(call.arrays)

    def run(*args: Any) -> Any:
        outs, pull = of.vjp(fn, args, range(count))
        second = of.second(fn, args, range(count), outs, args[:count])
        return outs, jax.tree.leaves([c.cell_contents for c in pull.__closure__]), pull(outs), second

    try:
        return str(jax.make_jaxpr(run)(*arguments(adapter, call, dtype)))
    except Exception:  # of any kind: a mutant may raise whatever it likes
        return ""


def _seen(adapter: Framework, public: Callable[..., Any], call: Call, dtype: str) -> Iterator[tuple[str, Any]]:
    """All that can be seen of a call, piece by piece."""
    of, fn, count = calls.load(adapter.NAME), called(public, call), len(call.arrays)
    try:
        args = arguments(adapter, call, dtype)
        with of.seeded(0):
            outs, pull = of.vjp(fn, args, range(count))
        gs = _cotangents(adapter, outs)
        yield "values", [(str(y.dtype), of.to_numpy(y)) for y in outs]
        state = of.random_state()
        grads = pull(gs)
        yield "the state of the random generator", of.random_state() == state
        yield "gradients", [d if d is None else (str(d.dtype), of.to_numpy(d)) for d in grads]
        if dtype != "float64":
            yield "what is saved", _kept(adapter, fn, args, call) if dtype == "float32" else None
            return
        yield "a second backward", [d if d is None else of.to_numpy(d) for d in pull(gs)]
        yield "arguments and cotangents afterwards", [of.to_numpy(a) for a in (*args, *gs)]
        for layout in of.LAYOUTS.values():
            other = [made if (made := layout(g)) is not None else g for g in gs]
            yield "strides", [d if d is None else of.to_numpy(d) for d in pull(other)]
        for i in range(count):
            with of.seeded(0):
                _, alone = of.vjp(fn, args, [i])
            yield "one argument alone", [d if d is None else of.to_numpy(d) for d in alone(gs)]
        with of.seeded(0):
            seconds = of.second(
                fn, args, range(count), gs, [a.detach() if hasattr(a, "detach") else a for a in args[:count]]
            )
        yield "second derivatives", [d if d is None else of.to_numpy(d) for ds in seconds for d in ds]
    except Exception as problem:  # of any kind: a mutant may raise whatever it likes
        yield "what it raises", f"{type(problem).__name__}: {problem}"


def _cotangents(adapter: Framework, outs: list[Any]) -> list[Any]:
    rng, of = np.random.default_rng(5), calls.load(adapter.NAME)
    return [of.like(y, rng.standard_normal(y.shape)) for y in outs]


def _kept(adapter: Framework, fn: Callable[..., Any], args: list[Any], call: Call) -> Any:
    trace = adapter.trace(fn, args, [*call.arrays, *call.constants])
    kept = sorted((r.kind, r.is_new, str(r.value), r.storage_bytes, bool(r.reads)) for r in trace.residuals)
    return kept, sorted(trace.repeats())


def _same(a: Any, b: Any, rounding: float) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_same(x, y, rounding) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and (error(a, b) <= rounding if a.dtype.kind == "f" else np.array_equal(a, b))
    return type(a) is type(b) and not isinstance(a, np.ndarray) and bool(a == b)


def is_right(adapter: Framework, op: str) -> bool:
    """Whether the op in this process, whatever its value is, has the gradient and the second derivative of that value
    on all samples, by plain autodiff of its own `fwd`: then it is another function, with a right gradient.
    """
    module, of = adapter.op(op), calls.load(adapter.NAME)
    for call in samples(op).values():
        with adapter.precision("float64"):
            found = []
            for fn in (called(adapter.public(op), call), plain(module, call)):
                try:
                    found.append(_derivatives(adapter, of, fn, call))
                except Exception:  # of any kind, as above
                    return False
            for a, b in zip(*found, strict=False):
                a, b = (np.zeros(1) if x is None else x for x in (a, b))
                if not np.allclose(
                    a, b, rtol=1e-7, atol=1e-9 * max(1.0, np.abs(b[np.isfinite(b)]).max(initial=0)), equal_nan=True
                ):
                    return False
    return True


def _derivatives(adapter: Framework, of: Any, fn: Callable[..., Any], call: Call) -> list[Any]:
    args, count = arguments(adapter, call, "float64"), len(call.arrays)
    with of.seeded(0):
        outs, pull = of.vjp(fn, args, range(count))
    gs = _cotangents(adapter, outs)
    found = [of.to_numpy(y) for y in outs] + [d if d is None else of.to_numpy(d) for d in pull(gs)]
    us = [a.detach() if hasattr(a, "detach") else a for a in args[:count]]
    with of.seeded(0):
        seconds = of.second(fn, args, range(count), gs, us)
    return found + [d if d is None else of.to_numpy(d) for d in seconds[0]]

"""A sample call of an op, ours or a mutant's, as functions and arrays of a framework; what runs in a child process."""

import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from mutants.functions import called
from mutants.source import package
from residuals_lab import frameworks
from residuals_lab.audit import frozen
from residuals_lab.frameworks.protocol import Framework
from residuals_lab.ops import OPS
from residuals_lab.ops.call import Call, samples

MOST = 600  # elements of an array of an ordinary sample


def original(framework: str, op: str) -> ModuleType:
    """The op's module as it is in the repository, under another name."""
    path, name = package(framework) / "ops" / f"{op}.py", f"residuals_{framework}.ops._original_{op}"
    if name not in sys.modules:
        text = path.read_text(encoding="utf-8").replace(f'"residuals_{framework}::', '"original::')
        module = ModuleType(name)
        module.__file__ = str(path)
        sys.modules[name] = module
        exec(compile(text, str(path), "exec"), vars(module))
    return sys.modules[name]


def arguments(adapter: Framework, call: Call, dtype: str = "float32") -> list[Any]:
    """The arrays, then the constants, whose statistics are in float32 or wider."""
    wide = np.float64 if dtype == "float64" else np.float32
    constants = (a.astype(wide) if a.dtype.kind == "f" else a for a in call.constants.values())
    return [adapter.array(a, dtype) for a in call.arrays.values()] + [adapter.constant(a) for a in constants]


def marked(adapter: Framework, call: Call) -> list[Any]:
    """The arguments in float32, the constants frozen, as `check` takes them."""
    made = arguments(adapter, call)
    return made[: len(call.arrays)] + [frozen(a) for a in made[len(call.arrays) :]]


def is_ordinary(call: Call) -> bool:
    """Whether a call has arrays of some elements, and none too many, and no extreme numbers."""
    arrays = [*call.arrays.values()]
    is_small = all(np.size(a) <= MOST for a in arrays) and all(np.size(a) >= 2 for a in arrays[:1])
    return is_small and all(np.isfinite(a).all() and np.abs(a).max(initial=0) < 100 and a.any() for a in arrays)


def lines_run(framework: str) -> dict[str, dict[str, list[int]]]:
    """Op → sample → the lines of the op's file that run in forward, backward and second derivative; of ordinary
    samples first.
    """
    adapter = frameworks.load(framework)
    return {op.name: _lines_of(adapter, op.name) for op in OPS}


def _lines_of(adapter: Framework, op: str) -> dict[str, list[int]]:
    path, found = str(package(adapter.NAME) / "ops" / f"{op}.py"), {}
    calls = samples(op)
    for name in sorted(calls, key=lambda name: not is_ordinary(calls[name])):
        seen: set[int] = set()

        def local(frame: Any, event: str, arg: Any, seen: set[int] = seen) -> Any:
            seen.add(frame.f_lineno)
            return local

        def trace(frame: Any, event: str, arg: Any, local: Any = local) -> Any:
            return local if frame.f_code.co_filename == path else None

        sys.settrace(trace)
        try:
            _run_twice(
                adapter,
                called(adapter.public(op), calls[name]),
                arguments(adapter, calls[name]),
                len(calls[name].arrays),
            )
        finally:
            sys.settrace(None)
        found[name] = sorted(seen)
    return found


def _run_twice(adapter: Framework, fn: Callable[..., Any], args: Sequence[Any], count: int) -> None:
    """Forward, backward and the backward of that, on shapes alone where the framework can."""
    from residuals_lab.frameworks import calls

    of = calls.load(adapter.NAME)

    def run(*args: Any) -> Any:
        outs = of.forward(fn, args)
        return of.second(fn, args, range(count), outs, args[:count])

    if adapter.NAME == "jax":
        import jax

        jax.eval_shape(run, *args)
    else:
        import torch

        try:
            run(*args)
        except RuntimeError:
            assert torch.is_grad_enabled()


def reference_names(adapter: Framework, op: str, call: Call) -> list[str]:
    """The names of the new arrays that the op saves in the repository's version."""
    from residuals_lab.audit import audit

    fn = called(vars(original(adapter.NAME, op))[op], call)
    kept = {
        r.storage: r.name
        for r in audit(fn, *marked(adapter, call), framework=adapter.NAME, name=op).residuals
        if r.is_new
    }
    return [*kept.values()]

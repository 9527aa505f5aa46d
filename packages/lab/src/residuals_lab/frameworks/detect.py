"""Which framework a function is of."""

import dataclasses
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from residuals_lab import frameworks
from residuals_lab.errors import UsageError


def framework_of(fn: Callable[..., Any], name: str, args: Sequence[Any] = ()) -> str:
    """The framework of the function `name`: from its arguments, its type, the names that its code can see."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    inner = inspect.unwrap(getattr(fn, "__func__", fn))
    seen = getattr(inner, "__globals__", None) or vars(sys.modules[type(inner).__module__])
    for things in (_types_in(args), type(fn).__mro__, _read_by(inner, seen), seen.values()):
        homes = [a.__name__ if isinstance(a, types.ModuleType) else getattr(a, "__module__", "") for a in things]
        if found := framework_in(map(str, homes)):
            return found
    raise UsageError(f"target: cannot tell the framework of {name}; say --framework jax or --framework torch")


def framework_in(modules: Iterable[str]) -> str | None:
    """The one framework that these modules are of or build on, if it is one."""
    roots = {module.partition(".")[0] for module in modules}
    found = [name for name in frameworks.NAMES if roots & {*ROOTS[name], f"residuals_{name}"}]
    return found[0] if len(found) == 1 else None


def _read_by(fn: Any, seen: Mapping[str, Any]) -> list[Any]:
    """What a function's own code reads of what it can see, with the classes behind it: one file may import both."""
    names = getattr(getattr(fn, "__code__", None), "co_names", ())
    read = [seen[name] for name in names if name in seen]
    return [c for a in read for c in ((a,) if isinstance(a, types.ModuleType) else (*_mro(a), *type(a).__mro__))]


def _mro(a: Any) -> tuple[Any, ...]:
    return a.__mro__ if isinstance(a, type) else ()


ROOTS = {"jax": {"jax", "jaxlib", "flax", "equinox", "haiku"}, "torch": {"torch"}}


def _types_in(args: Any) -> list[type]:
    """The types of arguments, those in lists and dicts too, and what they are derived from."""
    found: list[type] = []
    for a in args:
        within = a.values() if isinstance(a, dict) else a if isinstance(a, (list, tuple)) else ()
        within = vars(a).values() if dataclasses.is_dataclass(a) and not isinstance(a, type) else within
        found += [*type(a).__mro__, *_types_in(within)]
    return found

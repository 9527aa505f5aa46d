"""A call as somebody marks it, as a function of arrays alone."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from residuals_lab.errors import UsageError
from residuals_lab.frameworks.protocol import Framework
from residuals_lab.targets.arguments import Argument, value
from residuals_lab.targets.functions import load_target
from residuals_lab.trace import Input, Role

ROLES: dict[str, Role] = {"arg": "input", "param": "parameter", "frozen": "frozen", "input": "input"}


class Marked(NamedTuple):
    """An argument, an array or any tree of them, and its role."""

    tree: Any
    role: Role = "input"


def loaded(
    target: str,
    arguments: Sequence[Argument],
    adapter: Framework,
    is_concrete: bool,
    ran: dict[Path, ModuleType],
) -> tuple[Any, list[Marked], dict[str, Any]]:
    """The target, its arguments in order, and those by name."""
    fn = load_target(target, ran)
    args, kwargs = list[Marked](), dict[str, Any]()
    for argument in arguments:
        name, given = value(adapter, argument, is_concrete, ran)
        if name in kwargs:
            raise UsageError(f"--{argument.how}: {name} is given twice, the second time as {argument.text!r}")
        marked = Marked(given, ROLES[argument.how])
        if name:
            kwargs[name] = marked
        else:
            args.append(marked)
    return fn, args, kwargs


def flattened(
    adapter: Framework, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Callable[..., Any], list[Input]]:
    """`fn` as a function of the arrays in its arguments, and these arrays. The arrays of `fn` itself are parameters."""
    given = [("", Marked(fn, "parameter"))]
    given += zip(argument_names(fn, len(args)), map(as_marked, args), strict=True)
    given += [(key, as_marked(a)) for key, a in kwargs.items()]
    inputs, rebuilds = list[Input](), []
    for name, marked in given:
        found, rebuild = adapter.arrays_in(marked.tree)
        inputs += [Input(name + path, array, marked.role) for path, array in found.items()]
        rebuilds.append((len(found), rebuild))

    def flat(*arrays: Any) -> Any:
        rest, trees = list(arrays), []
        for n, rebuild in rebuilds:
            trees.append(rebuild(rest[:n]))
            del rest[:n]
        fn, *values = trees
        return fn(*values[: len(args)], **dict(zip(kwargs, values[len(args) :], strict=True)))

    return flat, inputs


def variables_around(fn: Callable[..., Any]) -> dict[str, Any]:
    """The variables around a function that it reads, by their names."""
    try:
        found = inspect.getclosurevars(inspect.unwrap(fn))
    except (TypeError, ValueError):  # `fn` is an object, or one of its variables is not set yet
        return {}
    return {**found.globals, **found.nonlocals}


def as_marked(a: Any) -> Marked:
    return a if isinstance(a, Marked) else Marked(a)


def argument_names(fn: Callable[..., Any], n: int) -> list[str]:
    """The names that `fn` has for its first `n` arguments."""
    try:
        parameters = [*inspect.signature(getattr(fn, "forward", fn)).parameters.values()]
    except (TypeError, ValueError):
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [*names[:n], *(f"argument {i}" for i in range(len(names), n))]

"""The audit of a target that a command line names, at arguments that it spells out.

An argument is `f32[1024,512]` for an array of that dtype and shape, a Python literal such as `0.1` or `"mean"`, or
`file.py:function` for what that function gives, say a tree of parameters. With `name=` before it, it goes by name.
"""

import ast
import contextlib
import importlib.util
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np

from residuals_lab import frameworks
from residuals_lab.audit import Marked, Report, audit
from residuals_lab.errors import UsageError
from residuals_lab.frameworks.detect import ROOTS, framework_of
from residuals_lab.frameworks.messages import explained
from residuals_lab.targets import executed, load_target, named_file, read_numbers

DTYPES = {
    "f64": "float64", "f32": "float32", "bf16": "bfloat16", "f16": "float16", "i64": "int64", "i32": "int32",
    "i16": "int16", "i8": "int8", "u8": "uint8", "u32": "uint32", "bool": "bool", "key": "key",
}  # fmt: skip


class Argument(NamedTuple):
    """An argument as somebody wrote it, and what it is: differentiated, a parameter, not differentiated, or a file."""

    how: Literal["arg", "param", "frozen", "input"]
    text: str


def audit_target(
    target: str, arguments: Sequence[Argument], framework: str | None = None, is_concrete: bool = False
) -> Report:
    """The report of `file.py:function` or `package.module:function` at these arguments.

    Nothing is allocated while a PyTorch target is imported and its arguments are made, unless `is_concrete` says so.

    Raises:
        UsageError: in one line, for whatever goes wrong, with what to do.
    """
    with contextlib.redirect_stdout(sys.stderr):  # what the target prints is no part of what is asked for
        return _audit_target(target, arguments, framework, is_concrete)


def _audit_target(target: str, arguments: Sequence[Argument], framework: str | None, is_concrete: bool) -> Report:
    framework = framework or _imported_by(target)
    if framework is None:
        framework = framework_of(load_target(target), target)
    adapter: Any = frameworks.load(framework)
    with contextlib.nullcontext() if is_concrete else adapter.abstractly():
        fn = load_target(target)
        args, kwargs = [], {}
        for argument in arguments:
            name, value = _value(adapter, argument, is_concrete)
            marked = Marked(value, argument.how == "param", argument.how == "frozen")
            if name in kwargs:
                raise UsageError(f"--{argument.how}: {name} is given twice, the second time as {argument.text!r}")
            if name:
                kwargs[name] = marked
            else:
                args.append(marked)
        return _audited(target, fn, args, kwargs, framework, is_concrete)


def _audited(
    target: str, fn: Any, args: list[Any], kwargs: dict[str, Any], framework: str, is_concrete: bool
) -> Report:
    try:
        return audit(fn, *args, framework=framework, is_concrete=is_concrete, name=target, **kwargs)
    except UsageError as problem:
        raise UsageError(f"{target}: {problem}") from problem
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # of a kind of its own
        raise UsageError(f"{target}: {explained(problem, is_concrete)}") from problem


def _imported_by(target: str) -> str | None:
    """The one framework that a target's file imports, so that the file can be run where nothing is allocated."""
    place = target.rpartition(":")[0]
    if place and not place.endswith(".py"):
        module = place
        spec = executed(module, Path.cwd(), lambda: importlib.util.find_spec(module))  # which imports packages around
        place = (spec and spec.origin) or ""
    if not place.endswith(".py") or not Path(place).is_file():
        return None
    with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):  # said when it is imported
        nodes = [*ast.walk(ast.parse(Path(place).read_text(encoding="utf-8")))]
        modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        modules += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        roots = {module.partition(".")[0] for module in modules}
        found = [name for name in frameworks.NAMES if roots & {*ROOTS[name], f"residuals_{name}"}]
        return found[0] if len(found) == 1 else None
    return None


def _in_32_bits(a: Any) -> Any:
    return a.astype("float32") if a.dtype == "float64" else a


def _value(adapter: ModuleType, argument: Argument, is_concrete: bool) -> tuple[str, Any]:
    """An argument's name, if it has one, and its value."""
    name, equals, text = argument.text.partition("=")
    if not equals or not name.isidentifier():
        name, text = "", argument.text
    if argument.how == "input":
        name, path = named_file(argument.text)
        return name, adapter.array(_in_32_bits(read_numbers(name, path)))
    array = re.fullmatch(r"(\w+)\[((?: *\d+ *,)*(?: *\d+ *)?)\]", text)
    if array:
        if array[1] not in DTYPES:
            raise UsageError(f"--{argument.how}: expected a dtype of {', '.join(DTYPES)}, got {argument.text!r}")
        try:
            shape = tuple(int(n) for n in array[2].split(",") if n.strip())
            made = adapter.shaped(shape, DTYPES[array[1]])
            if is_concrete:  # XLA would end the process where there is no memory for it
                np.empty(math.prod(shape) * made.dtype.itemsize, np.uint8)
            return name, adapter.random_like(made) if is_concrete else made
        except (RuntimeError, OverflowError, TypeError, ValueError, MemoryError) as problem:  # for too many bytes
            what = str(problem).partition("\n")[0]
            raise UsageError(f"--{argument.how}: {text} cannot be made: {what}") from problem
    if re.match(r"\w+\[", text):
        raise UsageError(f"--{argument.how}: expected a dtype and whole numbers, as in f32[1024,512], got {text!r}")
    if ":" in text and not text.startswith(("{", "'", '"')):
        try:
            make = load_target(text)
        except UsageError as problem:
            raise UsageError(str(problem).replace("target:", f"--{argument.how}:", 1)) from problem
        try:
            return name, adapter.without_computing(make)
        except (UsageError, KeyboardInterrupt):
            raise
        except BaseException as problem:
            what = f"{text} raised {explained(problem, is_concrete=True)}"
            raise UsageError(f"--{argument.how}: expected a function without arguments, and {what}") from problem
    try:
        return name, ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        expected = "f32[1024,512], a Python literal, or file.py:function that gives the value"
        raise UsageError(f"--{argument.how}: expected {expected}, got {argument.text!r}") from None

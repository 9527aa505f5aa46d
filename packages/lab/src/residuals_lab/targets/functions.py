"""Targets: the functions and models in files and packages that a command line names."""

import ast
import contextlib
import importlib
import importlib.machinery
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from residuals_lab.errors import UsageError, guess
from residuals_lab.frameworks.messages import explained, is_without_numbers

T = TypeVar("T")


def load_target(target: str, ran: dict[Path, types.ModuleType] | None = None) -> Callable[..., Any]:
    """The function that `path/to/file.py:function` or `package.module:function` names.

    `ran` remembers the modules of files that have run: given again, it makes a file run once for all its functions.
    """
    place, name = place_and_name(target)
    module = _load_file(Path(place), {} if ran is None else ran) if place.endswith(".py") else _load_module(place)
    found = executed(place, Path.cwd(), lambda: getattr(module, name, None))  # which may import a module
    if not callable(found) or isinstance(found, type):
        raise UsageError(f"target: {_not_a_function(module, place, name, found)}")
    return found


def place_and_name(target: str) -> tuple[str, str]:
    """The file or module that a target names, and what in it.

    Raises:
        UsageError: if the target names no function, or a folder.
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        functions = ", ".join(_functions_in(Path(target.rstrip(":"))))
        has = f"; it has {functions}" if functions else ""
        raise UsageError(f"target: expected file.py:function or package.module:function, got {target!r}{has}")
    if Path(place).is_dir():
        raise UsageError(f"target: {place} is a folder; expected a file in it, {Path(place) / 'file.py'}:function")
    return place, name


def _functions_in(path: Path) -> list[str]:
    """The functions of a file, by its text alone."""
    with contextlib.suppress(OSError, ValueError, SyntaxError):
        body = ast.parse(path.read_text(encoding="utf-8")).body if path.suffix == ".py" else []
        return [s.name for s in body if isinstance(s, ast.FunctionDef) and not s.name.startswith("_")]
    return []


def _not_a_function(module: types.ModuleType, place: str, name: str, found: Any) -> str:
    """What is wrong with a name that is no function, and what there is instead."""
    outer, _, method = name.rpartition(".")
    owner = getattr(module, outer, None) if outer else found
    if isinstance(owner, type):
        what = f"{name} in {place} is a method" if method and outer else f"{name} in {place} is a class"
        made = f"{owner.__name__}(...){f'.{method}' if outer else ''}"
        return f"{what}; expected a function, or an object of a class that can be called; add to the file: it = {made}"
    public = {key: value for key, value in vars(module).items() if callable(value) and not key.startswith("_")}
    functions = [key for key, value in public.items() if not isinstance(value, type)]
    return f"{place} has no function {name!r}; it has {', '.join(functions) or 'none'}{guess(name, functions)}"


def _load_file(path: Path, ran: dict[Path, types.ModuleType]) -> types.ModuleType:
    if not path.is_file():
        raise UsageError(f"target: no file at {path}{guess(path.name, (p.name for p in path.parent.glob('*.py')))}")
    if path.resolve() in ran:
        return ran[path.resolve()]
    loader = importlib.machinery.SourceFileLoader(path.stem, str(path))
    module = types.ModuleType(loader.name)
    module.__file__, module.__package__ = str(path), ""  # of none: what it imports relatively is refused as such
    sys.modules.setdefault(loader.name, module)  # where decorators such as dataclass look for it

    def run() -> types.ModuleType:
        loader.exec_module(module)
        return module

    ran[path.resolve()] = executed(str(path), path.resolve().parent, run)
    return module


def _load_module(name: str) -> types.ModuleType:
    return executed(name, Path.cwd(), lambda: importlib.import_module(name))


def _as_module(path: Path) -> str:
    """How a file of a package is named as a module, and from which folder."""
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        parts, folder = [folder.name, *parts], folder.parent
    if len(parts) == 1:  # it is in no package
        parts, folder = [folder.name, *parts], folder.parent
        return (
            f"add {folder / parts[0] / '__init__.py'}, and name it {'.'.join(parts)}:FUNCTION, in the folder {folder}"
        )
    return f"name it {'.'.join(parts)}:FUNCTION, in the folder {folder}"


def executed(place: str, folder: Path, run: Callable[[], T]) -> T:
    """The result of `run`, which imports `place`; `folder` is first on the path, as for a file that Python runs."""
    sys.path.insert(0, str(folder))
    try:
        return run()
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        why = explained(problem, is_concrete=not is_without_numbers(problem))
        if "attempted relative import" in why:
            why += f"; as a part of its package it can: {_as_module(Path(place).resolve())}"
        raise UsageError(f"target: {place} could not be imported: {why}") from problem
    finally:
        sys.path.remove(str(folder))

"""Targets: the functions and models in files and packages that a command line names."""

import importlib
import importlib.machinery
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from residuals_lab.errors import UsageError
from residuals_lab.frameworks.messages import explained

T = TypeVar("T")


def load_target(target: str, ran: dict[Path, types.ModuleType] | None = None) -> Callable[..., Any]:
    """The function that `path/to/file.py:function` or `package.module:function` names.

    `ran` remembers the modules of files that have run: given again, it makes a file run once for all its functions.
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise UsageError(f"target: expected file.py:function or package.module:function, got {target!r}")
    module = _load_file(Path(place), {} if ran is None else ran) if place.endswith(".py") else _load_module(place)
    found = executed(place, Path.cwd(), lambda: getattr(module, name, None))  # which may import a module
    if not callable(found) or isinstance(found, type):
        public = {key: value for key, value in vars(module).items() if callable(value) and not key.startswith("_")}
        functions = [key for key, value in public.items() if not isinstance(value, type)]
        raise UsageError(f"target: {place} has no function {name!r}; it has {', '.join(functions) or 'none'}")
    return found


def _load_file(path: Path, ran: dict[Path, types.ModuleType]) -> types.ModuleType:
    if not path.is_file():
        raise UsageError(f"target: no file at {path}")
    if path.resolve() in ran:
        return ran[path.resolve()]
    loader = importlib.machinery.SourceFileLoader(path.stem, str(path))
    module = types.ModuleType(loader.name)
    module.__file__ = str(path)
    sys.modules.setdefault(loader.name, module)  # where decorators such as dataclass look for it

    def run() -> types.ModuleType:
        loader.exec_module(module)
        return module

    ran[path.resolve()] = executed(str(path), path.resolve().parent, run)
    return module


def _load_module(name: str) -> types.ModuleType:
    return executed(name, Path.cwd(), lambda: importlib.import_module(name))


def executed(place: str, folder: Path, run: Callable[[], T]) -> T:
    """The result of `run`, which imports `place`; `folder` is first on the path, as for a file that Python runs."""
    sys.path.insert(0, str(folder))
    try:
        return run()
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        why = explained(problem, is_concrete=True)
        raise UsageError(f"target: {place} could not be imported: {why}") from problem
    finally:
        sys.path.remove(str(folder))

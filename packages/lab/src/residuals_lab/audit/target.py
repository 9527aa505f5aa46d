"""The audit of a target that a command line names, at arguments that it spells out."""

import ast
import contextlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from residuals_lab import frameworks
from residuals_lab.audit import Audit, audit
from residuals_lab.errors import UsageError, guess
from residuals_lab.frameworks.detect import framework_in, framework_of
from residuals_lab.frameworks.messages import explained
from residuals_lab.targets.arguments import Argument
from residuals_lab.targets.calls import loaded
from residuals_lab.targets.functions import executed, load_target, place_and_name


def audit_target(
    target: str,
    arguments: Sequence[Argument],
    framework: str | None = None,
    is_concrete: bool = False,
    compiled: bool = False,
    device: str | None = None,
    is_proved: bool = False,
) -> Audit:
    """The audit of `file.py:function` or `package.module:function` at these arguments.

    Nothing is allocated while a PyTorch target is imported and its arguments are made, unless `is_concrete` says so. A
    file whose imports do not tell its framework runs once more before, as it is. The file's arrays and the arguments
    are made on `device`, "cpu" or "gpu".

    Raises:
        UsageError: whatever goes wrong, in one line that says what to do.
    """
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the result, not for the target's own output
        ran: dict[Path, ModuleType] = {}  # files that have run: one that has target and arguments runs once
        framework = framework or _imported_by(target)
        if framework is None:
            framework = framework_of(load_target(target, ran), target)
            if framework == "torch" and not is_concrete:  # what its file has made is no fake
                ran.clear()
        adapter = frameworks.load(framework)
        if device and device not in adapter.devices():
            raise UsageError(f"--device {device}: {adapter.TITLE} finds none here, but {', '.join(adapter.devices())}")
        placed = adapter.placed(device) if device else contextlib.nullcontext()
        with placed, contextlib.nullcontext() if is_concrete else adapter.abstractly():
            fn, args, kwargs = loaded(target, arguments, adapter, is_concrete, ran)
            how: dict[str, Any] = {"framework": framework, "is_concrete": is_concrete, "compiled": compiled}
            how["is_proved"] = is_proved
            try:
                return audit(fn, *args, **how, name=target, **kwargs)
            except UsageError as problem:
                hint = _hint(problem, arguments) or _of_another(fn, target, framework) or _takes(fn, str(problem))
                raise UsageError(f"{target}: {problem}{hint}") from problem
            except KeyboardInterrupt:
                raise
            except BaseException as problem:  # such as SystemExit: the target is not ours
                raise UsageError(f"{target}: {explained(problem, is_concrete)}") from problem


def _hint(problem: UsageError, arguments: Sequence[Argument]) -> str:
    """Which options may help."""
    text = str(problem)
    if not arguments and any(part in text for part in ("missing", "to differentiate", "requires a gradient")):
        return (
            "; give it its arguments: --arg 'f32[4,8]', --param for parameters, --frozen for what is not differentiated"
        )
    if "to differentiate" in text or "requires a gradient" in text:
        return "; --arg and --param of floating numbers are differentiated, --frozen is not"
    return ""


def _of_another(fn: Any, target: str, framework: str) -> str:
    """That the code is of another framework than the one that was said."""
    with contextlib.suppress(UsageError):
        found = framework_of(fn, target)
        return f"; this code is of {found}, not of {framework}" if found != framework else ""
    return ""


def _takes(fn: Any, text: str) -> str:
    """The arguments of a function that was not called with these."""
    called = getattr(fn, "forward", fn)
    if not re.search(rf"\b{getattr(called, '__name__', '')}\(\) (missing|got an unexpected|takes)", text):
        return ""
    names, wrong = list[str](), re.search(r"unexpected keyword argument '(\w+)'", text)
    with contextlib.suppress(TypeError, ValueError):  # of what is not written in Python
        names = [*inspect.signature(called).parameters]
    return f"; it takes {', '.join(names)}{guess(wrong[1], names) if wrong else ''}"


def _imported_by(target: str) -> str | None:
    """The one framework that a target's file imports, so that the file can be run where nothing is allocated."""
    place, _ = place_and_name(target)
    if not place.endswith(".py"):
        module = place
        spec = executed(module, Path.cwd(), lambda: importlib.util.find_spec(module))  # imports its packages
        place = (spec and spec.origin) or ""
    if not place.endswith(".py") or not Path(place).is_file():
        return None
    with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):  # the import itself will say it
        nodes = [*ast.walk(ast.parse(Path(place).read_text(encoding="utf-8")))]
        modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        modules += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        return framework_in(modules)
    return None

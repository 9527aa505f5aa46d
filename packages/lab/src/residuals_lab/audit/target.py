"""The audit of a target that a command line names, at arguments that it spells out."""

import ast
import contextlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from residuals_lab import frameworks
from residuals_lab.audit import Audit, audit
from residuals_lab.errors import UsageError
from residuals_lab.frameworks.detect import framework_in, framework_of
from residuals_lab.frameworks.messages import explained
from residuals_lab.targets.arguments import Argument
from residuals_lab.targets.calls import loaded
from residuals_lab.targets.functions import executed, load_target


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
                raise UsageError(f"{target}: {problem}{_hint(problem, arguments)}") from problem
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


def _imported_by(target: str) -> str | None:
    """The one framework that a target's file imports, so that the file can be run where nothing is allocated."""
    place = target.rpartition(":")[0]
    if place and not place.endswith(".py"):
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

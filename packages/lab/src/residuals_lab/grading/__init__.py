"""Grading a learner's file: one finding, the first thing that is wrong, in words that say what to do about it.

A folder here holds the checks of the exercise of its name; this module loads a file and runs them.
"""

import importlib
import sys
import textwrap
import traceback
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from residuals_lab.trace import Residual


class Finding(NamedTuple):
    """What is wrong. `code` never changes its meaning; the rest is for people."""

    code: str
    title: str
    expected: str
    got: str
    why: str
    next: str

    @property
    def message(self) -> str:
        parts = f"expected: {self.expected}", f"got: {self.got}", f"why it matters: {self.why}", f"next: {self.next}"
        return "\n".join((self.title, *parts))


class Grade(NamedTuple):
    """`finding` is None on a pass, and `report` says what was achieved; `residuals` is empty before they are traced."""

    finding: Finding | None
    residuals: tuple[Residual, ...]
    report: str


def grade(exercise: str, adapter: ModuleType, path: Path) -> Grade:
    """Run the checks of an exercise on a file, up to the first that finds something."""
    checks = importlib.import_module(f"{__name__}.{exercise}")
    with adapter.precision("float64"):
        try:
            module = _execute(path)
        except (Exception, SystemExit) as error:
            return Grade(_raised(error, path, adapter), (), "")
        answer = checks.Answer(adapter, module)
        for check in checks.CHECKS:
            try:
                finding = check(answer)
            except (Exception, SystemExit) as error:
                finding = _raised(error, path, adapter)
            if finding:
                return Grade(finding, answer.residuals, "")
        return Grade(None, answer.residuals, checks.report(answer))


def _execute(path: Path) -> ModuleType:
    """The file as a module, compiled anew: a cached one could be older than the learner's last edit."""
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    code = compile(path.read_bytes(), str(path), "exec")
    sys.modules[path.stem] = module  # dataclasses look for their module there
    exec(code, module.__dict__)
    return module


def _raised(error: BaseException, path: Path, adapter: ModuleType) -> Finding:
    """An exception, told by its type, its text and the learner's own line."""
    lines = path.read_bytes().decode("utf-8", "replace").splitlines()
    text = textwrap.shorten(str(error), 300) or "no text"
    what = f"{type(error).__name__}: {text}"
    if isinstance(error, SyntaxError) and error.filename == str(path):
        number = error.lineno or 1
        return Finding(
            "syntax-error",
            f"Python cannot read line {number}",
            "a file that Python can import",
            f"SyntaxError: {error.msg}, at {_line(lines, number)}",
            "nothing runs until the whole file can be read",
            f"look at line {number}, and at the end of the line above it",
        )
    stack = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in stack if frame.filename == str(path)]
    if not frames:
        return Finding(
            "raises",
            f"{adapter.TITLE} raises {type(error).__name__} when it runs your functions",
            "no exception",
            what,
            "what raises cannot be graded any further",
            "the text is the framework's own: it names what a function of yours took or returned",
        )
    number, name = frames[-1].lineno or 1, frames[-1].name
    where = "the file" if name == "<module>" else f"`{name}`"
    if isinstance(error, NotImplementedError) and frames[-1] is stack[-1]:  # frameworks raise it too
        return Finding(
            "not-started",
            f"{where} is still to be written",
            f"the body of {where}" + (f": {text}" if str(error) else ""),
            f"`raise NotImplementedError`, at line {number}",
            "it is the part that makes this rule yours",
            f"replace line {number}; `--hint` helps",
        )
    return Finding(
        "raises",
        f"{where} raises {type(error).__name__}",
        "no exception",
        f"{what}, at {_line(lines, number)}",
        "what raises cannot be graded any further",
        f"make line {number} run, then check again",
    )


def _line(lines: list[str], number: int) -> str:
    text = lines[number - 1].strip() if number <= len(lines) else ""
    return f"line {number}: `{text}`" if text else f"line {number}"

"""Grading a learner's file: one finding, the first thing that is wrong, in words that say what to do about it.

A folder here holds the checks of the exercise of its name; this module loads a file and runs them.
"""

import importlib
import re
import signal
import sys
import textwrap
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from unittest.mock import patch

from residuals_lab import frameworks
from residuals_lab.finding import Finding
from residuals_lab.frameworks.protocol import Framework
from residuals_lab.show import size
from residuals_lab.targets.isolated import Ended
from residuals_lab.trace import Trace


class Grade(NamedTuple):
    """`finding` is None on a pass, and `report` says what was achieved; `trace` is None if no check asked for it."""

    finding: Finding | None
    trace: Trace | None = None
    report: str = ""


def grade(exercise: str, framework: str, path: Path) -> Grade:
    """Run the checks of an exercise on a file, up to the first that finds something."""
    checks, adapter = importlib.import_module(f"{__name__}.{exercise}"), frameworks.load(framework)
    source = path.read_bytes()
    with adapter.precision("float64"), _warnings_without_paths():
        try:
            with adapter.uncompiled():
                module = _execute(source, path)
        except BaseException as error:  # whatever a learner raises, SystemExit and KeyboardInterrupt too
            return Grade(_raised(error, source, path, adapter))
        answer = checks.Answer(adapter, module)
        for check in checks.CHECKS:
            try:
                finding = check(answer)
            except BaseException as error:
                finding = _raised(error, source, path, adapter)
            if finding:
                return Grade(finding, answer.traced)
        return Grade(None, answer.traced, checks.report(answer))


@contextmanager
def _warnings_without_paths() -> Iterator[None]:
    """A warning names the line that is to blame, which mostly is the framework's or ours."""
    with patch.object(warnings, "formatwarning", lambda text, kind, *_, **__: f"{kind.__name__}: {text}\n"):
        yield


def _execute(source: bytes, path: Path) -> ModuleType:
    """The file as a module, compiled anew: a cached one could be older than the learner's last edit."""
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    code = compile(source, str(path), "exec")
    sys.modules[path.stem] = module  # dataclasses look for their module there
    exec(code, module.__dict__)
    return module


def _raised(error: BaseException, source: bytes, path: Path, adapter: Framework) -> Finding:
    """The finding for an exception: its type, its text and the learner's own line."""
    lines = _lines(source)
    text = textwrap.shorten(_without_our_places(str(error)), 300) or "no text"
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
        "JAX runs it under `jit` too, where an array has a shape and no numbers yet"
        if re.match("Tracer|Concretization", type(error).__name__)
        else "what raises cannot be graded any further",
        f"make line {number} run, then check again",
    )


def _without_our_places(text: str) -> str:
    """A text without the sentences that name a file of ours, such as JAX's about the function that it compiles."""
    ours = str(Path(__file__).parents[2])
    return " ".join(sentence for sentence in re.split(r"(?<=\.)\s+|\n", text) if ours not in sentence)


def ended(end: Ended, path: Path) -> Finding:
    """The finding for a file that ended the process which graded it, or that did not end."""
    number = end.line_in(str(path))
    where = f", at {_line(_lines(path.read_bytes()), number)}" if number else ""
    if end.how == "time":
        return Finding(
            "does-not-end",
            f"your file did not end within {end.number:g} s",
            "a file that is graded in a few seconds",
            f"still running after {end.number:g} s{where}",
            "whoever calls your functions would wait for ever",
            f"look at the loop around line {number}: something in it has to bring it to an end"
            if number
            else "look for a loop whose condition is never false",
        )
    if end.how == "memory":
        return Finding(
            "too-much-memory",
            f"your file took more than {size(int(end.number))} of memory, and was stopped",
            "a few MiB: the x of the checks has 5 elements",
            f"more than {size(int(end.number))}{where}",
            "a system that runs out of memory stops other programs too",
            "look for an array of a size that does not come from x, or for a list that grows in a loop",
        )
    if end.how == "exit":
        return Finding(
            "exits-process",
            "your file ends the Python process",
            "a file that runs to its last line, and functions that return",
            f"the process ended with exit code {end.number:g}, without a word",
            "whoever imports your file would end with it",
            "take out what ends the process, such as `os._exit`; to stop with an error, raise an exception",
        )
    name = signal.strsignal(int(end.number)) or "unknown"
    return Finding(
        "crashes",
        f"your file crashes the Python process: {name}",
        "a file that runs to its last line, and functions that return",
        f"signal {end.number:g} ({name}){where}",
        "no exception tells whoever calls your functions what went wrong",
        "look for code that goes past Python, such as `ctypes`, or for a signal that it sends to itself",
    )


def _lines(source: bytes) -> list[str]:
    return source.decode("utf-8", "replace").splitlines()


def _line(lines: list[str], number: int) -> str:
    text = lines[number - 1].strip() if number <= len(lines) else ""
    return f"line {number}: `{text}`" if text else f"line {number}"

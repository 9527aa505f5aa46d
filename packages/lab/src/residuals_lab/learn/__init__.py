"""The exercises: put the stub down, give a hint, grade a file. `run` is the command; the others return data."""

import json
import re
import textwrap
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from residuals_lab import frameworks, show
from residuals_lab.errors import MissingFramework, UsageError
from residuals_lab.learn.grading import Grade, ended
from residuals_lab.targets import isolated
from residuals_lab.targets.isolated import Limits

LIMITS = Limits(seconds=60, nbytes=4 << 30)  # of grading a file
_EXERCISES = files("residuals_lab.learn") / "exercises"


class Hint(NamedTuple):
    number: int
    last: int
    title: str
    text: str


def names() -> list[str]:
    """The exercises that exist."""
    return sorted(folder.name for folder in _EXERCISES.iterdir() if folder.is_dir() and folder.name.isidentifier())


def asset(exercise: str, framework: str, name: str) -> str:
    """The text of an exercise's `stub.py`, `solution.py` or `hints.md`."""
    return (_EXERCISES / exercise / framework / name).read_text(encoding="utf-8")


def file_of(exercise: str, framework: str) -> Path:
    """The learner's file, in the current directory."""
    return Path(f"{exercise}_{framework}.py")


def start(exercise: str, framework: str, reset: bool = False) -> bool:
    """Put the stub down; False if the file is there already and was left alone."""
    path, stub = file_of(exercise, framework), asset(exercise, framework, "stub.py")
    try:
        with path.open("w" if reset else "x", encoding="utf-8") as file:
            file.write(stub)
    except FileExistsError:
        return False
    except OSError as problem:
        raise UsageError(f"{path}: cannot be written here: {problem.strerror or problem}") from None
    return True


def hint(exercise: str, framework: str, number: int) -> Hint:
    """The hint of this number, from 1; UsageError past the last."""
    hints = re.findall(r"^## (.+)\n+((?:(?!## ).*\n?)*)", asset(exercise, framework, "hints.md"), re.MULTILINE)
    if not 1 <= number <= len(hints):
        raise UsageError(f"--hint: expected a number from 1 to {len(hints)}, got {number}")
    title, text = hints[number - 1]
    return Hint(number, len(hints), title, text.strip())


def check(exercise: str, framework: str) -> Grade:
    """Grade the learner's file, in a child process. What the file prints goes to stderr: stdout is for the result."""
    path = file_of(exercise, framework)
    try:
        path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file here; start with: {_command(exercise, framework)}") from None
    except OSError as problem:
        raise UsageError(f"{path}: cannot be read: {problem.strerror or problem}") from None
    frameworks.require(framework)
    function, imports = "residuals_lab.learn.grading:grade", [f"residuals_lab.frameworks.{framework}"]
    with show.progress(f"grading {path}"):
        try:
            grade: Grade = isolated.call(function, exercise, framework, path, limits=LIMITS, imports=imports)
        except isolated.Ended as end:
            return Grade(ended(end, path), (), "")
    return grade


def run(exercise: str, framework: str | None, *, check: bool, hint: int | None, reset: bool, as_json: bool) -> int:
    """The command `residuals learn`: print, and return the exit code."""
    if exercise not in names():
        raise UsageError(f"exercise: expected one of {', '.join(names())}, got {exercise!r}")
    if as_json and not check:
        raise UsageError("--json: goes with --check")
    framework = _framework(framework)
    if check:
        return _run_check(exercise, framework, as_json)
    if hint is not None:
        return _run_hint(exercise, framework, hint)
    return _run_start(exercise, framework, reset)


def _framework(name: str | None) -> str:
    here = frameworks.installed()
    if name is None and not here:
        raise MissingFramework(f"no framework is installed; run: {' or: '.join(frameworks.INSTALL.values())}")
    if name is None and len(here) > 1:
        raise UsageError(f"--framework: several are installed, say which: {' or '.join(here)}")
    if name is not None and name not in frameworks.NAMES:
        raise UsageError(f"--framework: expected one of {', '.join(frameworks.NAMES)}, got {name!r}")
    return name or here[0]


def _run_start(exercise: str, framework: str, reset: bool) -> int:
    path, command = file_of(exercise, framework), _command(exercise, framework)
    if not start(exercise, framework, reset):
        _say(f"{path} is there already and was left alone. Go on with --check or --hint; --reset puts the stub back.")
        return 0
    _say(f"{path} is ready: its first lines say what to do, and the parts to write raise NotImplementedError.\n")
    _say(f"Check it:    {command} --check\nGet a hint:  {command} --hint")
    return 0


def _run_hint(exercise: str, framework: str, number: int) -> int:
    found = hint(exercise, framework, number)
    _say(f"Hint {found.number} of {found.last}: {found.title}\n\n{found.text}\n")
    following = f"--hint {number + 1}" if number < found.last else "--check"
    what = "Next hint:" if number < found.last else "That was the last one. Check your file:"
    _say(f"{what}  {_command(exercise, framework)} {following}")
    return 0


def _run_check(exercise: str, framework: str, as_json: bool) -> int:
    result = check(exercise, framework)
    path, finding = file_of(exercise, framework), result.finding
    if as_json:
        print(json.dumps(document(exercise, framework, result), indent=2, ensure_ascii=False))
    elif finding is None:
        _say(f"✓ {path} is right.\n\n{result.report}\n\nThe reference solution, to compare with:\n")
        _say(asset(exercise, framework, "solution.py").rstrip())
    else:
        _say(f"✗ {path}: {finding.title}  [{finding.code}]\n")
        for label in ("expected", "got", "why", "next"):
            _say(_labelled(label, getattr(finding, label)))
        _say(f"\nStuck? {_command(exercise, framework)} --hint")
    return 0 if finding is None else 1


def document(exercise: str, framework: str, result: Grade) -> dict[str, object]:
    """A grade as JSON has it."""
    finding = result.finding
    return {
        "schema_version": 1,
        "exercise": exercise,
        "framework": framework,
        "passed": finding is None,
        "finding": None if finding is None else {"code": finding.code, "message": finding.message},
        "residuals": [
            {
                "name": r.name,
                "kind": r.kind,
                "shape": list(r.value.shape),
                "dtype": r.value.dtype,
                "bytes": r.storage_bytes,
            }
            for r in result.residuals
        ],
    }


def _command(exercise: str, framework: str) -> str:
    return f"residuals learn {exercise} --framework {framework}"


def _labelled(label: str, text: str) -> str:
    """A paragraph beside its label, as wide as the terminal."""
    wrap = textwrap.TextWrapper(show.console().width, f"  {label:<10}", " " * 12, break_on_hyphens=False)
    return wrap.fill(text)


def _say(text: str) -> None:
    """Text as it is: square brackets are no markup here."""
    show.console().print(text, markup=False, emoji=False)

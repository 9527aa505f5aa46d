"""The exercises: put the stub down, give a hint, grade a file."""

import re
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from residuals_lab import frameworks, show
from residuals_lab.errors import UsageError
from residuals_lab.learn.grading import Grade, ended
from residuals_lab.targets import isolated
from residuals_lab.targets.isolated import Limits

LIMITS = Limits(seconds=60, nbytes=4 << 30)  # for grading one file
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
        raise UsageError(f"{path}: no such file here; start with: {command_line(exercise, framework)}") from None
    except OSError as problem:
        raise UsageError(f"{path}: cannot be read: {problem.strerror or problem}") from None
    frameworks.require(framework)
    function, imports = "residuals_lab.learn.grading:grade", [f"residuals_lab.frameworks.{framework}"]
    with show.progress(f"grading {path}"):
        try:
            grade: Grade = isolated.call(function, exercise, framework, path, limits=LIMITS, imports=imports)
        except isolated.Ended as end:
            return Grade(ended(end, path))
    return grade


def command_line(exercise: str, framework: str) -> str:
    """The command of an exercise, to which --check, --hint and --reset are added."""
    return f"residuals learn {exercise} --framework {framework}"

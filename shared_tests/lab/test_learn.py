"""The exercises: every planted wrong answer is named rightly, the solution passes, and no work is overwritten."""

import ast
import json
import os
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from learn_answers import ENDING, RIGHT, WRONG, Wrong
from residuals_lab import cli, frameworks, learn
from residuals_lab.errors import MissingFramework, UsageError
from residuals_lab.finding import Finding
from residuals_lab.learn import command, grading
from residuals_lab.learn.grading.extra_residual import Answer
from residuals_lab.learn.grading.words import show
from residuals_lab.targets.isolated import Limits

EXERCISE = "extra_residual"
each_framework = pytest.mark.parametrize("framework", frameworks.installed())


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def solution(framework: str) -> str:
    return learn.asset(EXERCISE, framework, "solution.py")


def hand_in(framework: str, text: str) -> None:
    learn.file_of(EXERCISE, framework).write_text(text, encoding="utf-8")


def edited(framework: str, edits: dict[str, str]) -> str:
    text = solution(framework)
    for old, new in edits.items():
        text = text.replace(old, new)
    assert text != solution(framework), "the edits find nothing in the solution"
    return text


def graded(framework: str) -> Finding | None:
    """What `learn.check` finds, without a child process for each of so many files."""
    return grading.grade(EXERCISE, framework, learn.file_of(EXERCISE, framework)).finding


def run(framework: str | None, exercise: str = EXERCISE, **options: object) -> int:
    given = {"check": False, "hint": None, "reset": False, "json": False} | options
    return command.run(Namespace(exercise=exercise, framework=framework, **given))


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: f"{w.framework}-{w.name}")
def test_wrong_answer_is_named(wrong: Wrong) -> None:
    hand_in(wrong.framework, edited(wrong.framework, wrong.edits))
    finding = graded(wrong.framework)
    assert finding is not None
    assert finding.rule == wrong.code, finding.message
    assert wrong.phrase in finding.message
    assert "Traceback" not in finding.message
    assert str(Path(learn.__file__).parent) not in finding.message


@pytest.mark.parametrize("wrong", ENDING, ids=lambda w: f"{w.framework}-{w.name}")
def test_what_ends_the_process_is_named(wrong: Wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 5 if wrong.code == "does-not-end" else 60  # the others end by themselves, however slow the machine is
    monkeypatch.setattr(learn, "LIMITS", Limits(seconds, nbytes=2 << 30))
    hand_in(wrong.framework, edited(wrong.framework, wrong.edits))
    finding = learn.check(EXERCISE, wrong.framework).finding
    assert finding is not None
    assert finding.rule == wrong.code, finding.message
    assert wrong.phrase in finding.message


@each_framework
def test_every_finding_has_a_wrong_answer(framework: str) -> None:
    """A finding that no planted answer gets might as well not be there."""
    codes = {
        code.value
        for path in Path(grading.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding"
        for code in ast.walk(node.args[0])
        if isinstance(code, ast.Constant)
    }
    of_one = {
        "jax": {"residual-overwritten", "tensor-on-ctx", "writes-grad"},
        "torch": {"fwd-not-a-pair", "fwd-value-wrong", "rule-swapped", "two-residual-objects"},
    }
    assert len(codes) > 20
    assert codes - {w.code for w in (*WRONG, *ENDING) if w.framework == framework} <= of_one[framework]


@each_framework
def test_the_small_x_tells_sine_from_cosine(framework: str) -> None:
    """Each pair of signs is there: a root of 1 − sin² or 1 − cos² is not right by chance."""
    x = Answer(frameworks.load(framework), ModuleType("empty")).x
    assert len(set(zip(np.sin(x) > 0, np.cos(x) > 0, strict=True))) == 4
    assert min(abs(np.sin(x)).min(), abs(np.cos(x)).min()) > 0.1
    assert np.ptp(x) > 4 * np.pi
    assert max(map(len, show(x).split(","))) < 8  # numbers that can be read


@each_framework
def test_solution_passes(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    hand_in(framework, solution(framework))
    assert run(framework, check=True) == 0
    out = capsys.readouterr().out
    plain = {"jax": "Plain autodiff keeps 120 B", "torch": "Plain autodiff keeps 80 B"}[framework]
    for phrase in ("x (input, 40 B), sin_x (new, 40 B)", "80 B, 40 of them new", plain, "sine 0 times, cosine 1 times"):
        assert phrase in out
    assert out.endswith(solution(framework))


@pytest.mark.parametrize(
    ("framework", "edits"),
    [pytest.param(f, edits, id=f"{f}-{name}") for f, name, edits in RIGHT if f in frameworks.installed()],
)
def test_other_right_answers_pass(framework: str, edits: dict[str, str]) -> None:
    hand_in(framework, edited(framework, edits))
    finding = graded(framework)
    assert finding is None, finding.message


@each_framework
def test_the_solution_of_the_lesson_passes(framework: str) -> None:
    """Lesson 1 prints the op's own file, in which f_with_sin is a plain function that calls the rule."""
    hand_in(framework, Path(frameworks.load(framework).op("x_sin_x").__file__).read_text(encoding="utf-8"))
    finding = graded(framework)
    assert finding is None, finding.message


@each_framework
def test_stub_is_not_started(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(framework) == 0
    assert run(framework, check=True) == 1
    out = capsys.readouterr().out
    line = learn.asset(EXERCISE, framework, "stub.py").partition("raise NotImplementedError")[0].count("\n") + 1
    assert "[not-started]" in out
    assert f"at line {line}\n" in out


@each_framework
def test_file_is_kept_without_reset(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    hand_in(framework, "my work")
    assert run(framework) == 0
    assert learn.file_of(EXERCISE, framework).read_text() == "my work"
    out = capsys.readouterr().out
    assert "left alone" in out
    assert out.count("\n") == 1
    assert run(framework, reset=True) == 0
    assert learn.file_of(EXERCISE, framework).read_text() == learn.asset(EXERCISE, framework, "stub.py")


@each_framework
def test_hints_come_one_at_a_time(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    count = learn.hint(EXERCISE, framework, 1).last
    hints = [learn.hint(EXERCISE, framework, n) for n in range(1, count + 1)]
    assert count >= 4
    for n, hint in enumerate(hints, 1):
        assert run(framework, hint=n) == 0
        out = capsys.readouterr().out
        assert [other.text in out for other in hints] == [other is hint for other in hints]
        assert f"--hint {n + 1}" in out if n < count else "--check" in out
    for n in (0, count + 1):
        with pytest.raises(UsageError, match=f"from 1 to {count}, got {n}"):
            run(framework, hint=n)


@each_framework
def test_json_is_one_document(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    hand_in(framework, "print('from the learner')\n" + solution(framework))
    assert run(framework, check=True, json=True) == 0
    out, err = capsys.readouterr()
    right = json.loads(out)
    assert "from the learner" in err
    assert (right["schema_version"], right["exercise"], right["framework"]) == (2, EXERCISE, framework)
    assert (right["passed"], right["finding"]) == (True, None)
    sin_x = {"kind": "new", "shape": [5], "dtype": "float64", "bytes": 40, "storage_bytes": 40}
    assert sin_x in [{key: r[key] for key in sin_x} for r in right["residuals"] if r["name"] == "sin_x"]

    hand_in(framework, solution(framework).replace("g * (sin_x", "(sin_x"))
    assert run(framework, check=True, json=True) == 1
    wrong = json.loads(capsys.readouterr().out)
    assert set(wrong) == set(right)
    assert wrong["passed"] is False
    assert set(wrong["finding"]) == {"rule", "title", "expected", "got", "why", "mend"}
    assert wrong["finding"]["rule"] == "cotangent-ignored"


@each_framework
def test_a_warning_names_no_file_of_ours(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    hand_in(framework, "import warnings\n\nwarnings.warn('of the learner', stacklevel=2)\n" + solution(framework))
    assert run(framework, check=True) == 0
    assert capsys.readouterr().err == "UserWarning: of the learner\n"


@each_framework
def test_an_edit_within_the_same_second_counts(framework: str) -> None:
    """Python's cache of compiled files goes by the second and the size of the file; grading must not use it."""
    hand_in(framework, solution(framework).replace("g * (sin_x", "1 * (sin_x"))
    assert learn.check(EXERCISE, framework).finding is not None
    hand_in(framework, solution(framework))
    assert learn.check(EXERCISE, framework).finding is None
    assert [path.name for path in Path().iterdir()] == [learn.file_of(EXERCISE, framework).name]


@each_framework
def test_usage(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=f"no such file here; start with: residuals learn .*{framework}"):
        run(framework, check=True)
    with pytest.raises(UsageError, match="expected one of extra_residual, got 'nothing'"):
        run(framework, "nothing")
    with pytest.raises(UsageError, match="goes with --check"):
        run(framework, json=True)
    assert cli.main(["learn", EXERCISE, "--framework", "numpy"]) == 2
    assert "--framework: invalid choice: 'numpy'" in capsys.readouterr().err


@each_framework
def test_a_folder_that_cannot_be_written(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    gone = Path("gone").absolute()
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    for reset in ([], ["--reset"]):
        assert cli.main(["learn", EXERCISE, "--framework", framework, *reset]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"residuals: {learn.file_of(EXERCISE, framework)}: cannot be written here: ")
        assert err.count("\n") == 1


@each_framework
def test_a_file_that_cannot_be_read(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    learn.file_of(EXERCISE, framework).mkdir()
    assert cli.main(["learn", EXERCISE, "--framework", framework, "--check"]) == 2
    err = capsys.readouterr().err
    assert "cannot be read" in err
    assert err.count("\n") == 1


@each_framework
def test_a_file_that_is_not_text(framework: str) -> None:
    learn.file_of(EXERCISE, framework).write_bytes(b"x = '\xff'\n")
    finding = learn.check(EXERCISE, framework).finding
    assert finding is not None
    assert finding.rule == "syntax-error"


def test_one_thing_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["learn", EXERCISE, "--check", "--reset"]) == 2
    assert "not allowed with argument --check" in capsys.readouterr().err
    assert list(Path().iterdir()) == []


@each_framework
def test_the_only_framework_is_taken(framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frameworks, "installed", lambda: (framework,))
    assert run(None) == 0
    assert learn.file_of(EXERCISE, framework).exists()
    monkeypatch.setattr(frameworks, "installed", lambda: frameworks.NAMES)
    with pytest.raises(UsageError, match="jax or torch"):
        run(None)


def test_no_framework_says_how_to_install_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frameworks, "installed", tuple)
    with pytest.raises(MissingFramework, match="pip install"):
        run(None)

"""The command at its edges: any encoding, closed streams and pipes, bad arguments, and the commands that it prints."""

import ast
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command import assert_usage
from markdown import DOCS, ROOT
from residuals_lab import cli, frameworks, streams
from residuals_lab.targets.numbers import read_numbers

FRAMEWORK, *_ = frameworks.installed()
LAB = ROOT / "packages" / "lab" / "src" / "residuals_lab"
NUMPY_LIKE = {"jax": "import jax.numpy as n", "torch": "import torch as n"}[FRAMEWORK]
SOURCE = f"""{NUMPY_LIKE}

def f(x):
    return n.exp(n.sin(x)).sum()

def two(x, y):
    return (n.sin(x) * y).sum()
"""
COMPARE = ("compare", "tanh", "--framework", FRAMEWORK, "--size", "16", "--dtype", "f64")
AUDIT = ("audit", "mine.py:f", "--arg", "f32[4,8]")
COMMANDS = [
    ("--help",),
    ("audit", "--help"),
    COMPARE,
    AUDIT,
    (*AUDIT, "--json"),
    ("lock", "write", *AUDIT[1:]),
    ("learn", "extra_residual", "--framework", FRAMEWORK, "--hint"),
]
each_command = pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that a test runs in, where `mine.py` is."""
    (tmp_path / "mine.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def code_of(arguments: tuple[str, ...]) -> int:
    try:
        return cli.main(arguments)
    except SystemExit as end:  # of --help
        return int(end.code or 0)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    return code_of(arguments), *capsys.readouterr()


def in_encoding(encoding: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    assert code_of(arguments) == 0
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("arguments", [*COMMANDS, (*AUDIT, "--beside", "mine.py:f")], ids=" ".join)
def test_an_encoding_that_lacks_signs(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """What it lacks is replaced by signs as wide, so that columns stay columns."""
    code_of(arguments)  # lock writes another line at first
    whole = in_encoding("utf-8", arguments, monkeypatch)
    assert in_encoding("ascii", arguments, monkeypatch).encode() == whole.encode("ascii", "plain")
    for encoding in ("ascii", "latin-1", "cp1252"):
        found = whole.encode(encoding, "plain").decode(encoding)
        assert [*map(len, found.splitlines())] == [*map(len, whole.splitlines())]
        assert found.count("?") == whole.count("?")


def test_every_sign_of_ours_has_a_plain_one() -> None:
    signs = set()
    for path in [*LAB.glob("*.py"), *LAB.glob("frameworks/*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        signs |= {sign for node in texts if id(node) not in docs for sign in node.value if not sign.isascii()}
    assert signs == {*streams.PLAIN}
    assert all(sign.isascii() and len(sign) == 1 for sign in streams.PLAIN.values())


@pytest.fixture(params=[False, True], ids=["buffered", "unbuffered"])
def pipe_without_reader(request: pytest.FixtureRequest) -> Iterator[io.TextIOWrapper]:
    reader, writer = os.pipe()
    os.close(reader)
    raw = io.FileIO(writer, "w")
    stream = io.TextIOWrapper(raw if request.param else io.BufferedWriter(raw), "utf-8", write_through=request.param)
    yield stream
    stream.close()  # raises, as Python does when it exits, if there is text that cannot be written


@each_command
def test_a_pipe_that_nobody_reads(
    arguments: tuple[str, ...],
    pipe_without_reader: io.TextIOWrapper,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdout", pipe_without_reader)
    assert code_of(arguments) == 0
    assert capsys.readouterr().err == ""


def test_errors_that_nobody_reads(pipe_without_reader: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", pipe_without_reader)
    assert code_of(("compare", "nonsense")) == 2


@each_command
def test_closed_streams(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `>&-` leaves them: the code is what it would be."""
    for name in ("stdin", "stdout"):
        monkeypatch.setattr(sys, name, None)
    assert code_of(arguments) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "stderr", None)
    assert code_of(("compare", "nonsense")) == 2
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@each_command
def test_a_full_disk(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert code_of(arguments) == 2
    assert capsys.readouterr().err == "residuals: [Errno 28] No space left on device\n"


def test_a_process_in_the_poorest_locale_before_a_pipe_that_is_closed() -> None:
    """Python itself, when it exits, has nothing to add; and takes a name in no encoding."""
    poor = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "residuals_lab"]
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run([*command, "--help"], stdout=closed, stderr=subprocess.PIPE, env=poor, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    done = subprocess.run([*command, "audit", b"\xff.py:f"], capture_output=True, env=poor, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"residuals: target: no file at ?.py\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("compare tanh --size 100000000000000000000", "--size: 100000000000000000000 is too large for tanh"),
        ("compare scaled --size 9000000000000000000", "--size: 9000000000000000000 is too large for scaled"),
        (f"compare tanh --seed {'1' * 5000}", "expected a whole number, 0 or above"),
        ("compare mine.py:f", "to compare it with an op of the same arguments: residuals compare mine.py:f --like OP"),
        ("compare tanh --input x=a.npy --input x=b.npy", "--input: x is given twice, as a.npy and as b.npy"),
        ("compare tanh --plot ''", "argument --plot: expected a path, got ''"),
        ("audit ''", "target: expected file.py:function or package.module:function, got ''"),
        ("audit 'a\nb.py:f'", "target: no file at a b.py"),
        ("audit mine.py:f --input x=", "--input: expected NAME=FILE, got 'x='"),
        ("audit mine.py:f --arg 'f32[4]' --arg 'x=f32[4]'", "f() got multiple values for argument 'x'"),
        ("audit mine.py:two --arg 'x=f32[4]' --arg 'x=f32[5]'", "--arg: x is given twice, the second time as 'x=f32[5"),
        ("audit mine.py:two --input x=a.npy --param 'x=f32[5]'", "--param: x is given twice"),
        ("audit mine.py:f --framework jax --framework torch", "--framework: expected it once for mine.py:f, got jax"),
        ("audit mine.py:f --arg '{[]: 1}'", "--arg: expected f32[1024,512], a Python literal"),
        (f"audit mine.py:f --arg={'-' * 100000}1", "--arg: expected f32[1024,512], a Python literal"),
        (f"audit mine.py:f --arg 'f32[{'1' * 5000}]'", "cannot be made: Exceeds the limit"),
        ("audit mine.py:f --arg 'f32[9999999999999]' --concrete", "--arg: f32[9999999999999] cannot be made"),
        ("audit mine.py:f --arg 'f32[4]' --html .", "--html: expected a file, got the folder ."),
        ("audit '\udcff.py:f' --html a.html", r"target: expected a name that can be written into a file, got '\udcff"),
        ("audit mien.py:f", "target: no file at mien.py; did you mean 'mine.py'?"),
        ("audit mine.py", "or package.module:function, got 'mine.py'; it has f, two"),
        ("audit .:f", "target: . is a folder; expected a file in it"),
        ("audit mine.py:two --arg 'f32[4]' --arg 'z=f32[4]'", "; it takes x, y"),
        ("audit mine.py:two --arg 'f32[4]'", "; it takes x, y"),
        ("audit relative.py:f", "/__init__.py, and name it "),
        ("audit raises.inside:f", "target: raises.inside could not be imported: raises/__init__.py:1: SystemExit: 0"),
        ("audit lazy.py:f", "target: lazy.py could not be imported: lazy.py:1: ImportError: needs more"),
        ("audit mute.py:f", "target: mute.py could not be imported: mute.py:4: Mute"),
        ("lock write '\udcff.py:f' --arg 'f32[4]'", "lock: cannot write"),
    ],
    ids=lambda text: text[:60].encode("ascii", "replace").decode(),
)
def test_bad_input_is_one_line(arguments: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("a.npy", np.ones(4))
    np.save("b.npy", np.ones(5))
    Path("lazy.py").write_text("def __getattr__(name): raise ImportError('needs more')\n")
    Path("mute.py").write_text("class Mute(Exception):\n    def __str__(self): return self\n\nraise Mute\n")
    Path("\udcff.py").write_text(SOURCE)
    Path("relative.py").write_text("from .mine import f")
    Path("raises").mkdir()
    Path("raises/__init__.py").write_text("raise SystemExit(0)\n")
    Path("raises/inside.py").write_text(SOURCE)
    assert_usage(run(capsys, *shlex.split(arguments)), message)


def test_a_narrow_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Errors and help are broken at blanks; for a reader of lines an error stays one."""
    monkeypatch.setenv("COLUMNS", "60")
    wrong = ("compare", "nonsense")
    assert len(run(capsys, *wrong)[2].splitlines()) == 1
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    said = run(capsys, *wrong)[2].splitlines()
    assert len(said) > 1
    pages = [run(capsys, *command, "--help")[1].splitlines() for command in (["audit"], ["compare"], ["lock", "write"])]
    assert max(map(len, [*said, *(line for page in pages for line in page)])) <= 60


def test_numbers_are_read_as_they_are_meant(folder: Path) -> None:
    """A spreadsheet's mark is no title, and no framework takes long doubles or the other order of bytes."""
    Path("a.csv").write_text("\ufeff1.5\n2.5\n", encoding="utf-8")
    assert read_numbers("x", Path("a.csv")).tolist() == [1.5, 2.5]
    adapter = frameworks.load(FRAMEWORK)
    for dtype, kept in (("longdouble", "float64"), (">f4", "float32"), (">i2", "int16"), ("f2", "float16")):
        np.save("a.npy", np.arange(3, dtype=dtype))
        found = read_numbers("x", Path("a.npy"))
        assert (found.dtype, found.tolist()) == (np.dtype(kept), [0, 1, 2])
        adapter.array(found)


def commands_in(text: str) -> list[str]:
    """The commands that a text prints for people to run, without those that have a name to fill in."""
    found = re.findall(r"(residuals (?:compare|audit|lock|learn) [^\n;,]+)", text)
    return [command for command in found if not {"TARGET", "OP", "SPEC", "..."} & {*shlex.split(command)}]


def test_what_comes_next_runs_as_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for most in (1, 0):  # ops, for each of which there is a whole table
        monkeypatch.setattr("residuals_lab.compare.command.IN_DETAIL", most)
        (command,) = commands_in(run(capsys, *COMPARE)[1])
        assert run(capsys, *shlex.split(command)[1:])[0] == 0, command
    _, out, _ = run(capsys, *AUDIT)
    (following,) = [line for line in out.splitlines() if line.startswith("Next: ")]
    options = re.findall(r"(--\S+ \S+) ", following)
    assert len(options) >= 2
    for option in options:
        assert run(capsys, *AUDIT, *shlex.split(option.replace("TARGET", AUDIT[1])))[0] == 0, option


def test_a_picture_is_not_proposed_where_nothing_draws_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    assert "--plot lanes.svg draws it, --beside" in run(capsys, *AUDIT)[1]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "Next: --beside TARGET compares, --by module sums up" in run(capsys, *AUDIT)[1]
    message = "drawing needs matplotlib; run: pip install './packages/lab[plot]'"
    assert_usage(run(capsys, *AUDIT, "--plot", "a.svg"), message)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (install,) = [line for line in readme.splitlines() if line.startswith("$ pip install") and "packages/lab" in line]
    assert "'./packages/lab[plot]'" in install


def test_what_a_lock_prints_runs_as_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, target = "my locks/a b.lock", "my file.py:f"
    Path("my locks").mkdir()
    Path("my file.py").write_text(SOURCE)

    def follow(code: int, text: str) -> None:
        """Run the one command that a text has, which ends with this code."""
        quoted = re.findall(r"`(residuals [^`]+)`", text)
        (command,) = quoted or [line.strip() for line in commands_in(text)]
        assert run(capsys, *shlex.split(command)[1:])[0] == code, command

    follow(0, run(capsys, "lock", "check", "--file", path)[2])
    assert run(capsys, "lock", "write", target, "--arg", "f32[4,8]", "--file", path)[0] == 0
    follow(0, run(capsys, "lock", "check", "mine.py:f", "--file", path)[2])
    only = [target, "--file", path, "--framework", FRAMEWORK]
    for fn in ("n.exp(n.tanh(n.sin(x)))", "n.sin(x)"):  # more, then less
        Path("my file.py").write_text(SOURCE.replace("n.exp(n.sin(x))", fn))
        code, out, _ = run(capsys, "lock", "check", *only)
        assert (code, "--arg 'f32[4,8]'" in out) == ("tanh" in fn, True)
        follow(0, out)
        assert run(capsys, "lock", "check", *only)[:2] == (0, "1 target as locked.\n")
    Path("my file.py").write_text(SOURCE)
    Path("gone.py").write_text(SOURCE)
    assert run(capsys, "lock", "write", "gone.py:f", "--arg", "f32[4,8]", "--file", path)[0] == 0
    Path("gone.py").unlink()
    follow(2, run(capsys, "lock", "check", "--file", path)[1])  # it writes what can be written
    assert run(capsys, "lock", "check", *only)[:2] == (0, "1 target as locked.\n")
    old = Path(path).read_text().replace("version = 2", "version = 1").replace('"../', '"')
    Path(path).write_text(old)
    follow(2, run(capsys, "lock", "check", "--file", path)[2])
    assert run(capsys, "lock", "check", *only)[:2] == (0, "1 target as locked.\n")


# A word with brackets that a shell would take for a pattern: after one of these, and not in quotes.
BARE = re.compile(r"(?:--(?:arg|param|frozen)[ =]|pip install (?:[^\n]* )?)[\w./=]+\[[^\n]*")


def texts() -> dict[str, str]:
    """All that tells people what to type: pages, help, and the texts in the lab's code."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md"), *ROOT.glob("packages/*/README.md")]
    found = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in pages}
    for path in LAB.rglob("*.py"):
        nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
        strings = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        found[str(path.relative_to(ROOT))] = "\n".join(strings)
    return found


def test_brackets_for_a_shell_are_in_quotes() -> None:
    bare = {name: BARE.findall(text) for name, text in texts().items()}
    assert not {name: found for name, found in bare.items() if found}


@pytest.mark.parametrize("text", ["audit f --arg f32[4]", "--param w=f32[4]", "pip install ./a ./packages/lab[plot]"])
def test_bare_brackets_are_noticed(text: str) -> None:
    assert BARE.search(text)


def test_help_of_every_command_quotes_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    commands: Any = ([], ["compare"], ["audit"], ["lock"], ["lock", "write"], ["lock", "check"], ["learn"])
    for command in commands:
        code, out, _ = run(capsys, *command, "--help")
        assert code == 0
        assert not BARE.findall(out)

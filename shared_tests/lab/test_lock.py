"""The gate: what is locked is checked, what grows is named, and a test may ask for bytes and names."""

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from markdown import blocks
from residuals_lab import cli, frameworks, testing
from residuals_lab.audit import audit
from residuals_lab.errors import UsageError
from residuals_lab.lock import Amount, Entry, Key, file, now, table
from residuals_lab.lock.changes import changes
from residuals_lab.ops import OPS
from residuals_lab.testing import assert_residuals

ROOT = Path(__file__).parents[2]
INSTALLED = frameworks.installed()
BOTH = pytest.mark.parametrize("framework", INSTALLED)
SINES = {
    "jax": "import jax.numpy as n\ndef fn(x):\n    return {fn}\n",
    "torch": "import torch as n\ndef fn(x):\n    return {fn}\n",
}

ONE = 'version = 2\n[[target]]\ntarget = "a.py:f"\nframework = "jax"\nresiduals = []'


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main(["lock", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@BOTH
def test_our_ops_keep_what_is_locked(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / file.FILE
    code, out, _ = run(capsys, "check", "--file", path, "--framework", framework)
    assert (code, out) == (0, f"{len(OPS)} targets as locked.\n")
    names = {e.target for e in file.read(path) if e.framework == framework}
    assert names == {f"residuals_{framework}:{op.name}" for op in OPS}


@BOTH
def test_what_grows_is_named(
    framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "mine.py"

    def define(fn: str) -> str:
        source.write_text(SINES[framework].format(fn=fn))
        return "mine.py:fn"

    target = define("n.sin(n.sin(x)).sum()")
    assert run(capsys, "write", target, "--arg", "f32[4,8]")[0] == 0
    before = Path(file.FILE).read_text()
    assert run(capsys, "write")[0] == 0
    assert Path(file.FILE).read_text() == before, "nothing has changed"
    code, out, _ = run(capsys, "check")
    assert (code, out) == (0, "1 target as locked.\n")
    code, out, _ = run(capsys, "write", tmp_path / target)
    assert out.startswith("residuals.lock: 1 target, as before; "), "by another path, at the arguments that it has"

    define("(n.sin(n.sin(x)) * n.tanh(x)).sum()")
    code, out, _ = run(capsys, "check")
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["grew", "grew"], "the totals first"
    assert "tanh, new float32[4, 8] at mine.py:3" in out
    assert "FAILED: 1 of 1 target. To accept what is kept now:\n  residuals lock write\n" in out
    code, out, _ = run(capsys, "check", "--json")
    document = json.loads(out)
    assert code == 1
    assert {c["what"] for c in document["changes"] if c["is_worse"]} >= {"new_bytes", "saved_bytes"}
    (appears,) = (c for c in document["changes"] if c["how"] == "appears" and c["residual"]["name"] == "tanh")
    assert (appears["target"], appears["arguments"]) == (target, ["--arg f32[4,8]"])
    residual = {"name": "tanh", "kind": "new", "shape": [4, 8], "dtype": "float32", "line": "mine.py:3"}
    assert appears["residual"] == residual

    define("n.sin(x).sum()")
    code, out, _ = run(capsys, "check")
    assert code == 0
    assert out.endswith("No target grew, and 1 shrank. To lock the smaller numbers:\n  residuals lock write\n")
    code, out, _ = run(capsys, "write", target, "--arg", "f32[4,8]")
    assert [line.split()[0] for line in out.splitlines()][:3] == [target, "less", "less"], "what is accepted"
    code, out, _ = run(capsys, "write", target, "--arg", "f32[2,8]")
    assert "residuals.lock: 2 targets, 1 added; " in out
    code, out, _ = run(capsys, "check", target)
    assert (code, out) == (0, "2 targets as locked.\n")


def entry(**residuals: Amount) -> Entry:
    found = {Key(name, "new", "float32[4]"): amount for name, amount in residuals.items()}
    total = sum(amount.nbytes for amount in found.values())
    return Entry("a.py:f", "jax", ("--arg f32[4]",), total, total, found)


def test_changes() -> None:
    one = Amount(1, 16)
    assert changes(entry(a=one, b=one), entry(b=one, a=one)) == []
    more = changes(entry(a=one), entry(a=Amount(2, 32)))[-1]
    assert (more.before_bytes, more.after_bytes, more.is_worse) == (16, 32, True)
    assert all(c.is_worse for c in changes(entry(a=one), entry(a=Amount(1, 17)))), "by however little"
    (swapped,) = changes(entry(a=one), entry(b=one))
    assert (swapped.how, swapped.is_worse, swapped.what) == ("replaced", False, "a by b, new float32[4]")
    assert [c.how for c in changes(entry(a=one), entry(b=Amount(1, 17)))][2:] == ["appears", "is gone"]
    (empty,) = changes(entry(), entry(a=Amount(1, 0)))
    assert (empty.how, empty.is_worse) == ("appears", False), "an array without bytes"


def kept(*residuals: tuple[str, str, int]) -> Entry:
    """An entry that keeps arrays of these names, kinds and bytes."""
    found = {Key(name, kind, f"u8[{nbytes}]"): Amount(1, nbytes) for name, kind, nbytes in residuals}
    new = sum(nbytes for _, kind, nbytes in residuals if kind in ("new", "view", "hidden"))
    return Entry("a.py:f", "jax", (), new, sum(nbytes for *_, nbytes in residuals), found)


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        ([("a", "new", 8)], [("b", "view", 8)], []),
        ([("a", "new", 8)], [("b", "new", 4), ("c", "new", 4)], []),
        ([("a", "new", 8)], [("b", "new", 4), ("c", "new", 5)], ["b", "c"]),
        ([("a", "new", 8), ("b", "new", 8)], [("a", "new", 8), ("c", "new", 8), ("d", "new", 1)], ["d"]),
        ([("a", "new", 8)], [("b", "new", 8), ("c", "new", 8)], ["b", "c"]),
        ([("m.w", "new", 8)], [("n.w", "new", 8), ("c", "new", 8)], ["c"]),
        ([("a", "input", 8)], [("b", "parameter", 8)], []),
        ([("a", "input", 8)], [("b", "new", 8)], ["b"]),
        ([("a", "new", 8)], [("b", "input", 8)], []),
        ([("a", "new", 8)], [("b", "alive view", 9)], ["b"]),
        ([("a", "hidden", 8)], [("b", "hidden", 8)], []),
        ([("a", "hidden", 8)], [("b", "new", 8)], ["b"]),
        ([("a", "new", 8)], [("b", "hidden", 8)], ["b"]),
        ([("a", "new", 8)], [("b", "hidden", 1)], ["b"]),
        ([("a", "hidden", 8)], [("b", "input", 8)], ["b"]),
    ],
    ids=str,
)
def test_what_pays_for_what(
    before: list[tuple[str, str, int]], after: list[tuple[str, str, int]], worse: list[str]
) -> None:
    """New memory pays for what is alive anyway and not the other way round; what is hidden pays for nothing else."""
    found = changes(kept(*before), kept(*after))
    assert sorted(c.key.name for c in found if c.key and c.is_worse) == worse
    totals = [c for c in found if c.total]
    assert all(c.is_worse == (c.after_bytes > c.before_bytes) for c in totals)
    assert not any(c.is_worse for c in totals) or worse, "a total that grew is explained by an array"


def test_more_bytes_in_fewer_arrays_grew() -> None:
    (change,) = (c for c in changes(entry(a=Amount(2, 32)), entry(a=Amount(1, 40))) if c.key)
    assert (change.how, change.is_worse, change.what) == ("grew", True, "a, new float32[4], 2 -> 1 arrays")


@BOTH
def test_single_numbers_closed_over_are_no_bytes(framework: str, tmp_path: Path) -> None:
    """Which a framework may keep as arrays: what is held in all is what is in the list."""
    path = tmp_path / "mine.py"
    path.write_text(SINES[framework].format(fn="n.sin(x) * SCALE * n.tanh(x)") + "SCALE = n.asarray(2.0)\n")
    found = now(path.name + ":fn", ["--arg f32[4,8]"], None, tmp_path)
    assert found.saved_bytes == sum(amount.nbytes for amount in found.residuals.values()) > 0


@pytest.mark.needs("torch")
def test_a_view_of_an_input_is_no_new_memory(tmp_path: Path) -> None:
    """So it pays for no new array."""
    kinds = {}
    for what, fn in {"input": "n.sin(x[:2])", "new": "n.sin(n.exp(x)[:2]).sum()"}.items():
        (tmp_path / f"{what}.py").write_text(SINES["torch"].format(fn=fn))
        kinds[what] = {key.kind for key in now(f"{what}.py:fn", ["--arg f32[4,8]"], None, tmp_path).residuals}
    assert kinds == {"input": {"alive view"}, "new": {"new"}}


def test_the_file_is_sorted() -> None:
    """Whatever the order in which targets were written, and arrays found: a diff shows what changed."""
    entries = [replace(entry(b=Amount(1, 16), a=Amount(1, 16)), target=name) for name in ("b.py:f", "a.py:f")]
    document = tomllib.loads(file.text(entries))
    assert [found["target"] for found in document["target"]] == ["a.py:f", "b.py:f"]
    assert [r["name"] for r in document["target"][0]["residuals"]] == ["a", "b"]
    assert file.text(entries) == file.text(entries[::-1])


def test_the_file_can_be_read_back() -> None:
    odd = 'a "b" \\ c\n\tü\x7f'
    written = [
        Entry(odd, "jax", (f"--arg {odd}",), 3, 4, {Key(odd, "new", "u8[3]"): Amount(2, 3)}),
        entry(a=Amount(1, 1)),
    ]
    found = tomllib.loads(file.text(written))
    assert {e["target"] for e in found["target"]} == {odd, "a.py:f"}
    assert sorted((file._read_entry(e) for e in found["target"]), key=str) == sorted(written, key=str)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no file"),
        ("version = ", "is no TOML"),
        ("version = 3", "expected version 2"),
        ("", "it has no 'version'"),
        ("version = 2\n[[target]]\ntarget = 3", "is not what `residuals lock write` writes"),
        (f'{ONE}\narguments = "f32[4]"\nnew_bytes = 0\nsaved_bytes = 0', "expected arguments to be a list, got 'f32"),
        (f'{ONE}\narguments = []\nnew_bytes = "lots"\nsaved_bytes = 0', "expected new_bytes to be an integer, got 'l"),
        (f"{ONE}\narguments = []\nnew_bytes = 0", "it has no 'saved_bytes'"),
    ],
)
def test_a_file_that_is_none(
    content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "some.lock"
    if content is not None:
        path.write_text(content)
    code, out, err = run(capsys, "check", "--file", path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert path.exists() == (content is not None)


def test_arguments_without_a_target_accept_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "some.lock"
    file.write(path, [entry()])
    before = path.read_text()
    code, _, err = run(capsys, "write", "--arg", "f32[3]", "--file", path)
    assert (code, path.read_text()) == (2, before)
    assert "expected a TARGET" in err


def test_targets_that_cannot_be_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "some.lock"
    file.write(path, [entry()])
    assert run(capsys, "check", "b.py:g", "--file", path)[0] == 2
    absent = {"jax", "torch"} - {*INSTALLED}
    if absent:
        (name,) = absent
        file.write(path, [Entry(f"residuals_{name}:relu", name, (), 0, 0)])
        assert run(capsys, "check", "--file", path)[0] == 3
    here = INSTALLED[0]
    file.write(
        path, [Entry(f"{tmp_path}/gone.py:f", here, ()), Entry(f"residuals_{here}:relu", here, ("--arg f32[4]",))]
    )
    code, out, err = run(capsys, "check", "--file", path)
    assert (code, "gone.py" in err, err.count("\n")) == (1, True, 1)
    assert err.endswith("; to forget this target, delete its entry\n")
    assert "saved bytes" in out, "the others are checked all the same"
    assert list(tmp_path.iterdir()) == [path], "nothing is left behind"


def test_a_link_is_written_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "some.lock"
    link.symlink_to(tmp_path / "real" / "some.lock")
    file.write(link, [entry()])
    assert link.is_symlink()
    assert file.read(tmp_path / "real" / "some.lock") == [entry()]
    here = INSTALLED[0]
    code, _, err = run(
        capsys, "write", f"residuals_{here}:relu", "--arg", "f32[4]", "--file", tmp_path / "none" / "some.lock"
    )
    assert (code, err.count("\n")) == (2, 1)
    assert f"cannot write {tmp_path / 'none' / 'some.lock'}: no folder" in err


@BOTH
def test_a_path_that_depends_on_numbers(
    framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it takes a run to see what is kept is written down."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(SINES[framework].format(fn="n.sin(x).sum() if x.sum() > 0 else x.sum()"))
    assert run(capsys, "write", "mine.py:fn", "--arg", "f32[4]")[0] == 2
    assert run(capsys, "write", "mine.py:fn", "--arg", "f32[4]", "--concrete")[0] == 0
    assert run(capsys, "check")[:2] == (0, "1 target as locked.\n")


@BOTH
def test_asserting(framework: str) -> None:
    adapter = frameworks.load(framework)
    x: Any = adapter.random_like(adapter.shaped((4, 8), "float32"))
    fn = adapter.public("rms_norm")
    assert_residuals(fn, x, new_bytes="<= 16 B", saved_bytes="< 1 KiB")
    assert_residuals(fn, x, new_bytes=16, saved_bytes="== 144")
    for wrong in ({"new_bytes": 15}, {"new_bytes": "< 16 B"}, {"saved_bytes": "<= 0.1 KiB"}, {"names": []}):
        with pytest.raises(AssertionError, match=f"{next(iter(wrong))}: .*\n\nrms_norm"):
            assert_residuals(fn, x, **wrong)
    report = audit(lambda x: fn(fn(x)), x)
    names = [r.name for r in report.residuals if r.is_new]
    assert len(names) > len({*names})
    assert_residuals(lambda x: fn(fn(x)), x, names=names)
    with pytest.raises(AssertionError, match="names: not expected: rstd"):
        assert_residuals(lambda x: fn(fn(x)), x, names=[*{*names}])
    for unclear in ({}, {"new_bytes": "few"}, {"new_bytes": "<= 3 apples"}, {"new_bytes": "> 3"}):
        with pytest.raises(UsageError, match="expected"):
            assert_residuals(fn, x, **unclear)


@BOTH
def test_a_misspelled_option_is_no_argument(framework: str) -> None:
    adapter = frameworks.load(framework)
    x: Any = adapter.random_like(adapter.shaped((4, 8), "float32"))
    fn = adapter.public("rms_norm")
    for wrong, meant in {"new_byte": "new_bytes", "save_bytes": "saved_bytes", "name": "names"}.items():
        with pytest.raises(UsageError, match=f"has no argument '{wrong}'; did you mean {meant}\\?$"):
            assert_residuals(fn, x, saved_bytes=144, **{wrong: 16})
    with pytest.raises(UsageError, match="did you mean is_concrete"):
        assert_residuals(lambda x, **rest: fn(x), x, new_bytes=16, concrete=True)
    assert_residuals(lambda x, new_byte: fn(x), x, new_bytes=16, new_byte=2)  # the function's own
    assert_residuals(fn, x, new_bytes=16, eps=1e-3)


@pytest.mark.parametrize(
    ("bound", "nbytes", "message"),
    [
        (16, 20, "expected 16 B, got 20 B"),
        ("== 1 KiB", 1536, "expected 1 KiB, got 1.5 KiB"),
        ("<= 64 MiB", 65 * 2**20, "expected <= 64 MiB, got 65 MiB"),
        ("< 1MiB", 2**20, "expected < 1 MiB, got 1 MiB"),
        ("<= 1 MiB", 2**20 + 1, "expected <= 1 MiB, got 1.000001 MiB"),
        ("<= 1.5 GB", 3 * 10**12, "expected <= 1.5 GB, got 3000 GB"),
        ("<= 1000000", 123456789, "expected <= 1000000 B, got 123456789 B"),
    ],
)
def test_a_message_has_one_unit(bound: int | str, nbytes: int, message: str) -> None:
    """And digits enough to see that the bound does not hold."""
    assert testing._wrong("new_bytes", testing._bound("new_bytes", bound), nbytes) == f"new_bytes: {message}"


def test_the_fixture_is_a_plugin() -> None:
    from residuals_lab import pytest_plugin

    assert pytest_plugin._assert_residuals.__wrapped__() is assert_residuals
    text = (ROOT / "packages/lab/pyproject.toml").read_text()
    assert tomllib.loads(text)["project"]["entry-points"]["pytest11"] == {"residuals": pytest_plugin.__name__}


def test_a_gate_that_checks_nothing_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "some.lock"
    file.write(path, [])
    code, _, err = run(capsys, "check", "--file", path)
    assert (code, "expected a target in" in err) == (2, True)
    file.write(path, [entry()])
    code, _, err = run(capsys, "check", "--file", path, "--framework", "torch" if entry().framework == "jax" else "jax")
    assert (code, "expected a target of" in err) == (2, True)
    path.write_text(file.text([entry()]).replace("residuals = [", "others = ["))
    assert "it has no 'residuals'" in run(capsys, "check", "--file", path)[2]


def locked(folder: Path, framework: str, files: dict[str, str]) -> Path:
    """The lock of a function in each of these files, written from another folder."""
    path = folder / "residuals.lock"
    for name, fn in files.items():
        source = folder / name
        source.parent.mkdir(exist_ok=True)
        source.write_text(SINES[framework].format(fn=fn))
        assert cli.main(["lock", "write", f"{source}:fn", "--arg", "f32[4,8]", "--file", str(path)]) == 0
    return path


@BOTH
def test_paths_are_relative_to_the_file(
    framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of arguments too; whatever the folder in which the command runs."""
    for name in ("lock", "other", "src"):
        (tmp_path / name).mkdir()
    source, path = tmp_path / "src" / "mine.py", tmp_path / "lock" / "some.lock"
    gradient = {"jax": "", "torch": ".requires_grad_()"}[framework]
    source.write_text(SINES[framework].format(fn="n.sin(x).sum()") + f"def make(): return n.ones((4, 8)){gradient}\n")
    np.save(tmp_path / "src" / "x.npy", np.ones((4, 8)))
    monkeypatch.chdir(tmp_path / "src")
    relative = Path("../lock/some.lock")
    assert run(capsys, "write", "mine.py:fn", "--arg", "mine.py:make", "--file", relative)[0] == 0
    assert run(capsys, "write", "./mine.py:fn", "--input", "x=x.npy", "--file", relative)[0] == 0
    found = [(e.target, e.arguments) for e in file.read(path)]
    assert found == [("../src/mine.py:fn", (f"--{a}",)) for a in ("arg ../src/mine.py:make", "input x=../src/x.npy")]
    source.write_text(source.read_text().replace("n.sin(x)", "n.cos(n.sin(x))"))
    for folder, given in (
        (tmp_path / "other", "../lock/some.lock"),
        (tmp_path, path),
        (tmp_path / "lock", "some.lock"),
    ):
        monkeypatch.chdir(folder)
        code, out, err = run(capsys, "check", "--file", given)
        assert (code, err) == (1, "")
        assert f" at {os.path.relpath(source)}:3" in out, "a line is named from where the command runs"
    monkeypatch.chdir(tmp_path / "src")
    code, out, _ = run(capsys, "write", "mine.py:fn", "--file", relative)
    assert (code, "2 targets, rewritten" in out) == (0, True), "the target as the command line spells it"
    assert run(capsys, "check", "mine.py:fn", "--file", relative)[:2] == (0, "2 targets as locked.\n")
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "check", source.as_posix() + ":fn", "--file", path)[:2] == (0, "2 targets as locked.\n")


@BOTH
def test_a_file_of_version_1(
    framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its paths are relative to where the command runs; writing it moves it, all of it."""
    monkeypatch.chdir(tmp_path)
    Path("docs").mkdir()
    Path("docs/mine.py").write_text(SINES[framework].format(fn="n.sin(x).sum()"))
    path = Path("docs/some.lock")
    assert run(capsys, "write", "docs/mine.py:fn", "--arg", "f32[4,8]", "--file", path)[0] == 0
    new = path.read_text()
    old = new.replace("version = 2", "version = 1").replace('"mine.py:fn"', '"docs/mine.py:fn"')
    path.write_text("".join(line for line in old.splitlines(True) if "written_with" not in line))
    code, out, err = run(capsys, "check", "--file", path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.endswith("is of version 1; to move it to version 2, run: residuals lock write --file docs/some.lock\n")
    code, out, _ = run(capsys, "write", "--file", path)
    assert (code, path.read_text()) == (0, new)
    assert out.startswith("docs/some.lock: 1 target, rewritten; ")
    assert run(capsys, "write", "--file", path)[1].startswith("docs/some.lock: 1 target, as before; ")


@BOTH
def test_one_missing_file_hides_no_other(framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = locked(tmp_path, framework, {"a.py": "n.sin(x)", "b.py": "n.sin(x)", "c.py": "n.sin(x)", "d.py": "n.sin(x)"})
    (tmp_path / "a.py").unlink()
    (tmp_path / "c.py").write_text("raise SystemExit(0)\n")
    capsys.readouterr()
    code, out, err = run(capsys, "check", "--file", path)
    assert (code, out) == (2, "2 of 4 targets as locked.\n")
    assert [("no file at a.py" in line, "c.py:1: SystemExit: 0" in line) for line in err.splitlines()] == [
        (True, False),
        (False, True),
    ]
    for name in ("b.py", "d.py"):
        (tmp_path / name).write_text(SINES[framework].format(fn="n.cos(n.sin(x))"))
    code, out, err = run(capsys, "check", "--file", path)
    assert (code, "b.py:3" in out, "d.py:3" in out, err.count("\n")) == (1, True, True, 2)
    assert "FAILED: 2 of 4 targets." in out
    assert len(json.loads(run(capsys, "check", "--file", path, "--json")[1])["problems"]) == 2
    before = {e.target: e for e in file.read(path)}
    code, out, err = run(capsys, "write", "--file", path)
    assert (code, err.count("\n")) == (2, 2)
    after = {e.target: e for e in file.read(path)}
    assert [name for name in before if before[name] != after[name]] == ["b.py:fn", "d.py:fn"]


@BOTH
def test_another_version_is_said_where_something_differs(
    framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = locked(tmp_path, framework, {"a.py": "n.sin(x)"})
    title = frameworks.load(framework).TITLE
    text = path.read_text()
    assert f'written_with = "{title}"' in text
    path.write_text(text.replace(title, "Other 0.1"))
    capsys.readouterr()
    assert run(capsys, "check", "--file", path)[:2] == (0, "1 target as locked.\n"), "nothing differs"
    path.write_text(text.replace(title, "Other 0.1").replace("bytes = ", "bytes = 1"))
    code, out, _ = run(capsys, "check", "--file", path)
    assert code == 0
    said = [line for line in out.splitlines() if "Other 0.1" in line]
    assert said == ["  written with Other 0.1: what differs may be due to the other version"]
    (document, *_) = json.loads(run(capsys, "check", "--file", path, "--json")[1])["changes"]
    assert (document["written_with"], document["checked_with"]) == ("Other 0.1", title)
    assert run(capsys, "write", "--file", path)[0] == 0
    assert path.read_text() == text


@BOTH
def test_a_lock_is_the_same_in_every_process(framework: str, tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text(SINES[framework].format(fn="sum((n.sin(n.exp(x * i)) * n.tanh(x)).sum() for i in range(3))"))
    texts = set[bytes]()
    for seed in ("0", "1", "4294967295"):
        path = tmp_path / f"{seed}.lock"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "residuals_lab",
                "lock",
                "write",
                f"{source}:fn",
                "--arg",
                "f32[4,8]",
                "--file",
                path,
            ],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        texts.add(path.read_bytes())
    assert len(texts) == 1


def test_a_lock_without_targets_is_written_again_by_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "some.lock"
    file.write(path, [])
    code, _, err = run(capsys, "write", "--file", path)
    assert (code, "expected a target in" in err, err.count("\n")) == (2, True, 1)


LONG = "model.layers.*.mlp.down_proj.weight"


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_row_breaks_between_words(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no number is cropped: not even one that needs all of its digits."""
    monkeypatch.setattr("residuals_lab.lock.table._width", lambda: columns)
    keys = {Key(LONG, "parameter", "bfloat16[14336, 4096]"): Amount(32, 32 * 14336 * 4096 * 2)}
    keys |= {Key("scaled_dot_product_attention", "new", "bfloat16[8, 32, 4096, 128]"): Amount(32, 2**31 + 4)}
    arguments = ("--arg input_ids=i64[8,4096]", "--arg attention_mask=i64[8,4096]", "--arg labels=i64[8,4096]")
    after = Entry("training/models.py:step", "torch", arguments, 1, 1, keys, "PyTorch 2.13.0")
    after.lines.update(dict.fromkeys(keys, "src/models/llama/modeling_llama.py:1234"))
    before = {Key("model.layers.*.mlp.gate_proj.weight", k.kind, k.array): a for k, a in keys.items()}
    before[next(reversed(before))] = Amount(31, 2**31)
    table.show(changes(replace(after, residuals=before, lines={}, new_bytes=0), after))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= columns
    words = ("scaled_dot_product_attention,", LONG + ",", "bfloat16[8, 32, 4096, 128]", "bfloat16[14336, 4096]")
    words += ("src/models/llama/modeling_llama.py:1234", "'attention_mask=i64[8,4096]'", "training/models.py:step")
    for word in (*words, "+2 GiB", "3.5 GiB", "new bytes", "replaced"):
        assert word in out


def test_a_growth_that_rounding_hides(capsys: pytest.CaptureFixture[str]) -> None:
    table.show(changes(entry(a=Amount(1, 2**30)), entry(a=Amount(1, 2**30 + 4))))
    assert capsys.readouterr().out.count("+4 B      1 GiB -> 1 GiB") == 3


def test_the_recipe_for_ci_checks_the_lock(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last step is a command that runs as it is, and fails where there is no lock."""
    (recipe,) = [b.text for b in blocks(ROOT / "docs" / "lock.md") if not b.language]
    steps = [line.split("- run: ")[1] for line in recipe.splitlines() if "- run: " in line]
    packages = [word for word in steps[0].split() if word.startswith("./lab/")]
    assert [name for name in packages if not (ROOT / name.removeprefix("./lab/") / "pyproject.toml").is_file()] == []
    program, *words = steps[-1].split()
    assert (program, words) == ("residuals", ["lock", "check"])
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    assert "no file residuals.lock" in capsys.readouterr().err

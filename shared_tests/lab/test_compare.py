"""`residuals compare`: what it finds, what it prints, and what it says about bad input."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from command import assert_usage, run
from residuals_lab import frameworks
from residuals_lab.compare import Comparison, compare, summary, table
from residuals_lab.compare.measure import Options
from residuals_lab.ops import BY_NAME
from residuals_lab.ops.tolerance import error, limit

INSTALLED = frameworks.installed()
ONE = INSTALLED[0]


def test_json_has_all_the_facts(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "x_sin_x", "rms_norm", "--json", "--size", 640)
    document = json.loads(out)
    assert (code, err, document["schema_version"], document["findings"]) == (0, "", 2, [])
    assert [entry["op"] for entry in document["ops"]] == ["x_sin_x", "rms_norm"]
    for entry in document["ops"]:
        assert tuple(entry["frameworks"]) == INSTALLED
        assert set(entry["exchange"]) == {f"{a}->{b}" for a in ("numpy", *INSTALLED) for b in INSTALLED}
        assert max(entry["exchange"].values()) <= 1e-9
        for framework in entry["frameworks"].values():
            record, plain, checkpoint = framework["rule"], framework["plain"], framework["checkpoint"]
            assert record["errors"]["value"]["float64"] <= 1e-9
            assert record["errors"]["gradient"]["float64"] <= 1e-9
            assert 0 < record["errors"]["gradient"]["float32"] <= 1e-5
            assert record["saved_bytes"] == sum(r["bytes"] for r in record["residuals"])
            assert record["repeats"] == []
            assert checkpoint["repeats"] != []
            assert checkpoint["saved_bytes"] < record["saved_bytes"] <= plain["saved_bytes"]
            assert record["new_bytes"] == sum(r["bytes"] for r in record["residuals"] if r["kind"] == "new")
            assert record["new_bytes"] < plain["new_bytes"] or entry["op"] == "x_sin_x"
            assert record["new_bytes"] < record["chain_bytes"] <= plain["chain_bytes"]
            assert plain["errors"]["second_derivative"] is None, "it is the truth of second derivatives"


def test_json_names_the_frameworks_own_op(capsys: pytest.CaptureFixture[str]) -> None:
    """And has its bytes; where there is none it has neither."""
    own = {"jax": ("jnp.tanh", None), "torch": ("torch.tanh", None)}
    document = json.loads(run(capsys, "tanh", "scaled", "--json")[1])
    for i, entry in enumerate(document["ops"]):
        assert entry["first_array_bytes"] == 4 * 4096
        for name, framework in entry["frameworks"].items():
            record = framework["rule"]
            assert (framework["own"] and framework["own"]["name"]) == own[name][i]
            assert (record["saved_bytes"], record["new_bytes"], record["chain_bytes"]) == {
                "tanh": (4 * 4096, 0, 0),  # it saves y, which the next layer holds
                "scaled": (4 * 4096 + 4 * 64, 0, 4 * 4096),  # and this x, which nobody else does
            }[entry["op"]]


@pytest.mark.parametrize("framework", INSTALLED)
def test_the_seed_problem(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exactly x and sin_x, 8 bytes a float32 element; plain autodiff holds 12 in JAX and 8 in PyTorch."""
    _, out, _ = run(capsys, "x_sin_x", "--framework", framework, "--size", 1000, "--json")
    found = json.loads(out)["ops"][0]["frameworks"][framework]
    record, plain, checkpoint = found["rule"], found["plain"], found["checkpoint"]
    shown = ("name", "shape", "dtype", "bytes", "kind", "storage", "storage_bytes")
    assert [tuple(r[key] for key in shown) for r in record["residuals"]] == [
        ("x", [1000], "float32", 4000, "input", 0, 4000),
        ("sin_x", [1000], "float32", 4000, "new", 1, 4000),
    ]
    assert record["saved_bytes"] == 8000
    assert plain["saved_bytes"] == {"jax": 12000, "torch": 8000}[framework]
    assert checkpoint["saved_bytes"] == 4000
    assert (record["new_bytes"], record["chain_bytes"]) == (4000, 8000)
    assert plain["chain_bytes"] == plain["saved_bytes"]
    assert (record["repeats"], [r["op"] for r in checkpoint["repeats"]]) == ([], ["sin"])


def test_the_table_says_what_the_json_says(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "x_sin_x")
    assert code == 0
    for name in INSTALLED:
        assert frameworks.load(name).TITLE in out
    for words in ("value error", "gradient error", "second derivative", "sin_x", "16 KiB  float32[4096]  new"):
        assert words in out
    assert "1 op, all as they should be" in out
    assert "\x1b" not in out, "no colours in a pipe"


@pytest.mark.parametrize("framework", INSTALLED)
def test_the_table_has_the_frameworks_own_op(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "rms_norm", "--framework", framework)
    table = [" ".join(line.split()) for line in out.splitlines()]
    own = {"jax": "–", "torch": "F.rms_norm"}[framework]
    assert f"framework's own op {own}" in table
    assert sum("framework's own" in row for row in table) == {"jax": 1, "torch": 4}[framework]
    assert "new bytes this rule 256 B 0.0625 B an element" in table
    assert "added to linear→op→linear this rule 16.25 KiB 4.06 B an element" in table


def test_the_lanes_of_an_op(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "lanes.svg"
    assert run(capsys, "x_sin_x", "--dtype", "f32", "--plot", picture)[0] == 0
    assert picture.read_text().rstrip().endswith("</svg>")
    assert_usage(run(capsys, "relu", "tanh", "--plot", picture), "--plot: expected one op, got 2")


def test_many_ops_are_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each op and framework, in 120 columns; what this rule holds, what of it is new, what it adds."""
    expected = {
        "x_sin_x": ["2.0", "1.0", "2.0"],
        "tanh": ["1.0", "0", "0"],
        "silu": ["1.0", "0", "1.0"],
        "relu_bits": [".03", ".03", ".03"],
    }
    code, out, _ = run(capsys, *expected)
    lines = out.splitlines()
    table = iter(lines[next(i for i, line in enumerate(lines) if line.split()[:2] == ["error", "our"]) + 1 :])
    for op, numbers in expected.items():
        for label in ([op, frameworks.TITLES[INSTALLED[0]]], *([frameworks.TITLES[name]] for name in INSTALLED[1:])):
            line = next(table)
            assert len(line) <= 120
            row = line.split()
            assert row[: len(label)] == label
            assert row[len(label) + 1 :][:9:3] == numbers
            assert (row[-1] == "agrees") == (op in label)
    assert (code, lines[-1]) == (0, "One in detail: residuals compare x_sin_x")


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """Of ops with short and long names, that repeat nothing, one thing, and several."""
    ops = [BY_NAME[name] for name in ("x_sin_x", "gelu", "dropout_remat", "qk_norm_attention", "linear_cross_entropy")]
    return compare(ops, [frameworks.load(name) for name in INSTALLED], Options())


WIDTHS = (60, 80, 120, 200)


@pytest.mark.parametrize("view", [summary, table])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_word_is_broken_and_nothing_is_left_out(
    view: Any, width: int, comparison: Comparison, capsys: pytest.CaptureFixture[str]
) -> None:
    view.show(comparison, Console(width=width, highlight=False, force_terminal=True, color_system=None))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    words = {word.strip(";,") for line in lines for word in line.split()}
    view.show(comparison, Console(width=1000, highlight=False, force_terminal=True, color_system=None))
    wide = {word.strip(";,") for line in capsys.readouterr().out.splitlines() for word in line.split()}
    assert wide <= words, f"gone or broken: {wide - words}"


def test_a_wide_terminal_has_one_row_an_op_and_framework(
    comparison: Comparison, capsys: pytest.CaptureFixture[str]
) -> None:
    summary.show(comparison, Console(width=200, highlight=False, force_terminal=True, color_system=None))
    lines = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.split()[:2] == ["error", "our"])
    assert len(lines[first + 1 : lines.index("", first)]) == len(comparison.entries) * len(INSTALLED)


def test_progress_says_how_far_it_is() -> None:
    told: list[str] = []
    compare([BY_NAME["relu"], BY_NAME["tanh"]], [frameworks.load(ONE)], Options(), tell=told.append)
    assert told == ["comparing 1 of 2: relu", "comparing 2 of 2: tanh"]


def test_everything_in_one_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "x_sin_x", "--dtype", "bf16", "--json")
    record = json.loads(out)["ops"][0]["frameworks"][ONE]["rule"]
    assert code == 0
    assert list(record["errors"]["gradient"]) == ["bfloat16"]
    assert record["residuals"][1]["bytes"] == 2 * 4096


@pytest.mark.parametrize("suffix", ["npy", "npz", "csv"])
def test_a_real_signal(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    signal, path = np.linspace(-3, 3, 101), tmp_path / f"signal.{suffix}"
    if suffix == "csv":
        path.write_text("volt\n" + "\n".join(map(str, signal)))
    else:
        {"npy": np.save, "npz": lambda p, a: np.savez(p, x=a)}[suffix](path, signal)
    op = "rms_norm" if suffix == "csv" else "x_sin_x"
    code, out, _ = run(capsys, op, "--input", f"x={path}", "--json")
    assert code == 0
    assert json.loads(out)["ops"][0]["shapes"]["x"] == [101]


BAD_FILES: dict[str, tuple[Any, str]] = {
    "empty.npy": (np.zeros(0), "is empty, shape (0,)"),
    "empty.csv": ("", "is empty"),
    "rank.npy": (np.zeros((2, 3)), "x_sin_x expects axes (n), got shape (2, 3)"),
    "scalar.npy": (np.array(1.0), "x_sin_x expects axes (n), got shape ()"),
    "rank.csv": ("1,2\n3,4", "x_sin_x expects axes (n), got shape (2, 2)"),
    "complex.npy": (np.ones(3, complex), "expected real numbers, got complex128"),
    "text.npy": (np.array(["a", "b"]), "expected numbers, got <U1"),
    "objects.npy": (np.array([None, 1]), "could not be read as numbers"),
    "words.csv": ("time\n1\ntwo\n3", "could not be read as numbers: could not convert string 'two'"),
    "nan.npy": (np.array([1, np.nan, np.nan]), "has 2 NaN of 3 numbers, the first at index [1]"),
    "nan.csv": ("1\n2\nnan\n", "has 1 NaN of 3 numbers, the first at index [2]"),
    "infinite.npy": (np.array([1, -np.inf]), "has 1 infinite of 2 numbers, the first at index [1]"),
    "large.npy": (np.array([1, 1e300]), "x: 1 of 2 numbers overflow float32, the first at [1]"),
    "broken.npy": ("not an array", "could not be read as numbers"),
    "broken.npz": ("not an archive", "could not be read as numbers"),
    "signal.txt": ("1 2 3", "expected a file ending in .npy, .npz, .csv"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = BAD_FILES[name]
    path = tmp_path / name
    if isinstance(content, str):
        path.write_text(content)
    else:
        np.save(path, content, allow_pickle=True)
    assert_usage(run(capsys, "x_sin_x", "--input", f"x={path}"), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nonsense",), f"op: expected one of {', '.join(BY_NAME)}, got 'nonsense'"),
        (("--input", "x=nowhere.npy"), "x: no file at nowhere.npy"),
        (("--input", "x"), "--input: expected NAME=FILE, got 'x'"),
        (("--size", "0"), "expected a whole number above 0, got '0'"),
        (("--seed", "-1"), "expected a whole number, 0 or above, got '-1'"),
        (("--dtype", "int8"), "expected one of float64, float32, bfloat16, float16, got 'int8'"),
        (("nowhere.py:fn", "--like", "x_sin_x"), "target: no file at nowhere.py"),
        (("fn", "--like", "x_sin_x"), "target: expected file.py:function or package.module:function, got 'fn'"),
        (("nowhere:fn", "--like", "x_sin_x"), "target: nowhere could not be imported: ModuleNotFoundError"),
        (("--like", "x_sin_x"), "--like expects one file.py:function or module:function, got 0"),
        (("--nonsense",), "unrecognized arguments: --nonsense"),
    ],
    ids=lambda a: " ".join(a) if isinstance(a, tuple) else "",
)
def test_wrong_usage_is_one_line(arguments: Any, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_usage(run(capsys, *arguments), message)


def test_two_inputs_must_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 3)))
    np.save(tmp_path / "w.npy", np.ones(4))
    given = ("--input", f"x={tmp_path / 'x.npy'}", "--input", f"weight={tmp_path / 'w.npy'}")
    assert_usage(run(capsys, "rms_norm", *given), "weight: expected axis d of size (3,), got shape (4,)")
    assert_usage(run(capsys, "x_sin_x", "--input", f"w={tmp_path / 'w.npy'}"), "input: expected one of x, got 'w'")


def test_a_missing_framework_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(frameworks, "is_installed", lambda name: False)
    for arguments in ((), ("--framework", "jax")):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (3, "")
        assert "pip install ./packages/jax" in err


def test_an_empty_folder_is_not_a_framework(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`packages/jax`, on the path by accident, looks like a package called jax."""
    (tmp_path / "mirage").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not frameworks.is_installed("mirage")


def test_no_gpu_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(frameworks.load(ONE), "devices", lambda: ("cpu",))
    assert_usage(run(capsys, "--framework", ONE, "--device", "gpu"), "finds no gpu here")


@pytest.mark.parametrize("framework", INSTALLED)
def test_an_op_that_breaks_its_word_fails(
    framework: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = frameworks.load(framework)
    right = adapter.op("x_sin_x")
    claims = SimpleNamespace(**{**vars(right), "RECOMPUTES": {"sin": "it says"}})
    monkeypatch.setattr(adapter, "op", lambda name: claims)
    code, out, _ = run(capsys, "x_sin_x", "--framework", framework)
    assert code == 1
    assert "FAILED x_sin_x in" in out
    assert "repeats other operations in its backward than RECOMPUTES declares: expected sin, got nothing" in out


def test_errors_do_not_hide_in_nan_or_shape() -> None:
    truth = np.array([1.0, np.nan, np.inf])
    assert error(truth, truth) == 0
    assert error(np.array([1.0, 0.0, np.inf]), truth) == np.inf
    assert error(np.array([1.0, np.nan, 0.0]), truth) == np.inf
    assert error(np.array([np.nan, np.nan, np.inf]), truth) == np.inf
    assert error(truth[:2], truth) == np.inf
    assert error(np.array([1.0, 2.2]), np.array([1.0, 2.0])) == pytest.approx(0.1)
    assert error(np.full(2, 0.5), np.zeros(2)) == 0.5
    assert limit("float64", 1.0) == 1e-9
    assert limit("float32", 1e-3) == pytest.approx(2e-3, rel=1e-3)


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rich.console.Console.print", lambda *args, **kwargs: full(""))
    assert_usage(run(capsys, "x_sin_x"), "No space left on device")

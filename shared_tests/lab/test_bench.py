"""The bench: its statistics, its programs, and when it has no verdict. No test asserts how long something takes."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from command import assert_usage, residuals
from residuals_lab import bench, cli, frameworks
from residuals_lab.bench import Bench, Entry, Interval, Options, Way, baseline, table
from residuals_lab.bench.document import document
from residuals_lab.frameworks.protocol import Framework
from residuals_lab.ops import BY_NAME

BOTH = pytest.mark.parametrize("adapter", [*map(frameworks.load, frameworks.installed())], ids=frameworks.installed())
FIRST, *_ = frameworks.installed()


def way(name: str, median: float | None, spread: float = 0.02) -> Way:
    found = None if median is None else Interval(median, median - spread, median + spread)
    ratio = found and {"forward": found, "both": found}
    return Way(name, {"forward": 0.001, "both": 0.002}, ratio, 4096, 4096, 1024)


def entry(name: str = "gelu", noise: float = 0.02, plain: float = 1.5) -> Entry:
    ways = way("ours", None), way("plain", plain), way("checkpoint", 0.7), way("F.gelu", 2.25)
    quiet = Interval(1, 1 - noise, 1 + noise)
    both = {"forward": quiet, "both": quiet}
    return Entry(name, "torch", "PyTorch 2.13.0", {"x": (1024,)}, 4096, ways, both, 0.001, "memory")


def shown(result: Bench, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, no_color=True, highlight=False)
    table.show(result, console)
    return re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue())  # type: ignore[attr-defined]


def result(*entries: Entry) -> Bench:
    return Bench(Options(), 1, entries)


def test_an_interval_is_of_ratios_within_a_round() -> None:
    """Each round is slower than the one before, both ways alike: the ratio is exact."""
    slower = np.linspace(1, 100, 30)
    assert bench._interval([*(3 * slower)], [*slower]) == (3, 3, 3)


def test_an_interval_has_the_median_as_often_as_it_says() -> None:
    """And about as often as 95 % promises, of ratios that are far from normal."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(1000):
        found = bench._interval([*rng.exponential(size=30)], [1.0] * 30)
        inside += found.low <= np.log(2) <= found.high
    assert 930 < inside < 990


def test_a_noisy_machine_gets_no_verdict() -> None:
    assert [entry(noise=noise).is_quiet for noise in (0.05, 0.2)] == [True, False]
    assert "Too noisy" not in shown(result(entry()), 80)
    noisy = shown(result(entry(noise=0.2)), 80)
    assert "gelu ?" in noisy
    assert "gelu in PyTorch 2.13.0: 0.80 to 1.20 of itself" in noisy


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_every_width_has_all_numbers(width: int) -> None:
    text = shown(result(entry("linear_cross_entropy"), entry("gelu")), width)
    assert all(len(line) <= width for line in text.splitlines())
    assert [text.count(cell) for cell in ("2.25 ±0.02", "1.50 ±0.02", "1.0 1.0 1.0 1.0")] == [4, 4, 2]


@BOTH
def test_a_program_counts_its_products_and_its_bytes(adapter: Framework) -> None:
    """A product of matrices is done three times, once forward and twice backward; two flops for each number."""
    x, w = (adapter.array(np.ones(shape), "float32") for shape in ((8, 32), (32, 16)))
    program = adapter.program(lambda x, w: x @ w, [x, w], [0, 1], False)
    assert program.flops() == 3 * 2 * 8 * 32 * 16
    assert program.moved_bytes == 4 * 2 * (8 * 32 + 32 * 16 + 8 * 16)
    assert program.peak_bytes() >= 4 * (8 * 32 + 32 * 16)
    program.forward(), program.both()
    frozen = adapter.program(lambda x, w: x @ w, [x, adapter.frozen(w)], [0], False)
    assert frozen.flops() == 2 * 2 * 8 * 32 * 16


@BOTH
def test_all_ways_are_there(adapter: Framework) -> None:
    """For an op ours, plain autodiff, a checkpoint and the framework's own; all arrays as the op wants them."""
    for name in ("gelu", "flash_attention", "dropout"):
        subject = bench.subject_of(BY_NAME[name], adapter, Options(size=4096))
        assert [*subject.ways][:3] == ["ours", "plain", "checkpoint"]
        assert [*subject.ways][3:] == [own for own, _ in [adapter.OWN.get(name, ("", None))] if own]
    (found,), not_run = bench.bench({"one": lambda: subject, "two": lambda: subject}, Options(rounds=2), minutes=1e-9)
    assert not_run == ("two",), "one that was begun is done"
    assert found.ways[0].ratio is None
    assert found.ways[0].new_bytes < found.ways[1].new_bytes, "one bit an element"
    assert found.floor_is == "memory"


def test_a_baseline_names_what_became_slower() -> None:
    then, now = (document(result(entry(plain=p), entry("silu", noise=n))) for p, n in ((1.5, 0.02), (1.6, 0.02)))
    slower = baseline.changes(then, now)
    assert {(c.name, c.way, c.before, c.now) for c in slower} == {("gelu", "plain", 1.5, 1.6)}
    assert all(c.is_slower for c in slower)
    assert not any(c.is_slower for c in baseline.changes(now, then))
    assert not baseline.changes(then, document(result(entry(plain=1.53)))), "the intervals have something in common"
    assert not baseline.changes(then, document(result(entry(plain=1.6, noise=0.2)))), "too noisy"
    assert baseline.unlike(then, document(replace(result(entry()), threads=2))) == ["threads: 1 then, 2 now"]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    numpy = {"jax": "jax.numpy", "torch": "torch"}[FIRST]
    path = tmp_path / "mine.py"
    path.write_text(f"import {numpy} as n\ndef f(x): return n.sin(x)\ndef g(x): return n.sin(x) + 0 * n.cos(x)\n")
    return path


def test_two_functions_beside_each_other(mine: Path, capsys: Any) -> None:
    call = ["bench", "mine.py:f", "--beside", "mine.py:g", "--arg", "f32[64]", "--rounds", "6"]
    assert cli.main([*call, "--save", "then.json", "--plot", "then.svg"]) == 0
    printed = capsys.readouterr()
    assert "× mine.py:g" in printed.out
    assert printed.err.splitlines() == ["wrote then.json", "wrote then.svg"]
    (found,) = json.loads(Path("then.json").read_text())["entries"]
    assert [w["name"] for w in found["ways"]] == ["mine.py:f", "mine.py:g"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gelo"], "did you mean 'gelu'"),
        (["mine.py:f"], "--beside TARGET"),
        (["gelu", "--arg", "f32[4]"], "an op has its own arguments"),
        (["gelu", "--threads", "4096"], "expected at most"),
        (["gelu", "--plot", "x.bmp"], ".svg or .png"),
        (["gelu", "--save", "no/such/x.json"], "no folder"),
        (["gelu", "--baseline", "mine.py"], "--save has written"),
        (["gelu", "--rounds", "2"], "at least 6"),
        (["gelu", "--minutes", "-1"], "a number above 0"),
        (["mine.py:f", "--beside", "mine.py:g"], "expected arrays to run it on"),
    ],
)
def test_bad_input_is_one_line(mine: Path, capsys: Any, arguments: list[str], message: str) -> None:
    assert_usage(residuals(capsys, "bench", *arguments), message)

"""The audit on terminals of 60 to 200 columns: no word is broken, no number cropped, nothing left out."""

import re
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from residuals_lab import frameworks
from residuals_lab.audit import Audit
from residuals_lab.audit.table import show_all, show_rows
from residuals_lab.show import say
from residuals_lab.trace import Residual, Step, Trace, Value
from residuals_lab.trace.groups import rows

WIDTHS = (60, 80, 120, 200)
LONG = "model.language_model.layers.{}.self_attention.query_key_value.dense_projection.weight"


def trace(layers: int, *, is_wide: bool) -> Trace:
    """A linear layer's weight and output a layer, of one width or each of its own."""
    found = []
    for i in range(layers):
        width = 1024 + i * is_wide
        for j, (name, kind, op) in enumerate(((LONG.format(i), "parameter", ""), ("linear", "new", "linear"))):
            value = Value(2 * i + j, (width, 4096), "float32", 4)
            line = "transformers/models/gpt_neox/modeling_gpt_neox.py:1041"
            r = Residual(
                name,
                value,
                kind,  # type: ignore[arg-type]
                storage=(i, j),
                storage_bytes=value.nbytes,
                nbytes=value.nbytes,
                is_new=kind == "new",
                op=op,
                line=line,
                module=f"GPT/layers/{i}/mlp",
                saved=i,
                reads=(2 * layers - i,),
                is_needed=True,
            )
            found.append(r)
    steps = [
        Step("linear" if i < layers else "linear_backward", (), (2 * min(i, layers - 1) + 1,), phase, module="GPT")
        for i, phase in enumerate(["forward"] * layers + ["backward"] * (layers + 1))
    ]
    values = {r.value.number: r.value for r in found}
    return Trace(tuple(steps), tuple(found), values=values)  # type: ignore[arg-type]


def audits(*traces: Trace) -> list[Audit]:
    adapter = frameworks.load(frameworks.installed()[0])
    return [Audit(f"models/of/somebody/{i}.py:loss", "PyTorch 2.13.0", t, adapter) for i, t in enumerate(traces)]


def words(found: list[Audit], width: int, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """What is printed, word by word; a line is no longer than the terminal."""
    console = Console(
        width=width, highlight=False, markup=False, force_terminal=True, color_system=None, soft_wrap=True
    )
    show_all(found, console, 12, None)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    return {word.strip(",;") for line in lines for word in re.split(r"[\s/._]+", line)}


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_width_loses_a_word(width: int, beside: bool, capsys: pytest.CaptureFixture[str]) -> None:
    found = audits(trace(2, is_wide=True), *([trace(40, is_wide=False)] if beside else []))
    heads = {"why", "kind", "array", "dtype"}  # that what stands on a line of its own does not need
    assert words(found, 1000, capsys) - heads <= words(found, width, capsys)


@pytest.mark.parametrize("layers", [2, 40, 500])
def test_layers_of_different_widths_are_summed_up(layers: int, capsys: pytest.CaptureFixture[str]) -> None:
    wide = trace(layers, is_wide=True)
    found = rows(wide)
    assert len(found) == (4 if layers == 2 else 2)
    assert sum(row.nbytes for row in found) == wide.saved_bytes
    if layers > 2:
        assert {row.array for row in found} == {f"float32, {layers} shapes"}
    shown = words(audits(wide), 80, capsys)
    assert len(shown) < 150, "a page of text, however many layers"


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("a short line", 60, ["a short line"]),
        ("words are not broken", 10, ["words are", "  not", "  broken"]),
        (f"at {LONG.format(31)}: exp", 50, [
            "at model.language_model.layers.31.self_attention.", "  query_key_value.dense_projection.weight: exp",
        ]),
        ("      12 MiB  gate", 14, ["      12 MiB", "  gate"]),
    ],
)  # fmt: skip
def test_where_a_line_is_broken(text: Any, width: int, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=width, highlight=False, force_terminal=True, color_system=None, soft_wrap=True)
    say(console, Text(text), indent=2)
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize("width", WIDTHS)
def test_every_cell_stands_below_its_head(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=width, force_terminal=True, color_system=None, soft_wrap=True)
    rows = [
        ["1 MiB", "softmax", "new", "float32[8, 8]", "here", "exp"],
        ["10 B", "x", "parameter", "bool[4]", "–", "–"],
    ]
    show_rows(
        console, ["saved", "residual", "kind", "array", "made at", "read by"], rows, 1, 4, ("made at ", "read by ")
    )
    head, *lines = capsys.readouterr().out.splitlines()
    for i, title in enumerate(("residual", "kind"), 1):
        assert all(any(line[head.index(title) :].startswith(row[i]) for line in lines) for row in rows)


def test_a_tree_of_modules_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    found = trace(40, is_wide=False)
    at = [replace(r, module=r.module if i % 4 < 3 else "GPT") for i, r in enumerate(found.residuals)]
    (report,) = audits(replace(found, residuals=tuple(at)))
    assert {"itself"} <= words([report], 80, capsys)
    assert "itself" not in words(audits(found), 80, capsys)


def test_what_is_wasted_is_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    found = trace(2, is_wide=True)
    small = replace(found.residuals[1], value=Value(9, (4,), "float32", 4), storage=9, storage_bytes=16, nbytes=16)
    unused = [
        replace(r, reads=(), is_needed=False, name="unused", line=f"a:{i}")
        for i, r in enumerate((found.residuals[1], small, replace(small, storage=10)))
    ]
    values = {r.value.number: r.value for r in unused} | found.values
    (report,) = audits(replace(found, residuals=(found.residuals[0], *unused), values=values))
    words([report], 80, capsys)
    show_all([report], Console(width=80, color_system=None), 12, None)
    out = capsys.readouterr().out
    assert "Wasted: 16 MiB of 16 MiB" in out
    assert "32 B  in 2 more" in out


@pytest.mark.parametrize("by", ["source", "module", "kind"])
def test_sums_are_one_view_and_repeat_nothing(by: Any, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=80, color_system=None, highlight=False)
    show_all(audits(trace(40, is_wide=False)), console, 12, by, is_drawn=True)
    out = capsys.readouterr().out
    assert "Wasted" not in out
    assert "Next: --beside TARGET compares\n" in out

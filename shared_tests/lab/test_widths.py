"""The audit on terminals of 60 to 200 columns: no word is broken, no number cropped, nothing left out."""

import re
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from residuals_lab import frameworks
from residuals_lab.audit import Audit
from residuals_lab.audit.table import show_all
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
    heads = {"why"}  # of a column that needs no head where it stands on a line of its own
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

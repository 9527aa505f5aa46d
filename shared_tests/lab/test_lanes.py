"""The picture of what a backward pass keeps: its data by hand-computed numbers, and that it is drawn."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from residuals_lab.audit import audit
from residuals_lab.errors import UsageError
from residuals_lab.lanes import Note, Picture, draw
from residuals_lab.lanes.figure import BARS, LIGHT, Column, _thinned, figure_of
from residuals_lab.lanes.rows import rows_of, runs
from residuals_lab.trace import Residual, Step, Trace, Value
from residuals_lab.trace.lifetimes import lanes, staircase


def steps(forward: int, backward: int, scopes: dict[int, str] | None = None) -> tuple[Step, ...]:
    phases = ["forward"] * forward + ["backward"] * backward
    return tuple(Step(f"op{i}", (), (), phase, module=(scopes or {}).get(i, "")) for i, phase in enumerate(phases))


def residual(name: str, size: int, saved: int, *reads: int, number: int = 0, **others: Any) -> Residual:
    fields: dict[str, Any] = {
        "kind": "new", "storage": name, "nbytes": size, "is_new": True, "op": name, "line": "", "module": "",
        "is_needed": bool(reads),
    }  # fmt: skip
    return Residual(
        name, Value(number, (size,), "uint8", 1), storage_bytes=size, saved=saved, reads=reads, **(fields | others)
    )


# Of x only a view is read after step 4; what reads exp leads to no gradient.
SMALL = Trace(
    steps(4, 4),
    (
        residual("row of x", 16, 1, 6, kind="view", storage="x", nbytes=4, is_new=False),
        residual("x", 16, 2, 4, kind="input", is_new=False, op=""),
        residual("sin", 8, 1, 4, 5),
        residual("exp", 2, 3, 5, is_needed=False),
    ),
)


def model(layers: int, *others: Residual) -> Trace:
    """Three residuals a layer, of 10, 20 and 30 bytes, of which one is a parameter that nothing makes."""
    crossing = list(others)
    end = 2 * layers - 1
    for i in range(layers):
        scope = f"net/layers/{i}"
        crossing += [
            residual(f"w_{i}", 10, i, end - i, kind="parameter", is_new=False, op=""),
            residual(f"a_{i}", 20, i + 1, end - i, module=scope),
            residual(f"b_{i}", 30, i + 1, end - i, module=scope),
        ]
    scopes = {i: f"net/layers/{min(i, end - i)}" for i in range(2 * layers)}
    return Trace(steps(layers, layers, scopes), tuple(crossing))


def test_the_staircase() -> None:
    assert [(s.place, s.new, s.alive) for s in staircase(SMALL)] == [
        (1, {"new": 8}, {"input": 16}),
        (3, {"new": 10}, {"input": 16}),
        (6, {"new": 2}, {"input": 16}),
        (7, {"new": 2}, {}),
        (8, {}, {}),
    ]
    assert max(s.nbytes for s in staircase(SMALL)) == SMALL.saved_bytes == 26
    assert max(s.new_bytes for s in staircase(SMALL)) == SMALL.new_bytes == 10
    assert staircase(Trace((), ())) == []


def test_a_lane_for_each_storage() -> None:
    found = [(a.name, a.kind, a.nbytes, a.begin, a.end, a.is_unused) for a in lanes(SMALL)]
    assert found == [
        ("x", "input", 16, 1, 7, False),
        ("sin", "new", 8, 1, 6, False),
        ("exp", "new", 2, 3, 8, True),
    ]


def test_what_no_operation_makes_is_where_it_is_read() -> None:
    assert {a.module for a in lanes(model(3)) if a.name in ("w_2", "a_2")} == {"net/layers/2"}


def test_who_reads_a_residual() -> None:
    several = residual("several", 4, 1, 4, 5, 6, 7)
    trace = Trace((*steps(4, 2), *steps(0, 2)), (several, residual("unread", 4, 1)))
    assert [trace.readers(r) for r in trace.residuals] == [["op4", "op5", "op0", "op1"], []]
    again = replace(several, reads=(5, 4, 5))
    assert trace.readers(again) == ["op5", "op4"], "each once, in the order in which they read"


def shown(*traces: Trace, **how: Any) -> list[tuple[str, str, list[int | None]]]:
    """The rows of pictures of these: module, name, bytes in each column."""
    return [
        (row.module, row.name, [side.nbytes if side else None for side in row.sides])
        for row in rows_of([Picture(trace) for trace in traces], **how)
    ]


def test_the_rows_of_a_small_function() -> None:
    assert shown(SMALL) == [("", "x", [16]), ("", "sin", [8]), ("", "exp", [2])]
    assert shown(SMALL, order="bytes", most=2) == [("", "x", [16]), ("", "all others", [10])]
    x, sin, exp = rows_of([Picture(SMALL)])
    assert [row.what for row in (x, sin, exp)] == ["uint8[16]", "uint8[8]", "uint8[2]"]
    assert [[part.is_wasted for side in row.sides if side for part in side.parts] for row in (sin, exp)] == [
        [False],
        [True],
    ], "what no gradient needs is wasted"
    assert [(level.place, *level.amounts) for side in sin.sides if side for level in side.levels] == [(1, 8), (6, 0)]


@pytest.mark.parametrize("layers", [2, 32, 500])
def test_the_layers_of_a_stack_are_one_row(layers: int) -> None:
    trace = model(layers, residual("logits", 999, layers, layers), residual("mask", 7, layers, module="net/layers/0"))
    assert shown(trace) == [
        ("layers", "w_*", [10 * layers]),
        ("layers", "a_*", [20 * layers]),
        ("layers", "b_*", [30 * layers]),
        ("layers", "mask", [7]),
        ("", "logits", [999]),
    ]
    parameters = rows_of([Picture(trace)])[0].sides[0]
    assert parameters
    assert parameters.arrays == layers
    assert max(level.nbytes for level in parameters.levels) == 10 * layers


def test_all_rows_together_have_all_bytes() -> None:
    found = [residual(f"r{'abcdefgh'[i % 8]}{'abcdefgh'[i // 8]}", i + 1, i, 100 - i) for i in range(50)]
    many, few = Trace(steps(50, 51), tuple(found)), Trace(steps(50, 51), tuple(found[10:14]))
    for most in (3, 24, 49, 50):
        rows = rows_of([Picture(many), Picture(few)], most)
        assert len(rows) == most
        for i, trace in enumerate((many, few)):
            sides = [row.sides[i] for row in rows if row.sides[i]]
            assert sum(side.nbytes for side in sides if side) == trace.saved_bytes
            assert sum(side.arrays for side in sides if side) == len(trace.residuals)


def test_two_columns_share_their_rows() -> None:
    plain, lean = model(3, residual("exp", 5, 3, 3)), model(3, residual("key", 1, 3, 3))
    assert shown(plain, lean)[-2:] == [("", "exp", [5, None]), ("", "key", [None, 1])]
    assert shown(plain, lean)[0] == ("layers", "w_*", [30, 30])


def test_names_tell_the_rows_of_a_module_apart() -> None:
    values = (("float32", 1), ("bfloat16", 1), ("bfloat16", 2))
    found = [
        replace(residual(f"{i}", 8, i, 9, line=f"a.py:{line}"), name="softmax", value=Value(i, (2,), dtype, 4))
        for i, (dtype, line) in enumerate(values)
    ]
    names = [name for _, name, _ in shown(Trace(steps(5, 5), tuple(found)))]
    assert names == ["softmax, float32", "softmax, bfloat16 (1)", "softmax, bfloat16 (2)"]


def test_many_parameters_are_one_row() -> None:
    found = [
        residual(f"p{'abcdefgh'[i % 8]}{'abcdefgh'[i // 8]}", 10, i, 99, kind="parameter", is_new=False)
        for i in range(30)
    ]
    trace = Trace(steps(50, 50), (*found, residual("exp", 1, 50, 50)))
    assert shown(trace) == [("", "exp", [1]), ("", "all parameters", [300])]


def test_notes_are_numbered_where_their_arrays_are() -> None:
    notes = (Note("sin is kept twice", frozenset({"sin"})), Note("exp as well", frozenset({"exp", "elsewhere"})))
    assert [row.notes for row in rows_of([Picture(SMALL, frozenset({"sin"}), notes)])] == [[], [1], [2]]


def test_what_is_below_the_axis() -> None:
    forward, backward = runs(SMALL, 4)
    assert [run.name for run in forward + backward] == [f"op{i}" for i in range(8)]
    assert runs(SMALL, 3) == (forward, backward), "many operations in no module"
    forward, backward = runs(model(3), 2)
    assert forward == [("layers/0", 0, 1), ("layers/1", 1, 2), ("layers/2", 2, 3)]
    assert [run.name for run in backward] == ["layers/2", "layers/1", "layers/0"]


def test_code_without_modules_has_lines_below_the_axis() -> None:
    lines = [1, 1, 2, 3, 3, 2, 1, 1]
    phases = ["forward"] * 4 + ["backward"] * 4
    flat = [Step("mul", (), (), phase, line=f"src/a.py:{n}") for phase, n in zip(phases, lines, strict=True)]  # type: ignore[arg-type]
    forward, backward = runs(Trace(tuple(flat), ()), 3)
    assert forward == [("a.py:1", 0, 2), ("a.py:2", 2, 3), ("a.py:3", 3, 4)]
    assert backward == [("a.py:3", 4, 5), ("a.py:2", 5, 6), ("a.py:1", 6, 8)]
    short = Column(Picture(Trace(steps(200, 200), ())), 0, 300)
    assert 2 <= len(_thinned(runs(short.trace, 12)[0], short, 0)) <= 12, "names, but not one on the other"


@pytest.mark.needs("torch")
def test_a_lane_of_an_autograd_function_begins_where_its_array_is_made() -> None:
    import torch

    class Rule(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            first = torch.sin(x)
            second = torch.exp(first)
            out = torch.tanh(torch.cos(second))
            ctx.save_for_backward(first, second[:3])
            return out

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            first, second = ctx.saved_tensors
            return g * first * second.sum()

    trace = audit(lambda x: Rule.apply(x).sum(), torch.ones(5, 4, requires_grad=True)).trace
    ops = [step.op for step in trace.steps]
    begins = {a.op: ops[a.begin - 1] for a in lanes(trace)}
    assert begins == {"sin": "sin", "exp": "exp"}


def test_forward_and_backward_are_half_a_column_each() -> None:
    column = Column(Picture(Trace(steps(2, 4), ())), 0, 100)
    assert [column.across(place) for place in range(7)] == [0, 25, 50, 62.5, 75, 87.5, 100]


def test_drawing(tmp_path: Path) -> None:
    settings = dict(matplotlib.rcParams)
    traces = {r"$\no maths$ & in a name": SMALL, "grouped": model(20), "nothing": Trace((), ())}
    pictures = {name: Picture(trace) for name, trace in traces.items()}
    for name, is_dark in (("light", False), ("again", False), ("dark", True)):
        draw(pictures, tmp_path / f"{name}.svg", is_dark=is_dark)
    light, again, dark = ((tmp_path / f"{name}.svg").read_bytes() for name in ("light", "again", "dark"))
    assert light.startswith(b"<?xml")
    assert light == again != dark
    draw({"nothing": Picture(Trace((), ()))}, tmp_path / "nothing.png")
    assert (tmp_path / "nothing.png").read_bytes().startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == settings, "no setting of the whole process is changed"


LONG = "model.layers.31.self_attention.rotary_embedding.inverse_frequencies_of_a_very_long_name"


def long_names() -> Trace:
    """40 rows, in modules and with names that are longer than there is room for."""
    found = [
        residual(
            f"{LONG}_{'abcdefgh'[i % 8] * 3}{'abcdefgh'[i // 8]}", 1000 * i + 1, i, 80 - i, module=f"net/{LONG}/{LONG}"
        )
        for i in range(40)
    ]
    return Trace(steps(40, 41, {i: f"net/{LONG}{i}" for i in range(81)}), tuple(found))


@pytest.mark.parametrize("columns", [1, 2, 5])
@pytest.mark.parametrize("trace", [SMALL, model(32), long_names()], ids=["small", "model", "long names"])
def test_no_text_lies_over_a_text_or_a_bar(trace: Trace, columns: int) -> None:
    notes = tuple(Note(f"advice number {i}, of some length", frozenset({"sin", "a_3", "b_3"})) for i in range(12))
    pictures = {f"{i} {LONG}": Picture(trace, frozenset({"sin"}), notes) for i in range(columns)}
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "text.parse_math": False}):
        figure = figure_of(pictures, rows_of([*pictures.values()]), LIGHT)
        figure.canvas.draw()
        (axes,) = figure.axes
        written = [(text.get_text(), text.get_window_extent()) for text in axes.texts]
        bars = [patch.get_window_extent() for patch in axes.patches if patch.get_zorder() == BARS]
    assert len(written) > 10
    assert len(bars) > 3
    page = figure.bbox
    for i, (text, box) in enumerate(written):
        assert page.x0 <= box.x0, f"{text} begins outside of the picture"
        assert box.x1 <= page.x1, f"{text} ends outside of the picture"
        for other, its in written[:i]:
            is_badge = text.isdigit() and other.isdigit()
            assert is_badge or not overlaps(box, its), f"{text} lies over {other}"
        assert not any(overlaps(box, bar) for bar in bars), f"{text} lies over a bar"


def overlaps(a: Any, b: Any) -> bool:
    """Whether two boxes have more than a line of pixels in common."""
    wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return bool(wide > 1 and high > 1)


def test_a_picture_of_500_arrays_is_small(tmp_path: Path) -> None:
    layers = 123
    trace = model(layers, residual("logits", 999, layers, layers))
    draw({"usual": Picture(trace), "lean": Picture(trace)}, tmp_path / "lanes.svg")
    assert (tmp_path / "lanes.svg").stat().st_size < 100_000


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"expected a path that ends in \.svg or \.png, got .*lanes\.pdf"):
        draw({"small": Picture(SMALL)}, tmp_path / "lanes.pdf")
    with pytest.raises(UsageError, match="at least one trace"):
        draw({}, tmp_path / "lanes.svg")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"drawing needs matplotlib; run: pip install '\./packages/lab\[plot\]'"):
        draw({"small": Picture(SMALL)}, tmp_path / "lanes.svg")


def test_importing_loads_no_matplotlib() -> None:
    code = "import sys, residuals_lab.lanes; assert not {'matplotlib', 'numpy'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)

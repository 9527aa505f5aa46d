"""The picture of what a backward pass keeps: its data by hand-computed numbers, and that it is drawn."""

import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from residuals_lab.audit import audit
from residuals_lab.errors import UsageError
from residuals_lab.lanes import MOST_ROWS, Note, Picture, colours, draw, svg
from residuals_lab.lanes.axis import runs
from residuals_lab.lanes.figure import BARS, LIGHT, NARROW, WIDE, Column, _label, _thinned, figure_of, spoken
from residuals_lab.lanes.rows import OTHERS, rows_of
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
    rows = rows_of([Picture(Trace(steps(5, 5), tuple(found)))])
    assert [(row.name, row.lines) for row in rows] == [
        ("softmax, float32", ("a.py:1",)),
        ("softmax, bfloat16", ("a.py:1",)),
        ("softmax, bfloat16", ("a.py:2",)),
    ]
    again = [replace(r, line="", value=replace(r.value, shape=(1,) * i)) for i, r in enumerate(found)]
    names = [name for _, name, _ in shown(Trace(steps(5, 5), tuple(again)))]
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
    assert [row.notes for row in rows_of([Picture(SMALL, {"sin": "twice"}, notes)])] == [[], [1], [2]]


def blocks(kind: str, norm: tuple[str, ...], line: int, lasts: tuple[str, ...] = ("log_softmax",)) -> Trace:
    """Three blocks of a class, with a norm that keeps these and a linear that keeps one; the loss is in no module."""
    found, made = [], [("net", "embed", 1)]
    for i in range(3):
        made += [(f"net/blocks/{i}/norm", name, 1) for name in norm] + [(f"net/blocks/{i}/fc", "matmul", 3)]
    made += [("net", name, 5) for name in lasts]
    end = 2 * len(made) - 1
    for i, (module, name, size) in enumerate(made):
        at = f"a.py:{line + size}"
        found.append(residual(name, size, i + 1, end - i, number=i, storage=i, module=module, line=at))
    scopes = {place: module for i, (module, _, _) in enumerate(made) for place in (i, end - i)}
    return Trace(steps(len(made), len(made), scopes), tuple(found), classes={f"net/blocks/{i}": kind for i in range(3)})


def test_rows_are_in_the_order_of_the_program_in_each_column() -> None:
    plain, lean = blocks("Block", ("sub", "mul"), 10), blocks("Lean", ("norm", "rstd"), 40, ("logsumexp",))
    assert [name for _, name, _ in shown(plain)] == ["embed", "sub", "mul", "matmul", "log_softmax"]
    both = [(module, name) for module, name, _ in shown(plain, lean)]
    assert both[1:5] == [("norm", "sub"), ("norm", "mul"), ("norm", "norm"), ("norm", "rstd")], "a module's together"
    assert both[5:] == [("fc", "matmul"), ("", "log_softmax"), ("", "logsumexp")]
    for most in (MOST_ROWS, 5):
        rows = rows_of([Picture(plain), Picture(lean)], most)
        for column in range(2):
            begins = [s.levels[0].place for r in rows if r.name != OTHERS and (s := r.sides[column])]
            assert begins == sorted(begins)


def test_columns_share_the_rows_of_blocks_of_another_class_and_line() -> None:
    plain, lean = blocks("Block", ("sub",), 10), blocks("Lean", ("norm",), 40)
    found = {(module, name): kept for module, name, kept in shown(plain, lean)}
    assert found["fc", "matmul"] == [9, 9]
    assert found["", "log_softmax"] == [5, 5]
    assert found["norm", "sub"] == [3, None]
    storages = frozenset(r.storage for r in plain.residuals if r.name == "matmul")
    noted = rows_of([Picture(plain, notes=(Note("other", storages),)), Picture(lean)])
    assert [([side.nbytes for side in r.sides if side], r.notes) for r in noted if r.name == "matmul"] == [
        ([9, 9], [1])
    ]
    mixed = replace(plain, classes={"net/blocks/0": "Conv", "net/blocks/1": "Attend", "net/blocks/2": "Conv"})
    assert [kept for _, name, kept in shown(mixed) if name == "matmul"] == [[6], [3]], "two classes are two rows"


@pytest.mark.parametrize("most", [MOST_ROWS, 7, 4])
def test_the_rows_of_a_note_have_its_bytes(most: int) -> None:
    trace = model(6, *(residual(f"r{'abcdefgh'[i]}", i + 1, 6, 6) for i in range(8)))
    one, other = frozenset({"a_0", "a_3", "b_1", "ra"}), frozenset({"a_1", "b_2", "rb", "rh"})
    notes = (Note("one", one), Note("other", other))
    rows = rows_of([Picture(trace, notes=notes)], most)
    sizes = {r.storage: r.storage_bytes for r in trace.residuals}
    for number, note in enumerate(notes, 1):
        of_note = [side for row in rows for side in row.sides if side and number in side.notes]
        assert sum(side.nbytes for side in of_note) == sum(sizes[s] for s in note.storages)
    assert len(rows) <= most


def unet(names: tuple[str, ...]) -> Trace:
    """Blocks of one class under these names, in each of which four modules make two arrays each."""
    places = [(name, part, op) for name in names for part in ("n1", "c1", "n2", "c2") for op in ("sub", "div")]
    end = 2 * len(places) - 1
    found = [
        residual(op, 8, i + 1, end - i, storage=i, module=f"net/{name}/{part}", line="a.py:7")
        for i, (name, part, op) in enumerate(places)
    ]
    scopes = {place: f"net/{n}/{part}" for i, (n, part, _) in enumerate(places) for place in (i, end - i)}
    classes = {f"net/{name}": "Res" for name in names} | {
        f"net/{name}/{part}": "Norm" if part[0] == "n" else "Conv" for name, part, _ in places
    }
    return Trace(steps(len(places), len(places), scopes), tuple(found), classes=classes)


def test_blocks_of_one_class_are_one_row_only_where_there_are_too_many() -> None:
    few = {module for module, _, _ in shown(unet(("down", "up")))}
    assert few == {f"{name}/{part}" for name in ("down", "up") for part in ("n1", "c1", "n2", "c2")}
    trace = unet(("a", "b", "c", "d", "e"))
    assert shown(trace) == [(part, op, [40]) for part in ("n1", "c1", "n2", "c2") for op in ("sub", "div")]
    assert {module for module, _, _ in shown(trace, most=4)} == {"Norm", "Conv"}
    one = replace(unet(("down", "up")), residuals=unet(("down", "up")).residuals[:2])
    assert {module for module, _, _ in shown(one)} == {"down/n1"}, "also told from modules that have no row"


def test_what_is_below_the_axis() -> None:
    forward, backward = runs(SMALL)
    assert [run.name for run in forward + backward] == [f"op{i}" for i in range(8)]
    assert runs(Trace(steps(13, 4), ()))[0][-1] == ("op12", 12, 13), "many operations in no module, on a single line"
    forward, backward = runs(model(13))
    assert forward[:2] == [("layers/0", 0, 1), ("layers/1", 1, 2)]
    assert [run.name for run in backward] == [f"layers/{i}" for i in reversed(range(13))]
    scopes = {i: "f/g/own" if i < 20 else "f" if i < 24 else "f/g" for i in range(40)}
    assert runs(Trace(steps(40, 0, scopes), ()))[0] == [("g/own", 0, 20), ("f", 20, 24), ("g", 24, 40)]
    few = dict.fromkeys(range(30), "f/h") | {5: "einsum"} | dict.fromkeys(range(30, 100), "f/g")
    assert [run.name for run in runs(Trace(steps(100, 0, few), ()))[0]] == ["h", "g"], (
        "one scope outside is passed over"
    )


@pytest.mark.parametrize("layers", [13, 32, 500])
def test_the_first_and_the_last_layer_are_below_the_axis(layers: int) -> None:
    column = Column(Picture(model(layers)), 0, 300)
    forward, backward = runs(column.trace)
    for half, left in ((forward, 0), (backward, 150)):
        found = _thinned(half, column, left)
        assert {"layers 0", str(layers - 1)} <= {_label(run, column, forward) for run in found.values()}
        assert list(found) == sorted(found)
        between = {abs(int(a.own) - int(b.own)) for a, b in pairwise([*found.values()][1:-1])}
        assert len(between) <= 1, "every second, or every fifth, or every tenth ..."


def test_code_without_modules_has_lines_below_the_axis() -> None:
    lines = [1] * 7 + [2] * 4 + [3] * 2
    places = [*(("forward", n) for n in lines), *(("backward", n) for n in reversed(lines))]
    flat = [Step("mul", (), (), phase, line=f"src/a.py:{n}") for phase, n in places]  # type: ignore[arg-type]
    forward, backward = runs(Trace(tuple(flat), ()))
    assert forward == [("a.py:1", 0, 7), ("a.py:2", 7, 11), ("a.py:3", 11, 13)]
    assert backward == [("a.py:3", 13, 15), ("a.py:2", 15, 19), ("a.py:1", 19, 26)]


def test_a_row_says_its_lines_its_waste_and_its_advice() -> None:
    wasted = {"sub": "duplicate: the same values as x"}
    trace = Trace(steps(4, 4), (residual("sub", 16, 1, 6, line="a.py:19"), residual("mul", 8, 2, 6, line="a.py:20")))
    picture = Picture(trace, wasted, (Note("f would keep none of these", frozenset({"mul"})),))
    (_, sub), (_, mul) = spoken({"": picture}, rows_of([picture]))
    assert sub == "sub uint8[16]. 16 B in 1 array at a.py:19; all wasted, duplicate: the same values as x"
    assert mul == "mul uint8[8]. 8 B in 1 array at a.py:20; advice 1: f would keep none of these"
    assert re.findall("<title>(sub.*?)</title>", svg({"": picture})) == [sub]
    assert {":19", ":20", "saved array :line of a.py"} <= {*re.findall(">([^<>]+)</text>", svg({"": picture}))}


def test_a_picture_of_a_page_has_the_colours_of_the_page() -> None:
    drawn = svg({"": Picture(SMALL)})
    names = {*re.findall(r"var\(--([a-z-]+)\)", drawn)}
    assert {"paper", "ink", "band", "new-new", "alive-input"} <= names
    assert not re.findall("#[0-9a-f]{6}", drawn)
    for is_dark in (False, True):
        assert names <= {*re.findall(r"--([a-z-]+): #", colours(is_dark=is_dark))}


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


@pytest.mark.parametrize("columns", [1, 2, 5, "narrow"])
@pytest.mark.parametrize("trace", [SMALL, model(32), long_names()], ids=["small", "model", "long names"])
def test_no_text_lies_over_a_text_or_a_bar(trace: Trace, columns: int | str) -> None:
    notes = tuple(Note(f"advice number {i}, of some length", frozenset({"sin", "a_3", "b_3"})) for i in range(12))
    sizes = NARROW if columns == "narrow" else WIDE
    pictures = {
        f"{i} {LONG}": Picture(trace, {"sin": "twice"}, notes)
        for i in range(1 if isinstance(columns, str) else columns)
    }
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "text.parse_math": False}):
        figure = figure_of(pictures, rows_of([*pictures.values()]), LIGHT, sizes)
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


def uneven(layers: int, rows: int) -> Picture:
    """Layers that keep arrays of other sizes each, every second of them wasted: no step of a row is like another."""
    places = [(i, j) for i in range(layers) for j in range(rows)]
    end = 2 * len(places) - 1
    found = [
        residual(
            f"r{'abcdefghijklmnopqrstuvwx'[j]}", 7919 * n * n % 1000 + 1, n + 1, end - n, storage=n, module=f"f/b/{i}"
        )
        for n, (i, j) in enumerate(places)
    ]
    scopes = {place: f"f/b/{i}" for n, (i, _) in enumerate(places) for place in (n, end - n)}
    return Picture(
        Trace(steps(len(places), len(places), scopes), tuple(found)), {n: "" for n in range(end) if n * n % 7 < 3}
    )


@pytest.mark.parametrize(("layers", "rows"), [(500, 3), (100, 24)])
def test_a_picture_is_below_100_000_bytes(layers: int, rows: int, tmp_path: Path) -> None:
    picture = uneven(layers, rows)
    draw({"usual": picture, "lean": picture}, tmp_path / "lanes.svg")
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

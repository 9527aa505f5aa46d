"""The picture of what a backward pass keeps: its data by hand-computed numbers, and that it is drawn."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from residuals_lab.audit import audit
from residuals_lab.errors import UsageError
from residuals_lab.lanes import draw
from residuals_lab.lanes.figure import LIGHT, Column, _thinned
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
            residual(f"w{i}", 10, i, end - i, kind="parameter", is_new=False, op=""),
            residual(f"a{i}", 20, i + 1, end - i, module=scope),
            residual(f"b{i}", 30, i + 1, end - i, module=scope),
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
    assert {a.module for a in lanes(model(3)) if a.name in ("w2", "a2")} == {"net/layers/2"}


def test_who_reads_a_residual() -> None:
    several = residual("several", 4, 1, 4, 5, 6, 7)
    trace = Trace((*steps(4, 2), *steps(0, 2)), (several, residual("unread", 4, 1)))
    assert [trace.readers(r) for r in trace.residuals] == [["op4", "op5", "op0", "op1"], []]
    again = replace(several, reads=(5, 4, 5))
    assert trace.readers(again) == ["op5", "op4"], "each once, in the order in which they read"


def test_few_lanes_are_named() -> None:
    assert [row.label for row in rows_of(SMALL)] == ["x 16 B", "sin 8 B", "exp 2 B, never needed"]
    assert {"w1 10 B", "layers/1: a1 20 B"} <= {row.label for row in rows_of(model(2))}


@pytest.mark.parametrize("layers", [14, 32, 80, 500])
def test_many_lanes_are_grouped(layers: int) -> None:
    logits, mask = residual("logits", 999, layers, layers), residual("mask", 7, layers, module="net/layers/0")
    trace = model(layers, logits, mask)
    found = rows_of(trace)
    assert len(found) <= 40
    assert sum(row.nbytes for row in found) == trace.saved_bytes
    assert sum(part.nbytes for row in found for part in row.parts if part.is_new) == trace.new_bytes
    assert sum(part.nbytes for row in found for part in row.parts if part.is_unused) == 7
    assert "logits 999 B" in {row.label for row in found}, "what is largest has a line of its own"


def test_a_group_says_what_it_holds() -> None:
    found = {row.label: row for row in rows_of(model(32))}
    row = found["layers/3: b3 and 2 more, 60 B"]
    assert [(p.kind, p.nbytes, p.begin, p.end) for p in row.parts] == [("new", 50, 4, 61), ("parameter", 10, 3, 61)]
    assert "layers/3: 2 more, 30 B" in {row.label for row in rows_of(model(14))}, "others of it have their own line"
    assert "layers/3 to 5: b3 and 8 more, 180 B" in {row.label for row in rows_of(model(80))}


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
    short = Column(Trace(steps(200, 200), ()), LIGHT, 300)
    assert 2 <= len(_thinned(runs(short.trace, 12)[0], short, 0)) <= 12, "names, but not one on the other"


def test_flat_code_is_grouped_by_line_and_name() -> None:
    def labels(n: int, line: Callable[[int], str], name: Callable[[int], str]) -> list[str]:
        crossing = [residual(f"{i}", 10, i, 2 * n - i, line=line(i)) for i in range(n)]
        found = rows_of(Trace(steps(n, n), tuple(replace(r, name=name(i)) for i, r in enumerate(crossing))))
        assert sum(row.nbytes for row in found) == 10 * n
        return [row.label for row in found]

    few = labels(40, lambda i: f"src/a.py:{i}", lambda i: "exp")
    assert len(few) == 40
    assert few[7] == "a.py:7: exp 10 B"
    written_out = labels(72, lambda i: f"src/a.py:{i}", lambda i: "sin" if i % 4 else "exp")
    assert len(written_out) == 36
    assert written_out[:2] == ["a.py:0 to 1: exp and 1 more, 20 B", "a.py:2 to 3: 2 × sin, 20 B"]
    by_line = labels(500, lambda i: f"src/a.py:{i // 50}", lambda i: "exp")
    assert by_line[3] == "a.py:3: 50 × exp, 500 B"
    loop = labels(500, lambda i: "a.py:7", lambda i: "exp")
    assert len(loop) == 36
    assert loop[1] == "a.py:7/exp 15 to 28: 14 × exp, 140 B"
    body = labels(500, lambda i: "a.py:7", lambda i: "exp" if i % 2 else "sin")
    assert body[0] == "a.py:7/sin 1 to exp 7: sin and 13 more, 140 B"
    assert not any("elsewhere" in label for found in (few, written_out, by_line, loop, body) for label in found)


def test_a_large_module_is_taken_apart_and_small_ones_are_not() -> None:
    small = [residual(f"s{i}", 10, i, 100 - i, module=f"net/layers/{i // 5}", line="a.py:1") for i in range(20)]
    large = [residual(f"t{i}", 10, i, 100 - i, module="net/head", line=f"a.py:{i}") for i in range(30)]
    found = [row.label for row in rows_of(Trace(steps(50, 51, {0: "net/layers/0", 1: "net/head"}), (*small, *large)))]
    assert "layers/2: s10 and 4 more, 50 B" in found
    assert "head: t7 10 B" in found


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
    column = Column(Trace(steps(2, 4), ()), LIGHT, 100)
    assert [column.across(place) for place in range(7)] == [0, 25, 50, 62.5, 75, 87.5, 100]


def test_drawing(tmp_path: Path) -> None:
    settings = dict(matplotlib.rcParams)
    traces = {r"$\no maths$ & in a name": SMALL, "grouped": model(20), "nothing": Trace((), ())}
    for name, is_dark in (("light", False), ("again", False), ("dark", True)):
        draw(traces, tmp_path / f"{name}.svg", is_dark=is_dark)
    light, again, dark = ((tmp_path / f"{name}.svg").read_bytes() for name in ("light", "again", "dark"))
    assert light.startswith(b"<?xml")
    assert light == again != dark
    draw({"nothing": Trace((), ())}, tmp_path / "nothing.png")
    assert (tmp_path / "nothing.png").read_bytes().startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == settings, "no setting of the whole process is changed"


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"expected a path that ends in \.svg or \.png, got .*lanes\.pdf"):
        draw({"small": SMALL}, tmp_path / "lanes.pdf")
    with pytest.raises(UsageError, match="at least one trace"):
        draw({}, tmp_path / "lanes.svg")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"drawing needs matplotlib; run: pip install '\./packages/lab\[plot\]'"):
        draw({"small": SMALL}, tmp_path / "lanes.svg")


def test_importing_loads_no_matplotlib() -> None:
    code = "import sys, residuals_lab.lanes; assert not {'matplotlib', 'numpy'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)

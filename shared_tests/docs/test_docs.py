"""The README and the lessons: every block of code runs, and every output, source listing and figure is real."""

import json
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from markdown import DOCS, MENTIONS, ROOT, Block, Mismatch, blocks, compare_source, is_measured, run, script
from residuals_lab import frameworks
from residuals_lab.ops.tolerance import FLOAT64_LIMIT, error
from residuals_numpy.ops import x_sin_x

FILES = [path for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md"))) if path.exists()]
BLOCKS = [block for path in FILES for block in blocks(path)]
FIGURES = sorted(DOCS.glob("figures/*.svg"))
LISTINGS = [block for block in BLOCKS if block.source]


def sessions() -> dict[str, list[Block]]:
    """The blocks that can run here, by file and by the frameworks that they need."""
    found = defaultdict(list)
    for block in BLOCKS:
        if block.language and not block.source and set(block.frameworks) <= set(frameworks.installed()):
            found["-".join([block.path.stem, *block.frameworks])].append(block)
    return dict(found)


@pytest.mark.parametrize("session", [pytest.param(blocks, id=name) for name, blocks in sessions().items()])
def test_blocks_do_what_they_show(session: list[Block], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")  # JAX 0.10.0 logs an error for each program that it finds compiled
    run(session)


@pytest.mark.parametrize("block", [pytest.param(block, id=block.place) for block in LISTINGS])
def test_listings_are_the_source(block: Block) -> None:
    compare_source(block)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_blocks_name_their_frameworks(path: Path) -> None:
    """A block that imports a framework says so at its fence: otherwise it would run where that one is missing."""
    for block in blocks(path):
        if block.language in {"python", "pycon"} and not block.source:
            mentioned = {name for pair in MENTIONS.findall(block.text) for name in pair if name}
            assert mentioned <= set(block.frameworks), block.place
        assert set(block.frameworks) <= set(frameworks.NAMES), block.place


@pytest.mark.parametrize("path", [*FILES, *sorted(DOCS.glob("ops/*.md"))], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
        assert "://" in target or (path.parent / target).exists(), target


@pytest.fixture(params=("four_residual_sets", "what_to_save", "from_weights_to_logsumexp"))
def drawing(request: pytest.FixtureRequest) -> ModuleType:
    """A script that draws a figure, of which there is one for each lesson."""
    return script(request.param)


@pytest.fixture
def four() -> ModuleType:
    return script("four_residual_sets")


def carried(drawing: ModuleType) -> dict[str, Any]:
    """The numbers that the committed figure was drawn from, by framework."""
    description = ET.parse(drawing.FIGURES["light"]).find(".//{http://purl.org/dc/elements/1.1/}description")
    assert description is not None
    return {
        name: {row: drawing.Measured(**numbers) for row, numbers in rows.items()}
        for name, rows in json.loads(description.text or "").items()
    }


@pytest.mark.parametrize("name", frameworks.installed())
def test_figure_carries_what_is_measured(drawing: ModuleType, name: str) -> None:
    shown, measured = carried(drawing)[name], drawing.measure_all(name)
    if not is_measured(name):
        for of_the_framework in ("plain autodiff", "framework's own"):
            shown.pop(of_the_framework, None)
            measured.pop(of_the_framework, None)
    assert shown == measured
    assert shown


def assert_same_figure(committed: Path, again: Path) -> None:
    """The same drawing; of another Matplotlib, which may draw other glyphs and digits, the same words."""
    texts = [path.read_text(encoding="utf-8") for path in (committed, again)]
    if len({drawn_by(text) for text in texts}) == 1:
        assert_same_drawing(*texts)
    else:
        found, expected = (re.findall("<!-- (.+?) -->|>([^<>]+)</text>", text) for text in texts)
        assert found == expected
        assert found


def assert_same_drawing(again: str, committed: str) -> None:
    """Equal but for the last digit of a number, which another NumPy rounds in its own way, names that are hashed from
    it, and the places of letters in another copy of the same font.
    """
    texts, numbers = [], []
    for svg in (again, committed):
        ids: dict[str, str] = {}
        svg = re.sub(
            r"\b[a-z][0-9a-f]{10}\b|\bDejaVuSans-[0-9a-f]+",
            lambda found, ids=ids: ids.setdefault(found[0], f"id-{len(ids)}"),
            svg,
        )
        texts.append(re.sub(r"\d+\.\d+", "#", svg))
        numbers.append([float(number) for number in re.findall(r"\d+\.\d+", svg)])
    assert texts[0] == texts[1]
    decimals = [len(number.rpartition(".")[2]) for number in re.findall(r"\d+\.\d+", again)]
    lasts = [10.0**-n if n > 1 else 0 for n in decimals]
    assert (np.abs(np.subtract(*numbers)) <= 1.01 * np.array(lasts)).all()


def test_another_drawing_is_noticed() -> None:
    svg = '<path d="M 1.234567 2.5" clip-path="url(#p0123456789)"/>'
    assert_same_drawing(svg.replace("567", "568").replace("#p0", "#p1"), svg)
    for old, new in (("1.234567", "1.234577"), ("2.5", "2.6"), ("M", "L"), (' clip-path="url(#p0123456789)"', "")):
        with pytest.raises(AssertionError):
            assert_same_drawing(svg.replace(old, new), svg)


def drawn_by(svg: str) -> str:
    """The release of Matplotlib that drew a picture."""
    return re.findall(r"Matplotlib v([\d.]+),", svg)[0]


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.name)
def test_the_matplotlib_of_the_figures_is_pinned(path: Path) -> None:
    """So that `nox` compares every line of them."""
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"matplotlib=={drawn_by(path.read_text(encoding='utf-8'))}" in pins


def test_figure_is_drawn_from_its_numbers(drawing: ModuleType, tmp_path: Path) -> None:
    for look, path in drawing.FIGURES.items():
        drawing.draw(carried(drawing), tmp_path / path.name, look)
        assert_same_figure(path, tmp_path / path.name)


@pytest.mark.needs("torch")  # the figure is of the decoder in PyTorch
def test_lanes_are_drawn_from_an_audit(tmp_path: Path) -> None:
    lanes = script("out_of_memory")
    lanes.draw(tmp_path)
    for path in lanes.FIGURES.values():
        assert_same_figure(path, tmp_path / path.name)


@pytest.mark.parametrize("name", frameworks.installed())
def test_four_sets_have_the_right_gradient(four: ModuleType, name: str) -> None:
    adapter = frameworks.load(name)
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal(7), rng.standard_normal()
    with adapter.precision("float64"):
        for kept in four.SETS.values():
            y, (dx,) = adapter.value_and_vjp(four.IN[name](kept), [adapter.array(x)], adapter.array(g))
            assert error(adapter.to_numpy(y), x_sin_x.forward(x)) <= FLOAT64_LIMIT
            assert error(adapter.to_numpy(dx), x_sin_x.vjp(x, g)[0]) <= FLOAT64_LIMIT


@pytest.mark.parametrize("name", frameworks.installed())
def test_second_derivatives_of_the_four_sets(four: ModuleType, name: str) -> None:
    """JAX has all four; in PyTorch those with a computed residual raise, rather than give a wrong one."""
    adapter = frameworks.load(name)
    x, one = np.random.default_rng(0).standard_normal(7), np.ones(7)
    truth = 2 * np.cos(x) - x * np.sin(x)
    with adapter.precision("float64"):
        for kept in four.SETS.values():
            args = four.IN[name](kept), [adapter.array(x)], adapter.array(np.ones(())), [adapter.array(one)]
            if name == "torch" and kept is not four.OnlyX:
                with pytest.raises(NotImplementedError):
                    adapter.second_vjp(*args)
            else:
                assert error(adapter.to_numpy(adapter.second_vjp(*args)[0]), truth) <= FLOAT64_LIMIT


WRONG = {
    "output of python": "```python\nprint(1)\n```\n\n```text\n2\n```",
    "error of another order": "```python\nprint('1e-03')\n```\n\n```text\n1e-16\n```",
    "error that should be 0": "```python\nprint(0.1)\n```\n\n```text\n0\n```",
    "output not shown": "```python\nprint(1)\n```",
    "output that never comes": "```python\nx = 1\n```\n\n```text\n1\n```",
    "output of pycon": "```pycon\n>>> 1 + 1\n3\n```",
    "error that never comes": "```pycon\n>>> int('1')\nTraceback (most recent call last):\nValueError: no\n```",
    "second of two blocks": "```python\nx = 1\n```\n\n```pycon\n>>> x\n2\n```",
    "text after nothing": "```text\n1\n```",
    "no pycon": "```pycon\n1 + 1\n```",
    "language without a rule": "```pyhton\nx = 1\n```",
    "open fence": "```python\nx = 1",
    "output of the command": "```console\n$ residuals --help\nno such output\n```",
    "exit code": "```console\n$ residuals no-such-command\n...\n```",
    "unknown command": "```console\n$ residals compare\n```",
    "output of a command that is not run": "```console\n$ pip list\njax\n```",
    "listing": "<!-- source: docs/four_residual_sets.py: IN -->\n```python\nIN = {}\n```",
    "listing of nothing": "<!-- source: docs/four_residual_sets.py: OUT -->\n```python\nOUT = {}\n```",
}


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in WRONG.items()])
def test_what_is_wrong_is_noticed(text: str) -> None:
    with pytest.raises(Mismatch):
        _check(text)


RIGHT = """
```python
x = 1.25e-16
print("JAX 0.10.2", x, 0)
```

```text
JAX 9.9  7e-17
2e-16
```

    ```python
    x = 2  # code in an indented fence
    ```

```pycon
>>> x + 1
3
>>> [x] * 3
[2, ..., 2]
```

```console
$ pip install nothing
```

<!-- source: docs/four_residual_sets.py:
IN -->
```python
IN = {"jax": in_jax, "torch": in_torch}
```

```
any picture
```
"""


def test_what_is_right_passes() -> None:
    _check(RIGHT)


def _check(text: str) -> None:
    found = blocks(Path("made_up.md"), text)
    run(found)
    for block in found:
        if block.source:
            compare_source(block)

"""The pages of the ops: what is committed is what the sources say and what is measured in both frameworks."""

import importlib.util
from types import ModuleType

import pytest

from markdown import ROOT


@pytest.fixture(scope="module")
def op_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("op_pages", ROOT / "docs" / "op_pages.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_what_the_sources_and_measurements_give(
    op_pages: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    code = op_pages.main(["--check"])
    assert (code, capsys.readouterr().out) == (0, ""), "run: python docs/op_pages.py"


def test_a_page_that_is_not_is_noticed(op_pages: ModuleType) -> None:
    """One that has another figure or code, that is missing, or that nobody asked for; another version is none."""
    found = {path.name: path.read_text(encoding="utf-8") for path in op_pages.PAGES.glob("*.md")}
    assert op_pages.stale(found) == []
    silu = found["silu.md"]
    (line,) = (line for line in silu.splitlines() if line.startswith("Measured on "))
    for old, new, noticed in (
        (line, "Measured on JAX 9.9.9 and PyTorch 9.9.9, on a CPU.", []),
        (" 1.00 |", " 2.00 |", ["silu.md"]),
        ("    s = ", "        s = ", ["silu.md"]),
    ):
        assert old in silu
        assert op_pages.stale({**found, "silu.md": silu.replace(old, new)}) == noticed
    assert op_pages.stale({name: text for name, text in found.items() if name != "silu.md"}) == ["silu.md"]
    assert op_pages.stale({**found, "no_op.md": ""}) == ["no_op.md"]

"""The pages of the ops: what is committed is what the sources say and what is measured in both frameworks."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from markdown import ROOT
from residuals_lab import frameworks


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


def test_what_another_release_holds_by_its_own_means_is_not_compared(
    op_pages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers of our rule are, and so are those of the framework whose release the pages name."""
    of_jax, of_torch = (frameworks.load(name).TITLE for name in ("jax", "torch"))
    page = f"""
| JAX | this rule | 1.00 |
| JAX | plain autodiff | 2.00 |
| PyTorch | this rule | 3.00 |
| PyTorch | its own, `F.silu` | 4.00 |

| [silu](silu.md) | 5.00 · 6.00 · – | 7.00 · 8.00 · 9.00 |

Measured on {of_jax} and {of_torch}, on a CPU.
"""
    monkeypatch.setattr(op_pages, "PAGES", tmp_path)
    for named, ignored in ((of_jax, ""), ("JAX 0.0.1", "2689")):
        (tmp_path / "README.md").write_text(page.replace(of_jax, named), encoding="utf-8")
        noticed = {n for n in "123456789" if op_pages.stale({"README.md": page.replace(f" {n}.00 ", " 0.50 ")})}
        assert noticed == set("123456789") - set(ignored)

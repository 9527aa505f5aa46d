"""What the audit calls an array, of which kind it is, and where it says that it was made."""

from pathlib import Path
from typing import Any

import pytest

from audited import array
from residuals_lab import frameworks
from residuals_lab.audit import audit, frozen, parameter

INSTALLED = frameworks.installed()
BOTH = pytest.mark.parametrize("framework", INSTALLED)


@BOTH
def test_kinds_and_places(framework: str, tmp_path: Path) -> None:
    def fn(params: dict[str, Any], x: Any, *, scale: float, others: list[Any]) -> Any:
        h = x @ params["w"]
        return (h * h * scale).sum() + (others[0] * x).sum()

    x, w, v = (array(framework, *shape) for shape in ((4, 8), (8, 8), (4, 8)))
    report = audit(fn, parameter({"w": w}), x, scale=2.0, others=[frozen(v).tree])
    kinds = {r.name: r.kind for r in report.residuals if r.value.shape}
    assert kinds["x"] == "input"
    assert kinds["params['w']"] == "parameter"
    assert kinds["others[0]"] == "input"
    made = [r for r in report.residuals if r.is_new and r.value.shape]
    assert made
    assert all("test_names.py:" in r.line for r in made)
    assert report.peak_bytes == report.saved_bytes
    constants = [r.name for r in report.residuals if not r.value.shape]  # which JAX keeps as arrays
    assert constants == {"jax": ["constant"], "torch": []}[framework]
    assert report.new_bytes == sum(r.nbytes for r in made) + 4 * len(constants)


@BOTH
def test_what_is_closed_over_has_the_name_of_its_variable(framework: str) -> None:
    table = array(framework, 4, 8)
    report = audit(lambda x: (x * table).sum(), array(framework, 4, 8), framework=framework)
    assert [(r.name, r.is_new) for r in report.residuals if r.kind != "input"] == [("table", False)]


@BOTH
def test_what_rules_make_has_their_names(framework: str) -> None:
    """Also in a loop, and where a rule is within another; what they are given keeps its own name."""
    adapter = frameworks.load(framework)
    layer_norm, rms_norm, relu_bits = map(adapter.public, ("layer_norm", "rms_norm", "relu_bits"))
    report = audit(lambda x, w: relu_bits(rms_norm(layer_norm(x), w)), array(framework, 4, 8), array(framework, 8))
    assert {r.name for r in report.residuals if r.is_new} == {"mean", "rstd", "mask", "mul"}
    assert {r.name for r in report.residuals if not r.is_new} == {"x", "w"}

"""What the audit says is wasted: exact to the byte, sharp about faults, calm about clean code."""

from pathlib import Path
from typing import Any

import pytest

from audited import array, module, said
from cases import Case, only
from residuals_lab import frameworks
from residuals_lab.audit import audit, frozen

INSTALLED = frameworks.installed()
BOTH = pytest.mark.parametrize("framework", INSTALLED)

# Rules with a fault each, and what the audit has to say of it. `Rule` and `n` are given in both frameworks.
FAULTS = {
    "an unused array": ("n.cos(x), n.exp(x)", "g * r[0]", {("unused", "exp")}),
    "a copy of the output": ("copy(n.sin(x)),", "g * n.sqrt(1 - r[0] * r[0])", {("duplicate", "copy")}),
    "saved twice": ("n.cos(x), copy(n.cos(x))", "g * (r[0] + r[1]) / 2", {("duplicate", "copy")}),
    "a copy of what is never read": ("n.cos(x), copy(n.cos(x))", "g * r[1]", {("unused", "cos")}),
    "derivable": ("x, x > 0", "g * r[1] * n.cos(r[0])", {("derivable", "gt")}),
    "closed over": ("x,", "g * n.cos(r[0]) * SHARED", {("hidden", "closed over")}),
    "an unused input": ("n.cos(x), x", "g * r[0]", set()),  # said of x, which costs nothing
    "clean": ("n.cos(x),", "g * r[0]", set()),
}


@only(first=True, dtype="float32")
def test_our_ops_are_calm_and_exact(case: Case) -> None:
    """Nothing to say, and new bytes that are what the framework really holds beyond inputs and the output."""
    call, adapter = case.call, case.adapter
    given = [*case.args, *call.constants_in(adapter)]
    report = audit(call.ours(adapter), *given, framework=adapter.NAME)
    assert said(report) == set()
    assert report.saved_bytes == call.saved_bytes(adapter, call.ours(adapter), case.args)
    fields = {*adapter.op(call.op.name).Residuals._fields}
    assert {r.name for r in report.residuals if r.op} <= fields, "what is made has the name of its field"
    # Of few keys, q/‖q‖ and k/‖k‖, which flash attention would keep, are larger than the weights of qk_norm_attention.
    assert {a.op for a in report.advice} == ({"flash_attention"} if call.op.name == "attention" else set())
    assert {r.op for r in report.repeats} == set(call.trace(adapter, call.ours(adapter), case.args).repeats())
    concrete = audit(call.ours(adapter), *given, framework=adapter.NAME, is_concrete=True)
    assert (concrete.new_bytes, concrete.saved_bytes) == (report.new_bytes, report.saved_bytes)


@BOTH
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_named(framework: str, fault: str, tmp_path: Path) -> None:
    saved, gradient, expected = FAULTS[fault]
    report = audit(module(framework, tmp_path, saved, gradient)["fn"], array(framework, 4, 8))
    assert {(what, name.replace("clone", "copy")) for what, name in said(report)} == expected
    for finding in report.findings:
        is_alive = finding.names in (("x",), ("closed over",))
        assert finding.nbytes in ((0,) if is_alive else (32, 128))
        assert finding.line == "" or f"mine_{framework}.py:" in finding.line


@BOTH
def test_one_step_is_one_and_a_few_are_a_few(framework: str, tmp_path: Path) -> None:
    """Each of the sums is one addition after the other, but of what is kept anyway the second is two."""
    for saved, how in (("x, x + 1", "one cheap add of"), ("x, x + 1, x + 1 + x", "a few cheap steps of")):
        gradient = " * ".join(["g", *(f"n.cos(r[{i}])" for i in range(saved.count(",") + 1))])
        found = audit(module(framework, tmp_path, saved, gradient)["fn"], array(framework, 4, 8)).findings
        assert {f.what for f in found} == {"derivable"}
        assert all(f.why.startswith(how) for f in found), found


@BOTH
def test_what_wastes_most_comes_first(framework: str, tmp_path: Path) -> None:
    fn = module(framework, tmp_path, "x > 0, copy(n.sin(x))", "g * n.sqrt(1 - r[1] * r[1])")["fn"]
    found = audit(fn, array(framework, 4, 8)).findings
    assert [(f.what, f.nbytes) for f in found] == [("duplicate", 128), ("unused", 32)]


@BOTH
def test_a_residual_of_a_frozen_input(framework: str, tmp_path: Path) -> None:
    fn = module(framework, tmp_path)["frozen_weight"]
    x, w = array(framework, 4, 8), array(framework, 8, 8)
    assert said(audit(fn, x, w)) == set()
    (finding,) = audit(fn, x, frozen(w)).findings
    assert (finding.what, finding.names, finding.nbytes) == ("unused", ("sin",), 128)
    assert "nobody asked for" in finding.why


@BOTH
def test_recomputation_and_what_it_would_cost_to_save(framework: str, tmp_path: Path) -> None:
    report = audit(module(framework, tmp_path)["again"], array(framework, 4, 8))
    assert {(r.op, r.cost, r.nbytes) for r in report.repeats} >= {("sin", "transcendental", 128)}
    assert report.new_bytes == 0
    assert all(f"mine_{framework}.py:" in r.line for r in report.repeats)


@BOTH
def test_equal_masks_belong_to_the_layers_that_made_them(framework: str) -> None:
    """And that each layer makes one of its own is a waste."""
    if framework == "jax":
        import jax.numpy as n
    else:
        import torch as n

    def first(x: Any) -> Any:
        return n.where(n.tril(n.ones(8, 8) if framework == "torch" else n.ones((8, 8))) > 0, n.sin(x), 0.0)

    def second(x: Any) -> Any:
        return n.where(n.tril(n.ones(8, 8) if framework == "torch" else n.ones((8, 8))) > 0, n.sin(x), 0.0)

    report = audit(lambda x: second(first(x)), array(framework, 8, 8), framework=framework)
    masks = [r for r in report.residuals if r.value.dtype == "bool"]
    assert [r.module.rpartition("/")[2] for r in masks] == ["first", "second"]
    assert ("duplicate", 64) in [(f.what, f.nbytes) for f in report.findings]

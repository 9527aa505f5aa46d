"""The verdict of a comparison: each thing that may be wrong with an op, planted in the result of a right one."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from residuals_lab import frameworks
from residuals_lab.compare import Entry, Implementation, compare
from residuals_lab.compare.measure import Options
from residuals_lab.compare.verdict import findings
from residuals_lab.finding import Finding
from residuals_lab.ops import BY_NAME

FRAMEWORK, *_ = frameworks.installed()
OPTIONS = Options(dtypes=("float64",))


def planted(change: Callable[[Implementation], Implementation]) -> Callable[[Entry], Entry]:
    """A change of what was measured of our rule."""

    def plant(entry: Entry) -> Entry:
        side = entry.sides[FRAMEWORK]
        return replace(entry, sides={FRAMEWORK: replace(side, rule=change(side.rule))})

    return plant


def with_errors(**changed: object) -> Callable[[Entry], Entry]:
    return planted(lambda rule: replace(rule, errors=rule.errors._replace(**changed)))


def one_residual_less(rule: Implementation) -> Implementation:
    trace = replace(rule.kept.trace, residuals=rule.kept.trace.residuals[:1])
    return replace(rule, kept=rule.kept._replace(trace=trace))


def forward_again(rule: Implementation) -> Implementation:
    """The backward begins with all that the forward does."""
    trace = rule.kept.trace
    again = tuple(replace(step, phase="backward") for step in trace.steps[: trace.boundary])
    return replace(rule, kept=rule.kept._replace(trace=replace(trace, steps=(*trace.steps, *again))))


# What is planted, the rule of the finding, and what its line has to say.
FAULTS: dict[str, tuple[Callable[[Entry], Entry], str, str]] = {
    "value": (with_errors(value={"float64": 2e-9}), "value-wrong", "at most 1.0e-09, got 2.0e-09"),
    "gradient": (with_errors(gradient={"float64": 2e-9}), "gradient-wrong", "gradient error in float64"),
    "no number": (with_errors(gradient={"float64": float("nan")}), "gradient-wrong", "got nan"),
    "second order": (with_errors(second_derivative=2e-9), "second-derivative-wrong", "got 2.0e-09"),
    "no second order": (with_errors(second_derivative=None), "no-second-derivative", "differentiated twice"),
    "a residual less": (planted(one_residual_less), "residuals-differ", "expected sin_x, x, got x"),
    "repeated": (planted(forward_again), "repeats-forward", "expected nothing, got sin"),
    "exchange": (
        lambda entry: replace(entry, exchange=entry.exchange | {("numpy", FRAMEWORK): 2e-9}),
        "exchange-differs",
        "expected an error of at most 1.0e-09 in float64, got 2.0e-09",
    ),
}


@pytest.fixture
def entry() -> Entry:
    return compare([BY_NAME["x_sin_x"]], [frameworks.load(FRAMEWORK)], OPTIONS).entries[0]


def found(entry: Entry) -> list[Finding]:
    return [*findings(entry, [frameworks.load(FRAMEWORK)], OPTIONS)]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, entry: Entry) -> None:
    plant, rule, line = FAULTS[fault]
    (finding,) = found(plant(entry))
    assert finding.rule == rule
    assert line in finding.line


def test_a_right_op_has_none(entry: Entry) -> None:
    assert found(entry) == []

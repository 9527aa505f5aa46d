"""The verdict of a comparison: each thing that may be wrong with an op, planted in the numbers of a right one."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from command import run
from residuals_lab import frameworks, verdict
from residuals_lab.compare import make_call
from residuals_lab.measure import Options
from residuals_lab.ops import BY_NAME

FRAMEWORK, *_ = frameworks.installed()
OPTIONS = Options(dtypes=("float64",))

# What is changed in the entry and in the framework's record of it, and what the verdict has to say.
FAULTS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "value": (lambda entry, record: record["value_error"].update(float64=2e-9), "value error 2.0e-09 in float64"),
    "gradient": (lambda entry, record: record["gradient_error"].update(float64=2e-9), "gradient error 2.0e-09"),
    "no number": (lambda entry, record: record["gradient_error"].update(float64=float("nan")), "gradient error nan"),
    "second order": (lambda entry, record: record.update(second_derivative_error=2e-9), "second derivative error 2"),
    "no second order": (lambda entry, record: record.update(second_derivative_error=None), "differentiated twice"),
    "a residual less": (lambda entry, record: record["residuals"].pop(), "holds x; `Residuals` says sin_x, x"),
    "computed again": (lambda entry, record: record.update(recomputed=["sin"]), "computes again ['sin']; declared no"),
    "exchange": (
        lambda entry, record: entry["exchange"].update({f"numpy->{FRAMEWORK}": 2e-9}),
        f"exchange numpy->{FRAMEWORK}: gradient error 2.0e-09, allowed 1.0e-09",
    ),
}


@pytest.fixture
def entry(capsys: pytest.CaptureFixture[str]) -> Any:
    command = ("x_sin_x", "--framework", FRAMEWORK, "--dtype", "f64", "--json")
    return json.loads(run(capsys, *command)[1])["ops"][0]


def failures(entry: Any) -> list[str]:
    return verdict.failures(entry, make_call(BY_NAME["x_sin_x"], OPTIONS), [frameworks.load(FRAMEWORK)], OPTIONS)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_a_failure(fault: str, entry: Any) -> None:
    plant, message = FAULTS[fault]
    plant(entry, entry["frameworks"][FRAMEWORK])
    (failure,) = failures(entry)
    assert message in failure


def test_a_right_op_has_none(entry: Any) -> None:
    assert failures(entry) == []

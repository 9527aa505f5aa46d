"""What every op keeps, in every framework: values, gradients, residuals, second order, purity, clear errors."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from cases import Case, only

from residuals_lab.call import Call
from residuals_lab.tolerance import error, limit

float64 = only(dtype="float64")


def assert_close(case: Case, found: np.ndarray, truth: np.ndarray, autodiff: np.ndarray) -> None:
    allowed = limit(case.dtype, error(autodiff, truth))
    assert error(found, truth) <= allowed, f"error {error(found, truth):.3g}, allowed {allowed:.3g}"


def test_forward_and_gradients(case: Case) -> None:
    y, gradients = case.vjp(case.call.ours(case.adapter))
    plain_y, plain_gradients = case.autodiff
    assert_close(case, y, case.call.forward(), plain_y)
    for name, truth in case.call.vjp(case.g).items():
        assert gradients[name].shape == truth.shape
        assert_close(case, gradients[name], truth, plain_gradients[name])


def test_tolerance_rejects_wrong_gradients(case: Case) -> None:
    """The tolerance of every case has to fail a gradient that is zero, and one that is 5 % too large."""
    _, autodiff = case.autodiff
    for name, truth in case.call.vjp(case.g).items():
        if np.any(truth):
            allowed = limit(case.dtype, error(autodiff[name], truth))
            assert error(0 * truth, truth) > allowed
            assert error(1.05 * truth, truth) > allowed


def test_backward_formula_alone(case: Case) -> None:
    """The engines sum and cast gradients without a word, so the formula itself is asked for shape and dtype."""
    args, g = case.args, case.array(case.g)
    fields = case.call.saved(case.adapter)(*args)._asdict()
    gradients = case.call.backward(case.adapter, fields, g)
    for (name, d), arg in zip(gradients.items(), args, strict=True):
        assert (d.shape, d.dtype) == (arg.shape, arg.dtype), name

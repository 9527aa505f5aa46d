"""What batch_norm returns beside its value: the running statistics, which are results and constants, and no state."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from batch_norms import batch_norms, called, per_channel
from cases import Case
from residuals_lab.ops.tolerance import FLOAT64_LIMIT, error, rounding


def assert_statistics(case: Case, found: Sequence[Any], truths: Sequence[np.ndarray | None]) -> None:
    """Right to the rounding of float32 at least, whatever dtype x has."""
    dtype = "float64" if case.dtype == "float64" else "float32"
    for a, truth in zip(found, truths, strict=True):
        assert (a is None) == (truth is None)
        if truth is not None:
            assert case.adapter.dtype_of(a) == dtype
            assert error(case.adapter.to_numpy(a), truth) <= rounding(dtype)


@batch_norms()
def test_the_running_statistics_are_right_and_those_given_untouched(case: Case) -> None:
    constants = case.call.constants_in(case.adapter)
    before = [case.adapter.to_numpy(a).copy() for a in constants]
    _, *statistics = called(case, [*case.args, *constants])
    assert_statistics(case, statistics, case.call.results()[1:])
    for a, was in zip(constants, before, strict=True):
        np.testing.assert_array_equal(case.adapter.to_numpy(a), was)


@batch_norms(lambda case: case.first and case.dtype in ("float64", "float32"))
@pytest.mark.parametrize("momentum", [0, 0.1, 1.0])
def test_evaluation_after_training(case: Case, momentum: float) -> None:
    """The second call gets what the first returned."""
    later = replace(case.call, arrays={name: a + case.noise(a.shape, 2) for name, a in case.call.arrays.items()})
    _, *kept = replace(case.call, static={**case.call.static, "momentum": momentum}).results()
    truth = replace(
        later,
        constants=dict(zip(case.call.constants, kept, strict=True)),
        static={**case.call.static, "training": False},
    )
    _, *statistics = called(case, [*case.args, *case.call.constants_in(case.adapter)], momentum=momentum)
    y, *same = called(case, [*map(case.array, later.arrays.values()), *statistics], training=False)
    assert_statistics(case, statistics, kept)
    assert error(case.adapter.to_numpy(y), truth.forward()) <= rounding(case.dtype)
    for a, b in zip(same, statistics, strict=True):
        np.testing.assert_array_equal(case.adapter.to_numpy(a), case.adapter.to_numpy(b))
    if momentum == 0:
        assert_statistics(case, statistics, list(case.call.constants.values()))
    if momentum == 1:
        axes = (0, *range(2, case.call.arrays["x"].ndim))
        moments = [f(case.call.arrays["x"], axis=axes) for f in (np.mean, lambda x, axis: np.var(x, axis, ddof=1))]
        assert_statistics(case, statistics, moments)


@batch_norms(lambda case: case.first and case.dtype == "float32")
def test_training_may_be_a_bool_of_numpy(case: Case) -> None:
    given = [*case.args, *case.call.constants_in(case.adapter)]
    for training in (True, False):
        found, expected = (called(case, given, training=word) for word in (np.bool_(training), training))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(case.adapter.to_numpy(a), case.adapter.to_numpy(b))


@batch_norms(lambda case: case.dtype == "float64")
def test_the_running_statistics_are_constants(case: Case) -> None:
    """Neither those returned nor those given have a gradient, of first or second order, also under a checkpoint.

    The loss is a square, so that its gradient has a factor through which a value that is no constant would be seen. A
    checkpoint, which runs the forward twice, updates nothing twice: its value has the statistics of one update.
    """
    adapter, arrays = case.adapter, [*case.args, *map(case.array, case.call.constants.values())]
    g, one = case.array(case.g), case.array(np.ones(()))
    us = [case.array(case.noise(a.shape, 3)) for a in arrays]
    y, *running = case.call.results()
    constant = sum(float(a.sum()) for a in running if a is not None)
    truth = np.sum(case.g * y) + constant

    def loss(*given: Any) -> Any:
        y, *running = called(case, given)
        return sum((a.sum() for a in running if a is not None), (g * y).sum()) ** 2

    def of_constants(*given: Any) -> Any:
        fixed = [*given[: len(case.args)], *case.call.constants_in(adapter)]
        return ((g * called(case, fixed)[0]).sum() + constant) ** 2

    gradients = [2 * truth * d for d in case.call.vjp(case.g).values()]
    gradients += [0 * a for a in case.call.constants.values()]
    seconds = [adapter.to_numpy(d) for d in adapter.second_vjp(of_constants, arrays, one, us)]
    for fn in (loss, adapter.checkpointed(loss)):
        value, found = adapter.value_and_vjp(fn, arrays, one)
        assert error(adapter.to_numpy(value), truth**2) <= FLOAT64_LIMIT
        for d, expected in zip(found, gradients, strict=True):
            assert error(adapter.to_numpy(d), expected) <= FLOAT64_LIMIT
    for d, expected in zip(adapter.second_vjp(loss, arrays, one, us), seconds, strict=True):
        assert error(adapter.to_numpy(d), expected) <= FLOAT64_LIMIT


@batch_norms()
def test_never_more_bytes_than_plain_autodiff(case: Case) -> None:
    """Per-channel statistics apart."""
    call, adapter = case.call, case.adapter
    ours, plain = (call.trace(adapter, fn(adapter), case.args) for fn in (call.ours, call.plain))
    assert ours.saved_bytes <= plain.saved_bytes + per_channel(case)
    new = [sum(r.storage_bytes for r in trace.residuals if r.kind == "new") for trace in (ours, plain)]
    assert new[0] <= min(new[1], per_channel(case))


MISSING = "expected (an array|a tensor) in evaluation, got None"
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "training of a number": ({"training": 1}, TypeError, "training: expected True or False, got 1"),
    "momentum above 1": ({"momentum": 1.5}, ValueError, "momentum: expected a number from 0 to 1, got 1.5"),
    "momentum of none": (
        {"momentum": None},
        TypeError,
        "momentum: expected a number from 0 to 1, got None: for the mean of all batches pass 1 / num_batches_tracked, "
        "a number or a (tensor|tracer)",
    ),
    "eps below 0": ({"eps": -1.0}, ValueError, "eps: expected a number >= 0, got -1.0"),
    "no mean": ({"training": False, "running_mean": None}, ValueError, f"running_mean: {MISSING}"),
    "no variance": ({"training": False, "running_var": None}, ValueError, f"running_var: {MISSING}"),
    "mean of integers": (
        {"running_mean": np.zeros(2, np.int32)},
        TypeError,
        r"running_mean: expected a floating (array|tensor), got int32\[2\]",
    ),
    "variance of three": (
        {"running_var": np.ones(3, np.float32)},
        ValueError,
        r"running_var: expected shape \[2\], as the second axis of x, got \[3\]",
    ),
    "x of one axis": ({"x": np.ones(3, np.float32)}, ValueError, r"x: expected at least 2 axes, .*, got \[3\]"),
    "x of one value": (
        {"x": np.ones((1, 2, 1), np.float32)},
        ValueError,
        r"x: expected more than one value per channel in training, got shape \[1, 2, 1\]",
    ),
}


@batch_norms(lambda case: case.first and case.dtype == "float32")
@pytest.mark.parametrize("bad", BAD)
def test_bad_arguments_are_named(case: Case, bad: str) -> None:
    changed, kind, message = BAD[bad]
    made = {k: case.adapter.constant(a, case.device) if isinstance(a, np.ndarray) else a for k, a in changed.items()}
    with pytest.raises(kind, match=f"^{message}$"):
        called(case, [*case.args, *case.call.constants_in(case.adapter)], **made)

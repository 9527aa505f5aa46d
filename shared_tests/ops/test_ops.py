"""What every op keeps, in every framework: values, gradients, residuals, second order, purity, clear errors."""

import re
from dataclasses import replace
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from cases import Case, conditioning, is_input, only, where
from residuals_lab import frameworks
from residuals_lab.ops import BY_NAME, OPS
from residuals_lab.ops.call import Call, samples
from residuals_lab.ops.tolerance import FLOAT64_LIMIT, ULP, error, limit, rounding


def assert_within(allowed: float, found: np.ndarray, truth: np.ndarray) -> None:
    """The tolerance is itself tested: it has to reject a result of zero, and one that is 5 % too large."""
    assert error(found, truth) <= allowed, f"error {error(found, truth):.3g}, allowed {allowed:.3g}"
    if np.any(truth[np.isfinite(truth)]):
        assert min(error(0 * truth, truth), error(1.05 * truth, truth)) > allowed


@where(lambda case: case.dtype == "float64" or case.first or not case.novel)  # what is narrow: once, and extreme
def test_forward_and_gradients(case: Case) -> None:
    """The value, and the gradient of an argument that was broadcast, are computed in float32 or wider and rounded once.

    That is rule 4. It is not measured against plain autodiff of `fwd`, which is as careless as `fwd`; other gradients
    are, since they may start from a residual that was rounded.
    """
    y, gradients = case.vjp(case.call.ours(case.adapter))
    truth = case.call
    felt = {} if case.dtype == "float64" else conditioning(truth, case.g, ULP["float32"])
    value = truth.forward()
    assert_within(computed_wide(case.dtype, felt.get("", 0)), y, value)
    for name, true in truth.vjp(case.g).items():
        if case.dtype == "float64" or true.size < y.size:
            allowed = computed_wide(case.dtype, felt.get(name, 0))
        else:
            _, autodiff = case.autodiff
            allowed = limit(case.dtype, error(autodiff[name], true))
        assert_within(allowed, gradients[name], true)


def computed_wide(dtype: str, felt: float) -> float:
    """What is allowed to a result computed in float32 or wider: its rounding, and as much as it feels of its inputs'.

    A difference of two numbers near 1000 is not known better than those: twice for each, once rounded as an input and
    again where it was computed, as a mean is.
    """
    return rounding(dtype) + 4 * felt


@only(novel=True)
def test_backward_formula_has_the_primals_shape_and_dtype(case: Case) -> None:
    """The engines sum and cast gradients without a word, so the formula itself is asked."""
    args, g, saved = case.args, case.array(case.g), case.call.saved(case.adapter)
    gradients = case.adapter.outline(
        lambda g, *args: case.call.backward(case.adapter, saved(*args)._asdict(), g, args), g, *args
    )
    for name, arg in zip(case.call.arrays, args, strict=True):
        assert (gradients[name].shape, gradients[name].dtype) == (arg.shape, arg.dtype), name


TOO_COARSE = {("flash_attention", "out")}  # in a narrow dtype: the backward computes it again


@only(dtype=("float64", "bfloat16"), telling=True)  # one that ops take as it is, and one that they widen
def test_residuals_are_the_declared_ones(case: Case) -> None:
    """By name, shape, value and bytes: what is held is what `Residuals` says and NumPy's `residuals` computes."""
    args, saved = case.args, case.at_once(case.call.saved(case.adapter))
    trace = case.call.trace(case.adapter, case.call.ours(case.adapter), args)
    values = {name: a for name, a in saved(*args)._asdict().items() if a is not None}
    truths = case.call.residuals()
    if case.dtype == "bfloat16":
        truths = {name: truth for name, truth in truths.items() if (case.call.op.name, name) not in TOO_COARSE}
    largest = max(a.size for a in case.call.arrays.values())
    assert list(values) == list(truths)
    differentiated_first = sorted(truths, key=lambda name: name not in case.call.arrays)  # as JAX flattens a rule
    assert [r.name for r in trace.residuals] in (list(truths), differentiated_first)
    for residual in trace.residuals:
        value, truth = values[residual.name], truths[residual.name]
        kind = "input" if is_input(case.call, residual.name) else "output" if residual.name in ("y", "out") else "new"
        assert residual.kind == kind
        assert residual.value.shape == value.shape == truth.shape
        assert residual.value.dtype == case.adapter.dtype_of(value)
        assert residual.storage_bytes == value.nbytes
        is_statistic = residual.kind == "new" and 0 < truth.size < largest and case.adapter.is_floating(value)
        if is_statistic:  # one number a row is not rounded to a narrow dtype
            assert residual.value.dtype in ("float32", "float64")
        allowed = rounding("float32") if is_statistic else limit(case.dtype, ULP[case.dtype])
        assert error(case.adapter.to_numpy(value), truth) <= allowed


@only(dtype="float32", first=True)
def test_traced_bytes_are_the_bytes_really_held(case: Case) -> None:
    call, adapter = case.call, case.adapter
    plain = call.plain(adapter)
    for fn in (call.ours(adapter), plain, adapter.checkpointed(plain)):
        trace = call.trace(adapter, fn, case.args)
        assert trace.saved_bytes == call.saved_bytes(adapter, fn, case.args) > 0


@only(dtype="float64", novel=True)
def test_every_residual_earns_its_place(case: Case) -> None:
    """Rule 2, one way: another value in any field makes another gradient."""
    args, g = case.args, case.array(case.g)
    fields = {k: a for k, a in case.at_once(case.call.saved(case.adapter))(*args)._asdict().items() if a is not None}
    if not any(np.any(d) for d in case.call.vjp(case.g).values()):
        return  # without elements, or with all of them hidden, there is no gradient to change

    backward = case.at_once(lambda fields: case.call.backward(case.adapter, fields, g, args))

    def gradients(**changed: Any) -> list[np.ndarray]:
        found = backward(fields | changed)
        return [case.adapter.to_numpy(d) for d in found.values()]

    for name, a in fields.items():
        pairs = zip(gradients(), gradients(**{name: another(case, a)}), strict=True)
        assert not all(np.array_equal(before, after) for before, after in pairs), name


def another(case: Case, a: Any) -> Any:
    """An array like `a` with another value everywhere: other bits, if it holds bits; another class, if labels."""
    value = case.adapter.to_numpy(a)
    dtype = case.adapter.dtype_of(a)
    if dtype.startswith(("uint", "bool")):
        return case.adapter.constant(~value.astype(dtype), case.device)
    if dtype.startswith("int"):
        return case.adapter.constant((value == 0).astype(dtype), case.device)
    return case.array(value + 1 + np.random.default_rng(2).random(value.shape))


@only(dtype="float32")
def test_backward_repeats_what_is_declared(case: Case) -> None:
    """Rule 2, the other way: no costly operation of the forward runs again, except what `RECOMPUTES` says.

    Of an op with several forms, that is what this form's forward does.
    """
    trace = case.call.trace(case.adapter, case.call.ours(case.adapter), case.args)
    declared = set(case.adapter.op(case.call.op.name).RECOMPUTES)
    assert trace.repeats() == sorted(declared.intersection(trace.computed()))


@pytest.mark.parametrize("framework", frameworks.installed())
@pytest.mark.parametrize("op", [op.name for op in OPS])
def test_what_is_declared_is_done_by_some_form(framework: str, op: str) -> None:
    """So that no name in `RECOMPUTES` means nothing."""
    adapter, computed = frameworks.load(framework), set()
    for call in samples(op).values():
        args = [adapter.array(a, "float32") for a in call.arrays.values()]
        computed.update(call.trace(adapter, call.ours(adapter), args).computed())
    assert computed.issuperset(adapter.op(op).RECOMPUTES)


@only(dtype="float64", telling=True)
def test_second_order_is_right(case: Case) -> None:
    """Against plain autodiff of the plain maths, which has no rule to be wrong, and the analytic gradient's derivative.

    That is taken by central differences along one direction; where it is NaN, there is none.
    """
    adapter, call, g = case.adapter, case.call, case.g
    us = {name: case.noise(a.shape, 3) for name, a in call.arrays.items()}
    seconds, plain = (
        [
            adapter.to_numpy(d)
            for d in adapter.second_vjp(fn, case.args, case.array(g), list(map(case.array, us.values())))
        ]
        for fn in (call.ours(adapter), call.plain(adapter))
    )
    for found, truth in zip(seconds, plain, strict=True):
        assert error(found, truth) <= FLOAT64_LIMIT

    directions = {name: case.noise(a.shape, 4) for name, a in call.arrays.items()}
    step = 1e-6

    def along(t: float) -> float:
        moved = {name: a + t * directions[name] for name, a in call.arrays.items()}
        gradients = replace(call, arrays=moved).vjp(g)
        return sum(float(np.nansum(us[name] * d)) for name, d in gradients.items())

    terms = [directions[name] * d for name, d in zip(call.arrays, seconds, strict=False)]
    found = sum(float(np.nansum(term)) for term in terms)
    size = sum(float(np.nansum(np.abs(term))) for term in terms)  # what the sum would be without cancellation
    assert found == pytest.approx((along(step) - along(-step)) / (2 * step), rel=0, abs=1e-5 * size + 1e-12)


@only(dtype="float32", first=True)
def test_inputs_cotangents_and_residuals_are_left_as_they_were(case: Case) -> None:
    args, g = case.args, case.array(case.g)
    fields = case.call.saved(case.adapter)(*args)._asdict()
    watched = [*args, g, *(a for a in fields.values() if a is not None)]
    before = [case.adapter.to_numpy(a).copy() for a in watched]
    case.adapter.value_and_vjp(case.call.ours(case.adapter), args, g)
    case.call.backward(case.adapter, fields, g, args)
    for a, b in zip(watched, before, strict=True):
        assert np.array_equal(case.adapter.to_numpy(a), b, equal_nan=True)


@only(dtype="float32", first=True)
@pytest.mark.parametrize("bad", ["integer", "complex", "text"])
def test_a_wrong_dtype_is_named(case: Case, bad: str) -> None:
    made = {"integer": np.ones(5, np.int32), "complex": np.ones(5, np.complex64), "text": "five"}[bad]
    for i, name in enumerate(case.call.arrays):
        args = case.args
        args[i] = made if bad == "text" else case.adapter.array(made, None, case.device)
        expected = f"^{name}: expected a floating (array|tensor)( or a number)?, got "
        with pytest.raises(TypeError, match=expected) as caught:
            case.call.ours(case.adapter)(*args)
        assert {"integer": "int32[5]", "complex": "complex64[5]", "text": "str"}[bad] in str(caught.value)


@only(dtype="float32", first=True)
def test_a_shape_that_does_not_fit_is_named(case: Case) -> None:
    names, args = list(case.call.arrays), case.args
    for i, name in enumerate(names[1:], 1):
        wrong = [*args[:i], case.array(np.ones((args[i].shape or (6,))[-1] + 1)), *args[i + 1 :]]
        with pytest.raises(ValueError, match=f"^{name}: expected "):
            case.call.ours(case.adapter)(*wrong)


@pytest.mark.parametrize("framework", frameworks.installed())
@pytest.mark.parametrize("op", [op.name for op in OPS])
@hypothesis.settings(deadline=None, max_examples=8, derandomize=True, database=None)
@hypothesis.given(data=st.data())
def test_any_shape(framework: str, op: str, data: st.DataObject) -> None:
    """Shapes drawn from the op's axes: the gradient of every array is the analytic one, or all refuse alike."""
    adapter, row = frameworks.load(framework), BY_NAME[op]
    sizes = st.integers(0, 5)
    axes = {
        letter: tuple(data.draw(st.lists(sizes, max_size=3) if letter == "..." else st.tuples(sizes), label=letter))
        for letter in sorted(row.letters)
    }
    rng = np.random.default_rng(0)
    call = Call.of(row, row.draw(rng, axes, whole=True))
    with adapter.precision("float64"):
        args = [adapter.array(a, "float64") for a in call.arrays.values()]
        try:
            g = rng.standard_normal(np.shape(call.forward()))
        except ValueError as refusal:
            with pytest.raises(ValueError, match=f"^{re.escape(str(refusal))}$"):
                call.ours(adapter)(*args)
            return
        _, found = adapter.value_and_vjp(call.ours(adapter), args, adapter.array(g, "float64"))
        for d, truth in zip(found, call.vjp(g).values(), strict=True):
            if np.abs(truth).max(initial=0.0) < FLOAT64_LIMIT:  # all of it cancels: what float64 leaves is no scale
                truth = np.zeros_like(truth)
            assert error(adapter.to_numpy(d), truth) <= FLOAT64_LIMIT

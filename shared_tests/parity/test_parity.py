"""JAX against PyTorch: the same values, gradients and residuals, and residuals that each can take from the other."""

import inspect

import numpy as np
import pytest

from cases import Case, only
from residuals_lab import frameworks
from residuals_lab.compare import measure
from residuals_lab.ops import OPS
from residuals_lab.ops.tolerance import FLOAT64_LIMIT, error, limit

Pair = tuple[Case, Case]


def assert_near(pair: Pair, a: np.ndarray, b: np.ndarray, autodiff: tuple[np.ndarray, np.ndarray]) -> None:
    """Two results that may each be off by the tolerance are off by at most two of them."""
    assert error(a, b) <= 2 * limit(pair[0].dtype, error(*autodiff))


@only(dtype=("float64", "bfloat16"), telling=True)  # the others' values are held to NumPy's
def test_values_and_gradients(pair: Pair) -> None:
    (y_a, grads_a), (y_b, grads_b) = (case.vjp(case.call.ours(case.adapter)) for case in pair)
    (plain_y_a, plain_a), (plain_y_b, plain_b) = (case.autodiff for case in pair)
    assert_near(pair, y_a, y_b, (plain_y_a, plain_y_b))
    for name in grads_a:
        assert_near(pair, grads_a[name], grads_b[name], (plain_a[name], plain_b[name]))


@only(dtype="float64", telling=True)
def test_second_derivatives(pair: Pair) -> None:
    a, b = (
        case.adapter.second_vjp(
            case.call.ours(case.adapter),
            case.args,
            case.array(case.g),
            [case.array(case.noise(a.shape, 3)) for a in case.call.arrays.values()],
        )
        for case in pair
    )
    for d_a, d_b in zip(a, b, strict=True):
        assert error(pair[0].adapter.to_numpy(d_a), pair[1].adapter.to_numpy(d_b)) <= FLOAT64_LIMIT


def test_residuals_have_the_same_names_kinds_shapes_dtypes_and_bytes(pair: Pair) -> None:
    a, b = (case.call.trace(case.adapter, case.call.ours(case.adapter), case.args) for case in pair)
    facts = [[(r.name, r.kind, r.value.shape, r.value.dtype, r.storage_bytes) for r in t.residuals] for t in (a, b)]
    # JAX flattens what is differentiated first, so that labels which are probabilities come before class weights.
    assert sorted(facts[0]) == sorted(facts[1])


@only(dtype="float64", telling=True)
def test_exchange(pair: Pair) -> None:
    """Residuals from NumPy, JAX and PyTorch, each fed to JAX's and PyTorch's backward: six gradients, all NumPy's."""
    adapters = [case.adapter for case in pair]
    options = measure.Options(dtypes=("float64",), device=pair[0].device)
    errors = measure.exchange(pair[0].call, adapters, options)
    assert sorted(errors) == sorted((source, a.NAME) for source in ("numpy", "jax", "torch") for a in adapters)
    assert max(errors.values()) <= FLOAT64_LIMIT


@pytest.mark.parametrize("op", [op.name for op in OPS])
def test_the_siblings_have_the_same_parts(op: str) -> None:
    jax_op, torch_op = (frameworks.load(name).op(op) for name in ("jax", "torch"))
    assert jax_op.Residuals._fields == torch_op.Residuals._fields
    assert jax_op.RECOMPUTES == torch_op.RECOMPUTES

    def parameters(fn: object) -> list[tuple[str, object, object]]:
        return [(p.name, p.kind, p.default) for p in inspect.signature(fn).parameters.values()]

    jax_public, torch_public = (frameworks.load(name).public(op) for name in ("jax", "torch"))
    expected = parameters(jax_public)
    if op == "dropout":  # PyTorch has a global generator, which draws where no key is given; JAX has none
        expected = [("key", kind, None) if name == "key" else (name, kind, default) for name, kind, default in expected]
    assert parameters(torch_public) == expected
    assert parameters(jax_op.fwd) == parameters(torch_op.fwd)
    (jax_names, jax_cotangents), (torch_names, torch_cotangents) = (names(o.bwd) for o in (jax_op, torch_op))
    assert torch_names[: len(jax_names)] == jax_names
    assert torch_names[len(jax_names) :] in ([], ["like"])  # PyTorch's may also be told which gradients are wanted
    assert {*jax_cotangents} <= {*torch_cotangents}  # in JAX only of what the op returns
    for found in (torch_cotangents, names(getattr(torch_op, "bwd_residuals", torch_op.bwd))[1]):
        assert found == [f"g_{field}" for field in torch_op.Residuals._fields if f"g_{field}" in found]


def names(bwd: object) -> tuple[list[str], list[str]]:
    """The arguments of a `bwd` in order, and those by keyword: the cotangents of residuals that are outputs."""
    takes = inspect.signature(bwd).parameters.values()
    by_keyword = [p.name for p in takes if p.kind is p.KEYWORD_ONLY]
    return [p.name for p in takes if p.kind is not p.KEYWORD_ONLY], by_keyword


def test_a_scalar_has_a_softmax_in_pytorch_only() -> None:
    """As `torch.softmax` has one, and `jax.nn.softmax` raises."""
    jax_softmax, torch_softmax = (frameworks.load(name).public("softmax") for name in ("jax", "torch"))
    jax_array, torch_array = (frameworks.load(name).array for name in ("jax", "torch"))
    assert torch_softmax(torch_array(np.array(3.0), "float32")).item() == 1
    with pytest.raises(ValueError, match=r"^axis: expected one of the 0 axes of x, got -1$"):
        jax_softmax(jax_array(np.array(3.0), "float32"))

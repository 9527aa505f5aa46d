"""Where a function has an edge: a kink, an infinity, a NaN; beside the frameworks' own ops, and where those differ.

Finite differences say nothing at such points, so they are no samples.
"""

import importlib
import re
from typing import Any

import numpy as np
import pytest

from residuals_lab import frameworks
from residuals_lab.ops import BY_NAME
from residuals_lab.ops.call import Call

POINTS = np.array([-np.inf, -1e4, -0.0, 0.0, 1e4, np.inf, np.nan])
SLOPES = np.array([2.0, -3.0, 0.5, -0.5, 3.0, -2.0, 7.0])  # cotangents, one a point

# Where the framework's own gradient is another than ours: the op, the framework, the point, ours and theirs.
DIFFERENT = {
    ("relu", "jax", "nan"): (7.0, 0.0),
    ("relu_bits", "jax", "nan"): (7.0, 0.0),
}
CALLS = [(name, {}) for name in ("relu", "relu_bits", "sigmoid", "tanh", "silu")]
CALLS += [("gelu", {"approximate": form}) for form in ("none", "tanh")]


@pytest.mark.parametrize("framework", frameworks.installed())
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("op", "static"), CALLS, ids=lambda a: a if isinstance(a, str) else "-".join(a.values()))
def test_edges(op: str, static: dict[str, Any], dtype: str, framework: str) -> None:
    """Ours are the truth to the last NaN, and the framework's own are no better."""
    adapter = frameworks.load(framework)
    call = Call.of(BY_NAME[op], {"x": POINTS, **static})
    with adapter.precision(dtype):
        x, g = adapter.array(POINTS, dtype), adapter.array(SLOPES, dtype)
        ours, theirs = (adapter.value_and_vjp(fn, [x], g) for fn in (call.ours(adapter), call.own(adapter)))
        y, dx, their_y, their_dx = (adapter.to_numpy(a) for a in (ours[0], *ours[1], theirs[0], *theirs[1]))
    with np.errstate(invalid="ignore"):
        truth_y, (truth_dx,) = call.forward(), call.vjp(SLOPES).values()
    np.testing.assert_allclose(y, truth_y, rtol=1e-6)
    np.testing.assert_allclose(dx, truth_dx, rtol=1e-6)
    assert not np.any(np.isnan(y) & ~np.isnan(their_y))
    for point, mine, other in zip(POINTS, dx, their_dx, strict=True):
        expected = DIFFERENT.get((op, framework, str(point)), (mine, mine))
        np.testing.assert_allclose((mine, other), expected, rtol=1e-6, err_msg=f"dx at {point}")


HUGE = np.array([100.0, 1e15, 30.0, 1.0, -1.0, 0.0])
COTANGENTS = np.array([1e37, 1e10, 2e37, np.inf, np.inf, np.inf])  # a product with x would overflow


@pytest.mark.parametrize("framework", frameworks.installed())
@pytest.mark.parametrize(("op", "static"), CALLS, ids=lambda a: a if isinstance(a, str) else "-".join(a.values()))
def test_huge_cotangents(op: str, static: dict[str, Any], framework: str) -> None:
    """No overflow on the way to a gradient that float32 can hold, which JAX's own ops do not all manage.

    The derivative alone, without the cotangent, is off by one rounding of 1 at most: where a sigmoid is nearly 1, what
    is missing cancels.
    """
    adapter = frameworks.load(framework)
    call = Call.of(BY_NAME[op], {"x": HUGE, **static})
    x, g = adapter.array(HUGE, "float32"), adapter.array(COTANGENTS, "float32")
    found = adapter.to_numpy(adapter.value_and_vjp(call.ours(adapter), [x], g)[1][0])
    with np.errstate(invalid="ignore", over="ignore"):
        (truth,) = call.vjp(COTANGENTS).values()
    finite = np.isfinite(COTANGENTS)
    derivative, expected = (d[finite] / COTANGENTS[finite] for d in (found, truth))
    np.testing.assert_allclose(derivative, expected, rtol=1e-5, atol=2.0**-24)
    np.testing.assert_array_equal(found[~finite], truth[~finite])


@pytest.mark.parametrize("framework", frameworks.installed())
def test_softmax_in_another_dtype(framework: str) -> None:
    """As if x had been converted before: the output and residual are of that dtype, the gradient of x's."""
    adapter = frameworks.load(framework)
    dtypes = importlib.import_module({"jax": "jax.numpy", "torch": "torch"}[framework])
    softmax = adapter.public("softmax")
    x = adapter.array(np.linspace(-2, 3, 12).reshape(3, 4), "bfloat16")
    g = adapter.array(np.arange(12.0).reshape(3, 4), "float32")
    y, (dx,) = adapter.value_and_vjp(lambda x: softmax(x, dtype=dtypes.float32), [x], g)
    converted = adapter.array(adapter.to_numpy(x), "float32")
    expected_y, (expected_dx,) = adapter.value_and_vjp(softmax, [converted], g)
    assert (adapter.dtype_of(y), adapter.dtype_of(dx)) == ("float32", "bfloat16")
    np.testing.assert_array_equal(adapter.to_numpy(y), adapter.to_numpy(expected_y))
    rounded = adapter.to_numpy(adapter.array(adapter.to_numpy(expected_dx), "bfloat16"))
    np.testing.assert_array_equal(adapter.to_numpy(dx), rounded)
    with pytest.raises(TypeError, match=r"^dtype: expected a floating dtype, got int32$"):
        softmax(x, dtype=dtypes.int32)


@pytest.mark.parametrize("framework", frameworks.installed())
@pytest.mark.parametrize("op", ["swiglu", "geglu"])
def test_an_array_without_halves_is_named(op: str, framework: str) -> None:
    adapter = frameworks.load(framework)
    for shape in ((), (5,), (2, 3)):
        message = f"gate: expected an even last axis, since there is no up, got shape {list(shape)}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            adapter.public(op)(adapter.array(np.ones(shape), "float32"))

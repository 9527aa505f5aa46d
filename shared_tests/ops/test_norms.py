"""Which axes a norm normalizes: those that are asked for, or one line that says why not."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from residuals_lab import frameworks
from residuals_numpy.ops import layer_norm as truth

each = pytest.mark.parametrize("framework", frameworks.installed())
INT = "expected an int, got"
BAD: dict[str, tuple[str, tuple[int, ...], dict[str, Any], type[Exception], str]] = {
    "layer_norm of no axis": ("layer_norm", (), {}, ValueError, "x: expected at least 1 axis, got a scalar"),
    "layer_norm, axis 3 of 3": (
        "layer_norm",
        (2, 3, 5),
        {"axis": 3},
        ValueError,
        "axis: expected one of the 3 axes of x, got 3",
    ),
    "layer_norm, axis of None": ("layer_norm", (2, 3, 5), {"axis": None}, TypeError, f"axis: {INT} NoneType"),
    "layer_norm, weight of the wrong axis": (
        "layer_norm",
        (2, 3, 5),
        {"axis": 1, "weight": (5,)},
        ValueError,
        r"weight: expected shape \[3\], as axis 1 of x, got \[5\]",
    ),
    "layer_norm, weight of other axes": (
        "layer_norm",
        (2, 3, 5),
        {"weight": (2, 5)},
        ValueError,
        r"weight: expected shape \[3, 5\], as the last 2 axes of x, got \[2, 5\]",
    ),
    "layer_norm, bias of one axis": (
        "layer_norm",
        (2, 3, 5),
        {"weight": (3, 5), "bias": (5,)},
        ValueError,
        r"bias: expected shape \[3, 5\], as the last 2 axes of x, got \[5\]",
    ),
    "layer_norm, weight of more axes": (
        "layer_norm",
        (5,),
        {"weight": (3, 5)},
        ValueError,
        r"weight: expected shape \[5\], as the last 2 axes of x, got \[3, 5\]",
    ),
    "layer_norm, axis and weight of two": (
        "layer_norm",
        (2, 3, 5),
        {"weight": (3, 5), "axis": 1},
        ValueError,
        "axis: expected -1 beside a weight or bias of 2 axes, got 1",
    ),
    "rms_norm, axis -4 of 3": (
        "rms_norm",
        (2, 3, 5),
        {"axis": -4},
        ValueError,
        "axis: expected one of the 3 axes of x, got -4",
    ),
    "rms_norm, offset alone": (
        "rms_norm",
        (3, 5),
        {"offset": 1.0},
        ValueError,
        "offset: expected 0 without a weight, got 1.0",
    ),
    "rms_norm, offset of text": (
        "rms_norm",
        (3, 5),
        {"offset": "1"},
        TypeError,
        "offset: expected a Python number, got str",
    ),
    "group_norm, axis 0": (
        "group_norm",
        (2, 4, 3),
        {"num_groups": 2, "axis": 0},
        ValueError,
        "axis: expected one of the 3 axes of x but the first, got 0",
    ),
    "group_norm, axis -3": (
        "group_norm",
        (2, 4, 3),
        {"num_groups": 2, "axis": -3},
        ValueError,
        "axis: expected one of the 3 axes of x but the first, got -3",
    ),
    "group_norm, groups of the last": (
        "group_norm",
        (2, 4, 3),
        {"num_groups": 2, "axis": -1},
        ValueError,
        "num_groups: expected a divisor of the 3 channels of x, got 2",
    ),
    "group_norm, weight of the second": (
        "group_norm",
        (2, 4, 3),
        {"num_groups": 3, "axis": -1, "weight": (4,)},
        ValueError,
        r"weight: expected shape \[3\], as axis 2 of x, got \[4\]",
    ),
}


@each
@pytest.mark.parametrize("bad", BAD)
def test_what_does_not_fit_is_named(bad: str, framework: str) -> None:
    op, shape, given, kind, message = BAD[bad]
    adapter = frameworks.load(framework)
    x = adapter.array(np.ones(shape), "float32")
    made = {k: adapter.array(np.ones(a), "float32") if isinstance(a, tuple) else a for k, a in given.items()}
    with pytest.raises(kind, match=f"^{message}$"):
        adapter.public(op)(x, **made)


@each
def test_an_axis_of_one_is_no_other(framework: str) -> None:
    """Normalizing several axes, of which some are of length 1, and a bias of several axes alone, which is frozen."""
    adapter = frameworks.load(framework)
    rng = np.random.default_rng(0)
    for shape in ((1, 3, 1, 5), (2, 3, 5, 1), (1, 1, 1, 1)):
        x, bias, g = (rng.standard_normal(s) for s in (shape, shape[-3:], shape))
        given = [adapter.array(a, "float32") for a in (x, bias, g)]
        layer_norm = partial(adapter.public("layer_norm"), bias=given[1])
        y, (dx,) = adapter.value_and_vjp(layer_norm, [given[0]], given[2])
        np.testing.assert_allclose(adapter.to_numpy(y), truth.forward(x, None, bias), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(adapter.to_numpy(dx), truth.vjp(x, None, bias, g)[0], rtol=1e-3, atol=1e-4)

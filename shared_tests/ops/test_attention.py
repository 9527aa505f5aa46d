"""What the attention family asks beside what every op does: vectors without a direction, scores of 1e4, errors."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from residuals_lab import frameworks
from residuals_lab.ops import BY_NAME
from residuals_lab.ops.call import Call
from residuals_lab.ops.tolerance import FLOAT64_LIMIT, error

FAMILY = ("attention", "qk_norm_attention", "flash_attention")
each_op = pytest.mark.parametrize("op", FAMILY)
each_framework = pytest.mark.parametrize("framework", frameworks.installed())


def arrays(op: str, **changed: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"q": (2, 4, 3), "k": (2, 5, 3), "v": (2, 5, 2)} | changed
    made = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return made | ({"scale": np.array(2.0)} if "scale" in BY_NAME[op].arrays else {})


def gradients(adapter: ModuleType, call: Call, dtype: str) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    with adapter.precision(dtype):
        g = adapter.array(np.random.default_rng(1).standard_normal(np.shape(call.forward())), dtype)
        args = [adapter.array(a, dtype) for a in call.arrays.values()]
        y, found = adapter.value_and_vjp(call.ours(adapter), args, g)
        return adapter.to_numpy(y), [adapter.to_numpy(d) for d in found], adapter.to_numpy(g)


@each_framework
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_a_vector_of_zeros_has_no_direction_and_no_gradient(framework: str, dtype: str) -> None:
    given = arrays("qk_norm_attention")
    given["q"][0, 1] = given["k"][1, 2] = 0
    adapter = frameworks.load(framework)
    call = Call.of(BY_NAME["qk_norm_attention"], given).rounded(adapter, dtype)
    y, (dq, dk, *rest), g = gradients(adapter, call, dtype)
    assert not dq[0, 1].any()
    assert not dk[1, 2].any()
    assert all(np.isfinite(d).all() for d in (y, dq, dk, *rest))
    if dtype == "float64":
        for d, truth in zip((y, dq, dk, *rest), (call.forward(), *call.vjp(g).values()), strict=True):
            assert error(d, truth) <= FLOAT64_LIMIT


@each_framework
@each_op
def test_scores_of_ten_thousand_do_not_overflow(op: str, framework: str) -> None:
    """Of either sign, in every dtype that can hold the arrays; 1e4 is the bias, which ordinary scores are added to."""
    adapter = frameworks.load(framework)
    signs = np.random.default_rng(2).choice((-1e4, 1e4), (4, 5))
    for dtype in adapter.DTYPES:
        call = Call.of(BY_NAME[op], {**arrays(op), "bias": signs}).rounded(adapter, dtype)
        y, found, _ = gradients(adapter, call, dtype)
        assert all(np.isfinite(a).all() for a in (y, *found))
        assert error(y, call.forward()) < 0.1


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "q of two axes": ({"q": np.ones((4, 3))}, ValueError, r"q: expected at least 3 axes, .*, got shape \[4, 3\]"),
    "k of other features": ({"k": np.ones((2, 5, 4))}, ValueError, r"k: expected \[.*, got \[2, 5, 4\]"),
    "k without heads": ({"k": np.ones((5, 3))}, ValueError, r"k: expected \[.*, got \[5, 3\]"),
    "heads that do not divide": (
        {"k": np.ones((3, 5, 3)), "v": np.ones((3, 5, 2))},
        ValueError,
        "k: expected heads that divide the 2 of q, got 3",
    ),
    "v of other keys": ({"v": np.ones((2, 4, 2))}, ValueError, r"v: expected \[2, 5, 'e'\], .*, got \[2, 4, 2\]"),
    "bias that does not fit": (
        {"bias": np.ones((4, 4))},
        ValueError,
        r"bias: expected a shape that broadcasts to \[2, 4, 5\], got \[4, 4\]",
    ),
    "mask of too many axes": (
        {"mask": np.ones((1, 2, 4, 5), bool)},
        ValueError,
        r"mask: expected a shape that broadcasts to \[2, 4, 5\], got \[1, 2, 4, 5\]",
    ),
    "mask of numbers": ({"mask": np.ones((4, 5), np.int32)}, TypeError, r"mask: expected booleans, got int32\[4, 5\]"),
    "is_causal of a number": ({"is_causal": 1}, TypeError, "is_causal: expected True or False, got 1"),
}


@each_framework
@each_op
@pytest.mark.parametrize("bad", BAD)
def test_bad_arguments_are_named(op: str, framework: str, bad: str) -> None:
    adapter, (changed, kind, message) = frameworks.load(framework), BAD[bad]
    given = {
        name: adapter.array(a, "float32" if a.dtype.kind == "f" else None) if isinstance(a, np.ndarray) else a
        for name, a in {**arrays(op), **changed}.items()
    }
    q, k, v = (given.pop(name) for name in "qkv")
    with pytest.raises(kind, match=f"^{message}$"):
        adapter.public(op)(q, k, v, **given)


@each_framework
@pytest.mark.parametrize("op", ["attention", "flash_attention"])
@pytest.mark.parametrize("scale", ["2", True])
def test_a_scale_that_is_no_number_is_named(op: str, framework: str, scale: Any) -> None:
    adapter = frameworks.load(framework)
    given = [adapter.array(a, "float32") for a in arrays(op).values()]
    with pytest.raises(TypeError, match=r"^scale: expected a Python number or None, got (str|bool)$"):
        adapter.public(op)(*given, scale=scale)


@each_framework
def test_a_scale_may_be_a_python_number(framework: str) -> None:
    adapter = frameworks.load(framework)
    q, k, v, scale = (adapter.array(a, "float32") for a in arrays("qk_norm_attention").values())
    ours = adapter.public("qk_norm_attention")
    one, other = (adapter.to_numpy(ours(q, k, v, scale=s)) for s in (scale, 2.0))
    assert np.array_equal(one, other)
    with pytest.raises(TypeError, match="scale"):
        ours(q, k, v)

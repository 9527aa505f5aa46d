"""What the attention family asks beside what every op does: vectors without a direction, scores of 1e4, errors."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from residuals_lab import frameworks
from residuals_lab.ops import BY_NAME
from residuals_lab.ops.call import Call
from residuals_lab.ops.tolerance import FLOAT64_LIMIT, error, limit
from residuals_numpy.ops import flash_attention as numpy_flash

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
    "is_causal of a number": ({"is_causal": 1}, TypeError, "is_causal: expected True, False or 'lower_right', got 1"),
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


BAD_OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "softcap of words": ({"softcap": "50"}, TypeError, "softcap: expected a Python number or None, got str"),
    "softcap of nothing": ({"softcap": 0.0}, ValueError, "softcap: expected a number > 0, got 0.0"),
    "window of a part": ({"window": 2.0}, TypeError, "window: expected an int, got float"),
    "window of nothing": ({"window": 0}, ValueError, "window: expected an int from 1 to 2147483646, got 0"),
    "another alignment": (
        {"is_causal": "upper_left"},
        TypeError,
        "is_causal: expected True, False or 'lower_right', got 'upper_left'",
    ),
}


@each_framework
@pytest.mark.parametrize("op", ["attention", "flash_attention"])
@pytest.mark.parametrize("bad", BAD_OPTIONS)
def test_bad_options_are_named(op: str, framework: str, bad: str) -> None:
    adapter, (options, kind, message) = frameworks.load(framework), BAD_OPTIONS[bad]
    given = [adapter.array(a, "float32") for a in arrays(op).values()]
    with pytest.raises(kind, match=f"^{message}$"):
        adapter.public(op)(*given, **options)


BAD_DROPOUTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "dropout of more than all": ({"dropout": 1.5}, ValueError, "dropout: expected a number from 0 to 1, got 1.5"),
    "dropout of words": ({"dropout": "0.5"}, TypeError, "dropout: expected a Python number, got str"),
    "a key of one word": ({"dropout": 0.5, "key": 7}, TypeError, "key: expected two uint32.*, got int"),
}


@each_framework
@pytest.mark.parametrize("bad", BAD_DROPOUTS)
def test_a_bad_dropout_is_named(framework: str, bad: str) -> None:
    adapter, (options, kind, message) = frameworks.load(framework), BAD_DROPOUTS[bad]
    given = [adapter.array(a, "float32") for a in arrays("attention").values()]
    with pytest.raises(kind, match=f"^{message}$"):
        adapter.public("attention")(*given, **options)


@each_framework
def test_no_dropout_keeps_nothing_more_and_all_of_it_gives_zeros(framework: str) -> None:
    """A key that nobody draws with is no residual."""
    adapter = frameworks.load(framework)
    call = Call.of(BY_NAME["attention"], arrays("attention"))
    args = [adapter.array(a, "float32") for a in call.arrays.values()]
    key = adapter.constant(np.array([1, 2], np.uint32))
    attention = adapter.public("attention")
    g = adapter.array(np.ones((2, 4, 2)), "float32")
    plain, off, none = (
        adapter.value_and_vjp(lambda *qkv, options=options: attention(*qkv, **options), args, g)
        for options in ({}, {"dropout": 0.0, "key": key}, {"dropout": 1.0})
    )
    for one, other, zero in zip(*([y, *gradients] for y, gradients in (plain, off, none)), strict=True):
        np.testing.assert_array_equal(adapter.to_numpy(one), adapter.to_numpy(other))
        assert not adapter.to_numpy(zero).any()
    trace = adapter.trace(lambda *a: attention(*a[:3], dropout=0.0, key=a[3]), [*args, key], [*"qkv", "key"])
    assert [r.kind for r in trace.residuals] == ["input", "input", "input", "new"]


WINDOWS = {  # 4 queries and 6 keys: what each query attends, by hand
    (False, 2): ["110000", "111000", "011100", "001110"],
    (True, 2): ["100000", "110000", "011000", "001100"],
    ("lower_right", None): ["111000", "111100", "111110", "111111"],
    ("lower_right", 3): ["111000", "011100", "001110", "000111"],
    ("lower_right", 1): ["001000", "000100", "000010", "000001"],
}


@each_framework
@pytest.mark.parametrize("op", ["attention", "flash_attention"])
@pytest.mark.parametrize(("is_causal", "window"), WINDOWS)
def test_which_keys_a_query_attends(op: str, framework: str, is_causal: bool | str, window: int | None) -> None:
    adapter = frameworks.load(framework)
    q, k, v = arrays(op, q=(2, 4, 3), k=(2, 6, 3), v=(2, 6, 2)).values()
    expected = np.array([[c == "1" for c in row] for row in WINDOWS[is_causal, window]])
    given = [adapter.array(a, "float32") for a in (q, k, v)]
    found, truth = (
        adapter.to_numpy(adapter.public(op)(*given, **options))
        for options in ({"is_causal": is_causal, "window": window}, {"mask": adapter.constant(expected)})
    )
    np.testing.assert_allclose(found, truth, rtol=1e-6, atol=1e-6)


@each_framework
def test_a_scale_may_be_a_python_number(framework: str) -> None:
    adapter = frameworks.load(framework)
    q, k, v, scale = (adapter.array(a, "float32") for a in arrays("qk_norm_attention").values())
    ours = adapter.public("qk_norm_attention")
    one, other = (adapter.to_numpy(ours(q, k, v, scale=s)) for s in (scale, 2.0))
    assert np.array_equal(one, other)
    with pytest.raises(TypeError, match="scale"):
        ours(q, k, v)


BROADCASTS = {
    "k and v of batch 1": {"q": (5, 4, 3, 6), "k": (1, 2, 7, 6), "v": (1, 2, 7, 3)},
    "q without a batch": {"q": (4, 3, 8), "k": (5, 2, 6, 8), "v": (5, 2, 6, 8)},
    "v of more": {"q": (1, 4, 300, 8), "k": (2, 6, 8), "v": (3, 2, 6, 8)},
}


@each_framework
@each_op
@pytest.mark.parametrize("shapes", BROADCASTS)
def test_leading_axes_broadcast(op: str, framework: str, shapes: str) -> None:
    """The gradients are summed over them, as NumPy's analytic ones are."""
    call = Call.of(BY_NAME[op], {**arrays(op, **BROADCASTS[shapes]), "is_causal": True})
    y, found, g = gradients(frameworks.load(framework), call, "float64")
    for one, truth in zip((y, *found), (call.forward(), *call.vjp(g).values()), strict=True):
        assert error(one, truth) <= FLOAT64_LIMIT


@each_framework
def test_the_log_sum_exp_has_one_gradient_however_often_values_are_spread(framework: str) -> None:
    """v has a leading axis that q and k have not: the log-sum-exp has none either, and its gradient is not repeated."""
    adapter = frameworks.load(framework)
    flash = adapter.public("flash_attention")
    q, k, v = arrays("flash_attention", v=(3, 2, 5, 2)).values()
    with adapter.precision("float64"):
        args = [adapter.array(a) for a in (q, k, v)]
        g = np.random.default_rng(1).standard_normal((2, 4))
        _, found = adapter.value_and_vjp(lambda *qkv: flash(*qkv, return_logsumexp=True)[1], args, adapter.array(g))
    zero = np.zeros((3, 2, 4, 2))
    truths = numpy_flash.vjp(q, k, v, None, None, zero, g_logsumexp=g)
    for one, truth in zip(found, truths, strict=False):
        assert error(adapter.to_numpy(one), truth) <= FLOAT64_LIMIT


@each_framework
@each_op
def test_arrays_without_heads_are_of_one(op: str, framework: str) -> None:
    adapter = frameworks.load(framework)
    public = adapter.public(op)
    given = arrays(op, q=(4, 3), k=(5, 3), v=(5, 2))
    static = {"scale": 2.0} if "scale" in given else {}
    qkv = [adapter.array(given[name], "float32") for name in "qkv"]
    expected = adapter.to_numpy(public(*(a[None] for a in qkv), **static)[0])
    np.testing.assert_array_equal(adapter.to_numpy(public(*qkv, **static)), expected)
    if op == "flash_attention":
        y, logsumexp = public(*qkv, return_logsumexp=True)
        assert (y.shape, logsumexp.shape) == ((4, 2), (4,))


@each_framework
@pytest.mark.parametrize("op", ["attention", "flash_attention"])
@pytest.mark.parametrize("shape", [(), (2, 1, 1), (2, 4, 1)])
def test_a_scale_may_be_learned(op: str, framework: str, shape: tuple[int, ...]) -> None:
    """As an array it is the same as its product with q, in the gradients and their derivatives too."""
    adapter = frameworks.load(framework)
    public, rng = adapter.public(op), np.random.default_rng(3)
    given = {**arrays(op), "scale": rng.uniform(0.5, 2, shape)}
    scaled = Call.of(BY_NAME[op], {**given, "q": given["q"] * given["scale"], "scale": 1.0})

    def fn(q: Any, k: Any, v: Any, scale: Any) -> Any:
        return public(q, k, v, scale=scale)

    with adapter.precision("float64"):
        args = [adapter.array(a) for a in given.values()]
        g = rng.standard_normal(np.shape(scaled.forward()))
        y, found = adapter.value_and_vjp(fn, args, adapter.array(g))
        us = [adapter.array(rng.standard_normal(np.shape(a))) for a in given.values()]
        seconds, truths = (
            adapter.second_vjp(called, args, adapter.array(g), us)
            for called in (fn, lambda q, k, v, scale: scaled.plain(adapter)(q * scale, k, v))
        )
    dq, dk, dv = scaled.vjp(g).values()
    dscale = (dq * given["q"]).sum(tuple(i for i in range(3) if i >= len(shape) or shape[i] == 1), keepdims=True)
    expected = (scaled.forward(), dq * given["scale"], dk, dv, dscale.reshape(shape))
    for one, truth in zip((y, *found, *seconds), (*expected, *map(adapter.to_numpy, truths)), strict=True):
        assert error(adapter.to_numpy(one), truth) <= FLOAT64_LIMIT


@each_framework
@pytest.mark.parametrize("op", ["attention", "flash_attention"])
def test_a_scale_that_does_not_fit_is_named(op: str, framework: str) -> None:
    adapter = frameworks.load(framework)
    given = [adapter.array(a, "float32") for a in arrays(op).values()]
    expected = r"scale: expected a shape that broadcasts to \[2, 4, 1\], got \[3\]"
    with pytest.raises(ValueError, match=f"^{expected}$"):
        adapter.public(op)(*given, scale=adapter.array(np.ones(3), "float32"))


@each_framework
@pytest.mark.parametrize("op", ["attention", "flash_attention"])
def test_what_all_keys_have_in_common_does_not_blur_the_gradient_of_q(op: str, framework: str) -> None:
    """It cancels there, as a row of the scores' gradient adds up to 0; a rounded row does not."""
    adapter, given = frameworks.load(framework), arrays(op, q=(2, 64, 8), k=(2, 64, 8), v=(2, 64, 8))
    given["q"] = given["q"] / 8
    given["k"] = given["k"] + 30
    call = Call.of(BY_NAME[op], given).rounded(adapter, "bfloat16")
    _, (dq, *_), g = gradients(adapter, call, "bfloat16")
    _, (plain, *_) = adapter.value_and_vjp(
        call.plain(adapter), [adapter.array(a, "bfloat16") for a in call.arrays.values()], adapter.array(g, "bfloat16")
    )
    truth = call.vjp(g)["q"]
    assert error(dq, truth) <= limit("bfloat16", error(adapter.to_numpy(plain), truth))

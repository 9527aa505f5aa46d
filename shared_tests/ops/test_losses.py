"""What the losses of class labels ask for: labels that are no class, of any dtype, all ignored; and no (rows, classes)
array where that is the point.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from losses import CHUNK, CLASSES, ROWS, VOCABULARY, call_of, each_reduction, linear_call, value_and_gradients
from residuals_lab import frameworks
from residuals_lab.ops import OPS
from residuals_lab.ops.tolerance import FLOAT64_LIMIT, error, limit

LOSSES = [op.name for op in OPS if "reduction" in op.static]
each_op = pytest.mark.parametrize("op", LOSSES)
each_framework = pytest.mark.parametrize("framework", frameworks.installed())


def hiding(framework: str) -> dict[str, Callable[[Any], Any]]:
    """Transformations under which the values of labels are not there to be checked."""
    if framework == "jax":
        import jax

        return {"jit": jax.jit, "vmap": lambda fn: lambda *a: jax.vmap(fn)(*(one[None] for one in a))[0]}
    import torch

    torch._dynamo.reset()  # it counts how often it compiles one piece of code
    return {
        "compile": lambda fn: torch.compile(fn, fullgraph=True, backend="aot_eager"),
        "vmap": lambda fn: lambda *a: torch.vmap(fn)(*(one[None] for one in a))[0],
    }


@each_op
@each_framework
@pytest.mark.parametrize("label", [-1, CLASSES, -101, 2**31 - 1, -(2**31)])
def test_a_label_that_is_no_class_is_named(op: str, framework: str, label: int) -> None:
    adapter = frameworks.load(framework)
    message = rf"^labels: expected classes from 0 to {CLASSES - 1}, or -100 to ignore, got {label}$"
    with pytest.raises(ValueError, match=message):
        value_and_gradients(call_of(op, np.array([1, label, 2], np.int32)), adapter)
    if label == -1:  # what is ignored is no error, whichever it is
        value_and_gradients(call_of(op, np.array([1, label, 2], np.int32), ignore_index=-1), adapter)


@each_op
@each_framework
@each_reduction
@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_that_is_no_class_gives_nan_where_it_is_not_seen(
    op: str, framework: str, reduction: str, label: int
) -> None:
    """The loss and the gradients of its row, and no other."""
    adapter = frameworks.load(framework)
    right = call_of(op, np.array([1, 0, -100, 2], np.int32), reduction=reduction)
    wrong = replace(right, constants={"labels": np.array([1, label, -100, 2], np.int32)})
    y, (truth, *_) = right.forward(), right.vjp(np.ones(np.shape(right.forward()))).values()
    for around in hiding(framework).values():
        found, (d, *others) = value_and_gradients(wrong, adapter, around)
        expected = np.where([False, True, False, False], np.nan, y) if reduction == "none" else np.nan
        assert error(found, expected) <= FLOAT64_LIMIT
        assert error(d, np.where(np.array([False, True, False, False])[:, None], np.nan, truth)) <= FLOAT64_LIMIT
        assert all(np.isnan(other).all() for other in others)  # the weight's, to which every row adds


@each_op
@each_framework
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_labels_of_any_integer_dtype(op: str, framework: str, dtype: str) -> None:
    """Those without a sign never equal -100, as 156 would in 8 bits."""
    adapter = frameworks.load(framework)
    for ignored in (-100, 2):
        call = call_of(op, np.array([1, 0, 2, 4], dtype), ignore_index=ignored)
        y, gradients = value_and_gradients(call, adapter)
        assert error(y, call.forward()) <= FLOAT64_LIMIT
        for d, truth in zip(gradients, call.vjp(np.ones(())).values(), strict=True):
            assert error(d, truth) <= FLOAT64_LIMIT
    for label in (2**8 - 100, 2**16 - 100, 2**32 - 100, 2**64 - 100):  # -100, cut to so many bits
        if label <= np.iinfo(dtype).max:
            with pytest.raises(ValueError, match=f"^labels: .* got {label}$"):
                value_and_gradients(call_of(op, np.array([1, label], dtype)), adapter)


@each_op
@each_framework
@each_reduction
@pytest.mark.parametrize("rows", [(), (0,), (3,), (2, 0)], ids=str)
def test_all_ignored(op: str, framework: str, reduction: str, rows: tuple[int, ...]) -> None:
    """As PyTorch has it: the mean of none is NaN, its gradient 0, the sum 0. So without a single class."""
    adapter = frameworks.load(framework)
    for classes in (CLASSES, 0):
        call = call_of(op, np.full(rows, -100, np.int32), reduction=reduction)
        arrays = {n: a[..., :classes] if n == "logits" else a for n, a in call.arrays.items()}
        arrays |= {n: a[:classes] for n, a in arrays.items() if n == "weight"}
        y, gradients = value_and_gradients(replace(call, arrays=arrays), adapter)
        np.testing.assert_array_equal(y, {"mean": np.nan, "sum": 0.0, "none": np.zeros(rows)}[reduction])
        for d, a in zip(gradients, arrays.values(), strict=True):
            np.testing.assert_array_equal(d, np.zeros_like(a))


@each_framework
@each_reduction
def test_a_row_of_minus_infinity(framework: str, reduction: str) -> None:
    """It has no softmax: its loss and gradient are NaN, and 0 if it is ignored."""
    adapter = frameworks.load(framework)
    call = call_of("cross_entropy", np.array([1, 3, 2], np.int32), reduction=reduction)
    logits = np.where(np.array([False, True, False])[:, None], -np.inf, call.arrays["logits"])
    for label in (3, -100):
        changed = replace(call, arrays={"logits": logits}, constants={"labels": np.array([1, label, 2], np.int32)})
        y, (d,) = value_and_gradients(changed, adapter)
        assert np.isnan(y).any() == np.isnan(d[1]).all() == (label == 3)
        assert not np.isnan(d[[0, 2]]).any()
        assert label == 3 or not d[1].any()


@each_op
@each_framework
def test_what_is_ignored_may_be_anything(op: str, framework: str) -> None:
    """The padding of a batch, say; but PyTorch's own cross entropy passes a NaN or ∞ on, and ours is like it."""
    adapter = frameworks.load(framework)
    call = call_of(op, np.array([1, -100, 2], np.int32))
    y, right = value_and_gradients(call, adapter)
    for garbage in (np.nan, np.inf, -np.inf):
        first = next(iter(call.arrays))
        rows = np.where(np.arange(3)[:, None] == 1, garbage, call.arrays[first])
        changed = replace(call, arrays=call.arrays | {first: rows})
        found, gradients = value_and_gradients(changed, adapter)
        np.testing.assert_array_equal(found, y)
        passes_on = (op, framework) == ("cross_entropy", "torch") and garbage != -np.inf
        for d, same in zip(gradients, right, strict=True):
            assert np.isnan(d[1]).all() if passes_on else np.array_equal(d, same)
        for d, truth in zip(right, changed.vjp(np.ones(())).values(), strict=True):
            assert error(d, truth) <= FLOAT64_LIMIT


@each_framework
def test_a_chunk_may_be_minus_infinity_throughout(framework: str) -> None:
    """As where a vocabulary is padded with weights of −∞, or a product overflows: whatever the chunks are."""
    adapter = frameworks.load(framework)
    call = call_of("linear_cross_entropy", np.array([0], np.int32))
    arrays = {"x": np.array([[1.0]]), "weight": np.array([[0.0], [-np.inf], [1.0]])}
    overflowing = {"x": np.array([[1e200]]), "weight": np.array([[0.0], [-1e200], [-2e200]])}
    for chunk in (1, 2, 3):
        for given, loss in ((arrays, np.log1p(np.e)), (overflowing, 0.0)):
            y, gradients = value_and_gradients(
                replace(call, arrays=given, static=call.static | {"chunk": chunk}), adapter
            )
            assert error(y, np.asarray(loss)) <= FLOAT64_LIMIT
            assert given is arrays or not any(d.any() for d in gradients)


def theirs(framework: str) -> Callable[[Any, Any], Any]:
    """The losses of rows as the framework's own functions give them."""
    if framework == "torch":
        from torch.nn import functional

        return lambda logits, labels: functional.cross_entropy(logits, labels.long(), reduction="none")
    import jax

    return lambda logits, labels: -jax.numpy.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], -1)[:, 0]


@each_op
@each_framework
@pytest.mark.parametrize("offset", [0, 30, 100, 1e3, 1e4])
def test_an_offset_of_the_logits_costs_no_digits(op: str, framework: str, offset: float) -> None:
    """It changes neither loss nor gradients, and the framework's own loss subtracts it before it rounds anything."""
    adapter, rng = frameworks.load(framework), np.random.default_rng(0)
    call = call_of(op, rng.integers(CLASSES, size=64, dtype="int32"), reduction="none").rounded(adapter, "float32")
    if op == "cross_entropy":
        arrays = {"logits": 3 * call.arrays["logits"] + offset}
    else:  # the product of whole numbers is exact, so that its error does not hide the loss's
        arrays = {name: np.rint(2 * a) for name, a in call.arrays.items()}
        arrays["x"][:, 0], arrays["weight"][:, 0] = 1, offset
    call = replace(call, arrays=arrays).rounded(adapter, "float32")
    args, (labels,) = [adapter.array(a, "float32") for a in call.arrays.values()], call.constants_in(adapter)
    g = rng.standard_normal(64).astype("float32")
    loss = theirs(framework)
    its = (lambda z: loss(z, labels)) if op == "cross_entropy" else (lambda x, weight: loss(x @ weight.T, labels))
    found, own = (adapter.value_and_vjp(fn, args, adapter.array(g, "float32")) for fn in (call.ours(adapter), its))
    truths = [call.forward(), *call.vjp(np.float64(g)).values()]
    for ours, their, truth in zip((found[0], *found[1]), (own[0], *own[1]), truths, strict=True):
        allowed = limit("float32", error(adapter.to_numpy(their), truth))
        assert error(adapter.to_numpy(ours), truth) <= allowed


INT = "expected an int, got"
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "labels of booleans": (
        {"labels": np.zeros(3, bool)},
        TypeError,
        r"labels: expected an integer (array|tensor), got bool\[3\]",
    ),
    "labels of another shape": (
        {"labels": np.zeros((3, 1), np.int32)},
        ValueError,
        r"labels: expected shape \[3\], one label a row, got \[3, 1\]",
    ),
    "reduction": ({"reduction": "max"}, ValueError, "reduction: expected 'mean', 'sum' or 'none', got 'max'"),
    "no reduction": ({"reduction": None}, ValueError, "reduction: expected 'mean', 'sum' or 'none', got None"),
    "ignore_index of a float": ({"ignore_index": 1.0}, TypeError, f"ignore_index: {INT} float"),
    "ignore_index of a bool": ({"ignore_index": True}, TypeError, f"ignore_index: {INT} bool"),
    "ignore_index of none": ({"ignore_index": None}, TypeError, f"ignore_index: {INT} NoneType"),
    "ignore_index of 40 bits": (
        {"ignore_index": 2**40},
        ValueError,
        f"ignore_index: expected an int from {-(2**31)} to {2**31 - 2}, got {2**40}",
    ),
}
BAD_LINEAR: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "labels of floats": (
        {"labels": np.zeros((3, 5), np.float32)},
        TypeError,
        r"labels: expected an integer (array|tensor), got float32\[3, 5\]",
    ),
    "chunk of none": ({"chunk": 0}, ValueError, f"chunk: expected an int from 1 to {2**31 - 2}, got 0"),
    "chunk of a float": ({"chunk": 2.0}, TypeError, f"chunk: {INT} float"),
    "weight turned": (
        {"weight": np.zeros((3, 5), np.float32)},
        ValueError,
        r"weight: expected shape \[v, 3\], with the last axis of x, got \[3, 5\]",
    ),
    "x of no axis": ({"x": np.zeros((), np.float32)}, ValueError, "x: expected at least 1 axis, got a scalar"),
}
BAD_LOGITS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "logits of no axis": (
        {"logits": np.zeros((), np.float32)},
        ValueError,
        "logits: expected at least 1 axis, got a scalar",
    ),
    "probabilities of another shape": (
        {"labels": np.zeros(3, np.float32)},
        ValueError,
        r"labels: expected shape \[3, 5\], as logits, if floating, got \[3\]",
    ),
    "probabilities and a label to ignore": (
        {"labels": np.zeros((3, 5), np.float32), "ignore_index": 1},
        ValueError,
        "ignore_index: expected none where labels are probabilities, got 1",
    ),
}


def bad_calls() -> Iterator[Any]:
    for op in LOSSES:
        for name, bad in {**BAD, **(BAD_LINEAR if op.startswith("linear") else BAD_LOGITS)}.items():
            yield pytest.param(op, *bad, id=f"{op}-{name}")


@each_framework
@pytest.mark.parametrize(("op", "changed", "kind", "message"), list(bad_calls()))
def test_bad_arguments_are_named(
    op: str, changed: dict[str, Any], kind: type[Exception], message: str, framework: str
) -> None:
    adapter = frameworks.load(framework)
    call = call_of(op, np.array([0, 1, 2], np.int32))
    given = {**call.arrays, **call.constants, **call.static, **changed}
    given = {n: adapter.constant(a) if isinstance(a, np.ndarray) else a for n, a in given.items()}
    with pytest.raises(kind, match=f"^{message}$"):
        adapter.public(op)(**given)


def largest_jax(fn: Callable[..., Any], args: list[Any]) -> int:
    """The size of the largest value that forward and backward make, in loops and other inner programs too."""
    import jax
    from jax.extend import core

    def sizes(jaxpr: Any) -> Iterator[int]:
        for eqn in jaxpr.eqns:
            yield from (v.aval.size for v in eqn.outvars if hasattr(v.aval, "size"))
            for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda a: hasattr(a, "eqns")):
                if isinstance(inner, core.ClosedJaxpr | core.Jaxpr):
                    yield from sizes(inner.jaxpr if isinstance(inner, core.ClosedJaxpr) else inner)

    return max(sizes(jax.make_jaxpr(jax.grad(fn, tuple(range(len(args)))))(*args).jaxpr))


def largest_torch(fn: Callable[..., Any], args: list[Any]) -> int:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Sizes(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            self.found = max([self.found, *(t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor))])
            return out

    with Sizes() as sizes:
        torch.autograd.grad(fn(*args), args)
    return sizes.found


@each_framework
def test_no_array_of_all_logits(framework: str) -> None:
    """Neither in the forward nor in the backward; and where there is one, in the plain form, it is noticed."""
    adapter = frameworks.load(framework)
    largest = {"jax": largest_jax, "torch": largest_torch}[framework]
    chunked, whole = linear_call(CHUNK), linear_call(VOCABULARY)
    args = [adapter.array(a, "float32") for a in chunked.arrays.values()]
    assert largest(chunked.ours(adapter), args) == ROWS * CHUNK
    assert largest(whole.ours(adapter), args) == ROWS * VOCABULARY
    labels = chunked.constants_in(adapter)[0]
    plain = adapter.public("cross_entropy")
    assert largest(lambda x, weight: plain(x @ weight.T, labels), args) == ROWS * VOCABULARY


@each_op
@each_framework
def test_a_large_label_without_a_sign_is_not_ignored(op: str, framework: str) -> None:
    """Not where it is not seen either: 2³² − 100 is −100 in 32 bits with a sign."""
    adapter = frameworks.load(framework)
    call = call_of(op, np.array([1, 2**32 - 100], np.uint32))
    for around in hiding(framework).values():
        assert np.isnan(value_and_gradients(call, adapter, around)[0])

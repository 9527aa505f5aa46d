"""Calls of the losses of class labels, and what they give in float64."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from residuals_lab.ops import BY_NAME
from residuals_lab.ops.call import Call

REDUCTIONS = ("mean", "sum", "none")
CLASSES = 5


each_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


def call_of(op: str, labels: Any, **changed: Any) -> Call:
    """A call with these labels, of five classes; a linear layer in chunks of two."""
    labels, rng = np.asarray(labels), np.random.default_rng(0)
    axes = {"...": labels.shape, "c": (CLASSES,), "d": (3,), "v": (CLASSES,)}
    chunk = {"chunk": 2} if op.startswith("linear") else {}
    return Call.of(BY_NAME[op], {**BY_NAME[op].draw(rng, axes), **chunk, "labels": labels, **changed})


def value_and_gradients(
    call: Call, adapter: ModuleType, around: Callable[[Any], Any] = lambda fn: fn
) -> tuple[np.ndarray, list[np.ndarray]]:
    """In float64, for a cotangent of ones; `around` transforms the function of the arrays and labels."""
    with adapter.precision("float64"):
        args = [adapter.array(a, "float64") for a in call.arrays.values()]
        fn, labels = around(call.ours(adapter)), call.constants_in(adapter)
        y = fn(*args, *labels)
        ones = adapter.array(np.ones(np.shape(y)), "float64")
        _, gradients = adapter.value_and_vjp(lambda *args: fn(*args, *labels), args, ones)
        return adapter.to_numpy(y), [adapter.to_numpy(d) for d in gradients]


# Never all logits: sizes such that nothing else is as large as rows × classes.
ROWS, FEATURES, VOCABULARY, CHUNK = 64, 8, 96, 16


def linear_call(chunk: int) -> Call:
    axes = {"...": (ROWS,), "d": (FEATURES,), "v": (VOCABULARY,)}
    row = BY_NAME["linear_cross_entropy"]
    return Call.of(row, {**row.draw(np.random.default_rng(0), axes), "chunk": chunk})

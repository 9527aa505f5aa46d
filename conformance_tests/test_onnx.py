"""Our ops in both frameworks on the node tests of ONNX, which have their own values: in float32 and below."""

import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from onnx.helper import get_attribute_value

from residuals_lab import frameworks
from residuals_lab.ops.tolerance import error

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the casts that its other node tests are about
    from onnx.backend.test.case.node import collect_testcases

# A translation takes a node's inputs in order, absent ones as None, and its attributes by name. It gives the arguments
# of our op, or why there are none: that is counted and printed.
Translated = dict[str, Any] | str


def elementwise(x: np.ndarray) -> Translated:
    return {"x": x}


def swish(x: np.ndarray, alpha: float = 1.0) -> Translated:
    return {"x": x} if alpha == 1 else "an alpha"


def gelu(x: np.ndarray, approximate: bytes = b"none") -> Translated:
    return {"x": x, "approximate": approximate.decode()}


def softmax(x: np.ndarray, axis: int = -1) -> Translated:
    return {"x": x, "axis": axis}


def layer_norm(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, axis: int = -1, epsilon: float = 1e-5
) -> Translated:
    return {"x": x, "weight": weight, "bias": bias, "eps": epsilon}  # from `axis` on, as the weight has them


def rms_norm(x: np.ndarray, weight: np.ndarray, axis: int = -1, epsilon: float = 1e-5) -> Translated:
    return {"x": x, "weight": weight, "eps": epsilon}


def group_norm(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, num_groups: int, epsilon: float = 1e-5
) -> Translated:
    return {"x": x, "num_groups": num_groups, "weight": weight, "bias": bias, "eps": epsilon}


def batch_norm(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Translated:
    options = {"training": bool(training_mode), "momentum": 1 - momentum, "eps": epsilon}
    return {"x": x, "weight": weight, "bias": bias, "running_mean": mean, "running_var": var, **options}


def cross_entropy(
    x: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray | None = None,
    reduction: bytes = b"mean",
    ignore_index: int = -100,
) -> Translated:
    options = {"weight": weight, "reduction": reduction.decode(), "ignore_index": ignore_index, "axis": 1}
    return {"logits": x, "labels": labels, **options}


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    mask: np.ndarray | None = None,
    past_key: np.ndarray | None = None,
    past_value: np.ndarray | None = None,
    lengths: np.ndarray | None = None,
    is_causal: int = 0,
    scale: float | None = None,
    **others: Any,
) -> Translated:
    # `qk_matmul_output_mode` says what a second output is, with which the first one, the only one here, is the same.
    others = {name for name, a in others.items() if a and name != "qk_matmul_output_mode"}
    if q.ndim == 3:
        return "heads on the last axis"
    if past_key is not None or lengths is not None:
        return "a cache of keys"
    if others:
        return " and ".join(sorted(others))
    if mask is not None and mask.shape[-1] != k.shape[-2]:
        return "a mask of fewer keys"
    masks = {} if mask is None else {"mask" if mask.dtype == bool else "bias": mask}
    return {"q": q, "k": k, "v": v, "is_causal": bool(is_causal), "scale": scale, **masks}


class Pair(NamedTuple):
    """An op of ours, ONNX's for the same thing, and how many of its node tests ours must take, at least."""

    ours: str
    theirs: str
    translate: Callable[..., Translated]
    taken: int


PAIRS = (
    Pair("relu", "Relu", elementwise, 1),
    Pair("sigmoid", "Sigmoid", elementwise, 2),
    Pair("tanh", "Tanh", elementwise, 2),
    Pair("silu", "Swish", swish, 1),
    Pair("gelu", "Gelu", gelu, 4),
    Pair("softmax", "Softmax", softmax, 7),
    Pair("layer_norm", "LayerNormalization", layer_norm, 19),
    Pair("rms_norm", "RMSNormalization", rms_norm, 19),
    Pair("group_norm", "GroupNormalization", group_norm, 2),
    Pair("batch_norm", "BatchNormalization", batch_norm, 4),
    Pair("cross_entropy", "SoftmaxCrossEntropyLoss", cross_entropy, 34),
    Pair("attention", "Attention", attention, 29),
    Pair("flash_attention", "Attention", attention, 29),
)
each_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.ours)


@cache
def nodes() -> tuple[Any, ...]:
    """ONNX's tests of a single node; those of the same op as a program of smaller ones are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuple(case for case in collect_testcases(None) if len(case.model.graph.node) == 1)


def translated(pair: Pair) -> list[tuple[str, Translated, np.ndarray]]:
    """Each test's name, the arguments of our op, and the value it must give."""
    found = []
    for case in nodes():
        (node,) = case.model.graph.node
        if node.op_type == pair.theirs:
            for given, expected in case.data_sets:
                present = iter(given)
                inputs = [next(present) if name else None for name in node.input]
                options = {a.name: get_attribute_value(a) for a in node.attribute}
                found.append((case.name, pair.translate(*inputs, **options), expected[0]))
    return found


def placed(adapter: Any, a: np.ndarray) -> Any:
    """`a` in this framework, in its own dtype; PyTorch takes no NumPy array of bfloat16."""
    is_narrow = a.dtype.name == "bfloat16"
    return adapter.array(a.astype(np.float32), a.dtype.name) if is_narrow else adapter.constant(a)


@each_pair
@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_the_value_that_onnx_has(pair: Pair, framework: str) -> None:
    """To 1e-5, or 1e-2 in 16 bits; what ONNX expects is rounded too."""
    adapter, wrong = frameworks.load(framework), []
    for name, arguments, expected in translated(pair):
        if isinstance(arguments, dict):
            given = {n: placed(adapter, a) if isinstance(a, np.ndarray) else a for n, a in arguments.items()}
            value = adapter.public(pair.ours)(**given)
            value = adapter.to_numpy(value[0] if isinstance(value, tuple) else value)
            if error(value, expected) > (1e-5 if expected.dtype == np.float32 else 1e-2):
                wrong.append((name, error(value, expected)))
    assert not wrong


@each_pair
def test_no_fewer_node_tests_are_taken(pair: Pair) -> None:
    found = [arguments for _, arguments, _ in translated(pair)]
    refused = Counter(one for one in found if isinstance(one, str))
    number = len(found) - refused.total()
    why = "".join(f"; {n} not: {why}" for why, n in refused.items())
    print(f"\n{pair.ours} takes {number} of {len(found)} node tests of {pair.theirs}{why}")
    assert number >= pair.taken

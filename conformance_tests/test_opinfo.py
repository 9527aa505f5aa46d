"""Our ops in both frameworks on PyTorch's samples of its own ops (its OpInfo database), against those ops."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_map_only

from residuals_lab import frameworks
from residuals_lab.ops import BY_NAME
from residuals_lab.ops.call import Call, round_to
from residuals_lab.ops.tolerance import FLOAT64_LIMIT, ULP, error, limit

# A translation has the parameters of PyTorch's op. It gives the arguments of ours, or why there are none: that is
# counted and printed.
Translated = dict[str, Any] | str


def elementwise(input: Tensor) -> Translated:
    return {"x": input}


def gelu(input: Tensor, approximate: str = "none") -> Translated:
    return {"x": input, "approximate": approximate}


def softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Translated:
    return {"x": input, "axis": dim}  # the samples that have a dtype have float64, in which all is computed then


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Translated:
    if training and 0 < p < 1:
        return "a mask drawn by the global generator"
    return {"x": input, "rate": p if training else 0.0, "key": np.zeros(2, np.uint32)}


def layer_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Translated:
    if eps < 0:
        return "a negative eps"
    if weight is None and bias is None and len(normalized_shape) > 1:
        return "several axes without a weight"
    return {"x": input, "weight": weight, "bias": bias, "eps": eps}


def rms_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> Translated:
    translated = layer_norm(input, normalized_shape, weight, None, 0.0 if eps is None else eps)
    return translated if isinstance(translated, str) else {"x": input, "weight": weight, "eps": eps}


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Translated:
    if eps < 0:
        return "a negative eps"
    return {"x": input, "num_groups": num_groups, "weight": weight, "bias": bias, "eps": eps}


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Translated:
    if input.ndim < 2:
        return "no axis of channels"
    if training and not 0 <= momentum <= 1:
        return "a momentum that is not from 0 to 1"
    running = {"running_mean": running_mean, "running_var": running_var}
    options = {"training": training, "momentum": momentum if training else 0.1, "eps": eps}
    return {"x": input, "weight": weight, "bias": bias, **running, **options}


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Translated:
    if dropout_p:
        return "dropout of the weights"
    masks = {} if attn_mask is None else {"mask" if attn_mask.dtype == torch.bool else "bias": attn_mask}
    return {"q": query, "k": key, "v": value, "is_causal": is_causal, **masks}


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Translated:
    options = {"ignore_index": ignore_index, "reduction": reduction, "axis": min(1, input.ndim - 1)}
    return {"logits": input, "labels": target, "weight": weight, **options}


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Translated:
    if target.is_floating_point():
        return "probabilities for labels"
    if linear_weight.ndim > 2:
        return "several losses a row"
    arrays = {"x": input, "weight": linear_weight, "labels": target, "bias": linear_bias, "class_weight": weight}
    return {**arrays, "reduction": reduction, "ignore_index": ignore_index, "chunk": 3}


class Pair(NamedTuple):
    """An op of ours, PyTorch's for the same thing, and how many of its samples ours must take, at least."""

    ours: str
    theirs: str
    translate: Callable[..., Translated]
    taken: int
    fewer_in_jax: int = 0


PAIRS = (
    Pair("relu", "nn.functional.relu", elementwise, 4),
    Pair("relu_bits", "nn.functional.relu", elementwise, 4),
    Pair("sigmoid", "sigmoid", elementwise, 3),
    Pair("tanh", "tanh", elementwise, 1),
    Pair("silu", "nn.functional.silu", elementwise, 3),
    Pair("gelu", "nn.functional.gelu", gelu, 8),
    Pair("softmax", "softmax", softmax, 14, fewer_in_jax=4),
    Pair("dropout", "nn.functional.dropout", dropout, 15),
    Pair("dropout_remat", "nn.functional.dropout", dropout, 15),
    Pair("layer_norm", "nn.functional.layer_norm", layer_norm, 5),
    Pair("rms_norm", "nn.functional.rms_norm", rms_norm, 5),
    Pair("batch_norm", "nn.functional.batch_norm", batch_norm, 18),
    Pair("group_norm", "nn.functional.group_norm", group_norm, 17),
    Pair("attention", "nn.functional.scaled_dot_product_attention", attention, 13),
    Pair("flash_attention", "nn.functional.scaled_dot_product_attention", attention, 13),
    Pair("cross_entropy", "nn.functional.cross_entropy", cross_entropy, 21),
    Pair("linear_cross_entropy", "nn.functional.linear_cross_entropy", linear_cross_entropy, 36),
)
# Of softmax and batch_norm there are variants of the same op; that of a complex one, and the chunks in which PyTorch
# computes a loss, are no samples for ours.
VARIANTS = ("", "with_dtype", "without_cudnn")
each_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.ours)


class Taken(NamedTuple):
    """A sample that our op takes: the arguments of ours, in float64, and PyTorch's op of the same arrays by name."""

    arguments: dict[str, Any]
    theirs: Callable[[dict[str, Tensor]], Tensor]
    described: str


def samples(pair: Pair, framework: str) -> Iterator[Taken | str]:
    for info in op_db:
        if info.name == pair.theirs and info.variant_test_name in VARIANTS:
            torch.manual_seed(0)
            for sample in info.sample_inputs("cpu", torch.float64, requires_grad=True):
                if (pair.ours, framework, sample.input.ndim) == ("softmax", "jax", 0):
                    yield "an axis of a scalar, which JAX has not"
                else:
                    yield taken(pair, info.op, (sample.input, *sample.args), sample.kwargs)


def taken(pair: Pair, op: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Taken | str:
    translated = pair.translate(*args, **options)
    if isinstance(translated, str):
        return translated
    names = {id(a): name for name, a in translated.items() if isinstance(a, Tensor)}

    def theirs(given: dict[str, Tensor]) -> Tensor:
        def place(a: Tensor) -> Tensor:
            return given[names[id(a)]]

        with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
            return op(*tree_map_only(Tensor, place, args), **tree_map_only(Tensor, place, options))

    arguments = {name: a.detach().numpy() if isinstance(a, Tensor) else a for name, a in translated.items()}
    shapes = tree_map_only(Tensor, lambda a: list(a.shape), (args, options))
    return Taken(arguments, theirs, f"{pair.theirs} {shapes}")


class Trial:
    """One sample in one dtype: the numbers as that dtype has them, and what PyTorch's op makes of them."""

    def __init__(self, pair: Pair, sample: Taken, dtype: str) -> None:
        self.sample, self.dtype, self.torch = sample, dtype, frameworks.load("torch")
        given = sample.arguments.items()
        self.call = Call.of(BY_NAME[pair.ours], {name: self.rounded(a) for name, a in given})
        arrays = self.call.arrays.values()
        value = self.theirs("float64")(*map(torch.tensor, arrays))
        rng = np.random.default_rng(0)
        self.g, *self.us = (self.rounded(rng.standard_normal(a.shape)) for a in (value, *arrays))

    def rounded(self, a: Any) -> Any:
        is_floating = isinstance(a, np.ndarray) and a.dtype.kind == "f"
        return round_to(self.torch, a, self.dtype) if is_floating else a

    def theirs(self, dtype: str) -> Callable[..., Tensor]:
        """PyTorch's op as a function of the call's arrays; its constants, if floating, in this dtype too."""

        def fn(*given: Tensor) -> Tensor:
            constants = {name: torch.tensor(a) for name, a in self.call.constants.items()}  # it may overwrite them
            wanted = {n: a.to(getattr(torch, dtype)) if a.is_floating_point() else a for n, a in constants.items()}
            return self.sample.theirs(dict(zip(self.call.arrays, given, strict=True)) | wanted)

        return fn

    def results(self, adapter: Any, fn: Callable[..., Any], dtype: str, call: Call) -> list[np.ndarray]:
        """The value, the gradients, and in float64 the second derivatives."""
        with adapter.precision(dtype):
            args, g = [adapter.array(a, dtype) for a in call.arrays.values()], adapter.array(self.g, dtype)
            y, gradients = adapter.value_and_vjp(fn, args, g)
            found = [y, *gradients]
            if dtype == "float64":
                found += adapter.second_vjp(fn, args, g, [adapter.array(u, dtype) for u in self.us])
            return [adapter.to_numpy(a) for a in found]

    def felt(self, truths: list[np.ndarray]) -> list[float]:
        """How much each result feels if each number of the arrays moves by half an ulp; the most of several draws."""
        signs, found = np.random.default_rng(6), [0.0] * len(truths)
        for _ in range(8):
            step = ULP[self.dtype] / 2
            moved = {n: a * (1 + step * signs.choice((-1, 1), a.shape)) for n, a in self.call.arrays.items()}
            nudged = self.results(self.torch, self.theirs("float64"), "float64", replace(self.call, arrays=moved))
            found = [max(f, error(a, truth)) for f, a, truth in zip(found, nudged, truths, strict=True)]
        return found

    def wrong(self, adapter: Any) -> Iterator[str]:
        """Each result of ours that is too far from PyTorch's in float64."""
        truths = self.results(self.torch, self.theirs("float64"), "float64", self.call)
        theirs = self.results(self.torch, self.theirs(self.dtype), self.dtype, self.call)
        call = self.call.rounded(adapter, self.dtype)
        for i, found in enumerate(self.results(adapter, call.ours(adapter), self.dtype, self.call)):
            # Where all of it cancels, what float64 leaves is no scale.
            truth = truths[i] if np.abs(truths[i]).max(initial=0.0) >= FLOAT64_LIMIT else np.zeros_like(truths[i])
            off, allowed = error(found, truth), limit(self.dtype, error(theirs[i], truth))
            if off > allowed and self.dtype != "float64":  # PyTorch's op may be right by chance
                plain = self.results(adapter, call.plain(adapter), self.dtype, self.call)[i]
                allowed = max(allowed, limit(self.dtype, max(error(plain, truth), self.felt(truths)[i])))
            if off > allowed:
                yield f"{self.sample.described}: result {i} is off by {off:.1e}, allowed {allowed:.1e}"


@each_pair
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_right_where_pytorch_is(pair: Pair, dtype: str, framework: str) -> None:
    """Within 1e-9 in float64. Below, at most twice as wrong as PyTorch's op in the same dtype, as plain autodiff of the
    same maths, or as inputs that are half an ulp off would make it, and a rounding.
    """
    adapter = frameworks.load(framework)
    trials = [Trial(pair, sample, dtype) for sample in samples(pair, framework) if isinstance(sample, Taken)]
    assert not [line for trial in trials for line in trial.wrong(adapter)]


@each_pair
@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_no_fewer_samples_are_taken(pair: Pair, framework: str) -> None:
    found = list(samples(pair, framework))
    refused = Counter(one for one in found if isinstance(one, str))
    number = len(found) - refused.total()
    why = "".join(f"; {n} not: {why}" for why, n in refused.items())
    print(f"\n{pair.ours} in {framework} takes {number} of {len(found)} samples of {pair.theirs}{why}")
    assert number >= pair.taken - (pair.fewer_in_jax if framework == "jax" else 0)

"""The losses beside PyTorch's own, and under its compiler."""

from typing import Any

import numpy as np
import pytest
import torch

from losses import CHUNK, FEATURES, ROWS, VOCABULARY, call_of, each_reduction, linear_call, value_and_gradients
from residuals_lab import frameworks
from residuals_lab.ops.tolerance import FLOAT64_LIMIT, error


@each_reduction
@pytest.mark.parametrize("labels", [[1, -100, 4], [1, 2, 3], [-100] * 3], ids=str)
def test_as_pytorch_has_it(labels: list[int], reduction: str) -> None:
    adapter = frameworks.load("torch")
    call = call_of("cross_entropy", np.array(labels, np.int32), reduction=reduction)
    args = [adapter.array(a, "float64") for a in call.arrays.values()]
    theirs = call.own(adapter)(*args)
    _, (their_d,) = adapter.value_and_vjp(call.own(adapter), args, adapter.array(np.ones(theirs.shape), "float64"))
    y, (d,) = value_and_gradients(call, adapter)
    assert error(y, adapter.to_numpy(theirs)) <= FLOAT64_LIMIT
    assert error(d, adapter.to_numpy(their_d)) <= FLOAT64_LIMIT


def test_compiled_code_saves_no_logits() -> None:
    """A compiler that found the same product in forward and backward would save it, and with that all logits."""
    adapter, call = frameworks.load("torch"), linear_call(CHUNK)
    args = [adapter.array(a, "float32") for a in call.arrays.values()]
    compiled = torch.compile(call.ours(adapter), fullgraph=True, backend="aot_eager_decomp_partition")
    sizes: dict[Any, int] = {}

    def pack(t: Any) -> Any:
        sizes[t.untyped_storage()._cdata] = t.untyped_storage().nbytes() // 4
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = compiled(*args)
    torch.autograd.grad(loss, args)
    assert max(sizes.values()) == max(VOCABULARY, ROWS) * FEATURES < ROWS * CHUNK


@pytest.mark.parametrize("op", ["cross_entropy", "linear_cross_entropy"])
@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_autocast_gives_float32(op: str, narrow: torch.dtype) -> None:
    """As F.cross_entropy: the sum of a batch overflows float16, and so does the cotangent of a GradScaler's scale."""
    adapter, rows = frameworks.load("torch"), 60_000
    call = call_of(op, np.arange(rows, dtype="int32") % 5, reduction="sum")
    args = [adapter.array(a, "float32") for a in call.arrays.values()]
    with torch.autocast("cpu", narrow):
        loss = call.ours(adapter)(*(a.to(narrow) for a in args))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(float(call.forward()), rel=1e-2)
    scale = 2.0**16
    for d, truth in zip(torch.autograd.grad(loss * scale / rows, args), call.vjp(np.ones(())).values(), strict=True):
        assert error(adapter.to_numpy(d), truth * scale / rows) <= 0.05

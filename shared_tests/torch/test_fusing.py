"""Fused, an op is what it was: values, gradients, what is saved, every transformation, the same draws."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import residuals_torch as ours
from residuals_lab.ops import OPS as TABLE
from residuals_torch import fusing

KEY = torch.tensor([1, 2], dtype=torch.int64).to(torch.uint32)
OPS = {
    "silu": lambda x: ours.silu(x),
    "rms_norm": lambda x: ours.rms_norm(x, torch.ones(x.shape[-1], dtype=x.dtype)),
    "dropout": lambda x: ours.dropout(x, 0.5),
}


@pytest.fixture
def fused() -> Iterator[None]:
    ours.fuse()
    yield
    ours.unfuse()


def of(fn: Any, x: Tensor) -> tuple[Tensor, Tensor, list[tuple[Any, ...]]]:
    """The value, the gradient, and what hooks see saved."""
    seen: list[tuple[Any, ...]] = []

    def pack(a: Tensor) -> Tensor:
        seen.append((tuple(a.shape), a.dtype, a is x or a.data_ptr() == x.data_ptr()))
        return a

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda a: a):
        y = fn(x)
    (dx,) = torch.autograd.grad(y, x, torch.cos(torch.arange(float(y.numel()))).reshape(y.shape).to(y.dtype))
    return y.detach(), dx, seen


@pytest.mark.parametrize("name", OPS)
def test_values_gradients_and_what_is_saved(name: str, fused: None) -> None:
    x = torch.randn(6, 16, requires_grad=True)
    ours.unfuse()
    y, dx, saved = of(OPS[name], x)
    ours.fuse()
    assert compilations(lambda: of(OPS[name], x)) == 2, "the forward and the backward run compiled"
    *found, saved_now = of(OPS[name], x)
    torch.testing.assert_close(found, [y, dx])
    assert saved_now == saved


def compilations(run: Any) -> int:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    run()
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def test_a_kind_of_call_compiles_once_for_a_size_and_once_for_all(fused: None) -> None:
    def run() -> None:
        for n in (4, 6, 9, 13):
            of(ours.silu, torch.randn(n, 16, requires_grad=n != 9) * torch.ones(1, requires_grad=True))

    assert compilations(run) == 4, "two of the forward, two of the backward"


def test_what_transforms_a_rule_sees_it_as_it_is_written(fused: None) -> None:
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ours.silu, x)
    assert torch.autograd.gradgradcheck(ours.silu, x)
    plain, rows = x.detach(), torch.func.vmap(torch.func.grad(lambda row: ours.silu(row).sum()))
    (dx,) = torch.autograd.grad(ours.silu(x).sum(), x)
    torch.testing.assert_close(rows(plain), dx)
    whole = torch.compile(lambda x: ours.silu(x).sum(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(whole(x), x), (dx,))
    again = torch.utils.checkpoint.checkpoint(ours.silu, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(again.sum(), x), (dx,))


def test_unfused_it_is_what_it_was() -> None:
    before = [(rule.forward, rule.backward) for rule in fusing._rules()]
    assert len(before) == len(TABLE)
    ours.fuse()
    ours.fuse()
    assert all(rule.forward is not forward for rule, (forward, _) in zip(fusing._rules(), before, strict=True))
    ours.unfuse()
    assert [(rule.forward, rule.backward) for rule in fusing._rules()] == before


def test_without_a_compiler_there_is_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(fn: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(fusing, "_compiled", refuses)
    with pytest.warns(RuntimeWarning, match="the ops stay as they are: no C") as found:
        ours.fuse()
    assert len(found) == 1
    assert ours.silu(torch.ones(3)).shape == (3,)

"""The audit of what only PyTorch has: modules with a state, views, what hangs on ctx."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from audited import array, module, said
from residuals_lab.audit import audit


def test_what_hangs_on_ctx_and_what_a_view_pins(tmp_path: Path) -> None:
    found = module("torch", tmp_path)
    assert said(audit(found["on_ctx"], array("torch", 4, 8))) == {("hidden", "kept")}
    report = audit(lambda x: x.sin()[:1].exp().sin().sum(), array("torch", 64, 8))
    assert report.findings == [], "the exp is new and small; the sine is not held"
    report = audit(lambda x: (x.sin()[:1] * x.cos()[:1]).sum(), array("torch", 64, 8))
    assert {(f.what, f.nbytes) for f in report.findings} == {("pinned", 2 * (2048 - 32))}


def test_what_two_views_share_counts_once() -> None:
    def fn(x: Tensor) -> Tensor:
        y = x.sin()
        return (y[:2] * y[2:]).sum()

    report = audit(fn, array("torch", 4, 8))
    assert [(r.name, r.storage_bytes, r.nbytes) for r in report.residuals if r.is_new] == [("sin", 128, 64)] * 2
    assert (report.new_bytes, report.saved_bytes) == (128, 256)


def test_a_view_wastes_nothing_and_a_module_stays_as_it_is() -> None:
    """A result and a view of it are one array; and an audit counts no batch, on fake tensors."""
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    before = {name: a.clone() for name, a in model.state_dict().items()}
    report = audit(model, array("torch", 3, 4, 8))  # a linear layer takes the rows of a ReLU's result
    assert report.findings == []
    assert all(a.equal(before[name]) for name, a in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_module_keeps_no_fake_tensors() -> None:
    """Neither what it makes when it first runs, nor a buffer that it assigns."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mask = None
            self.register_buffer("mean", torch.zeros(8))

        def forward(self, x: Any) -> Any:
            if self.mask is None:
                self.mask = torch.arange(8) > 2
            self.mean = 0.9 * self.mean + x.detach().mean(0)
            return (x * self.mask).sin()

    model, mean = Masked(), torch.zeros(8)
    model = nn.Sequential(model, nn.Linear(8, 8))
    audit(model, array("torch", 4, 8))
    assert model[0].mask is None
    assert type(model[0].mean) is Tensor
    assert model[0].mean.equal(mean)
    assert type(model(array("torch", 4, 8))) is Tensor


def test_one_tensor_given_twice_is_one() -> None:
    def fn(query: Any, key: Any) -> Any:
        return (query.sin() if query is key else query.sin() * key.exp()).sum()

    x = torch.ones(4, 8, requires_grad=True)
    assert audit(fn, x, x).new_bytes == 0


def test_modules_of_pytorch() -> None:
    """Parameters by name, shared ones once, no gradient left behind; both kinds of checkpoint; a dataclass."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
            self.second.weight = self.first.weight
            self.reentrant: bool | None = None

        def inner(self, x: Tensor) -> Tensor:
            return self.second(torch.sin(self.first(x)))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = x.exp()
            y = self.inner(x) if self.reentrant is None else checkpoint(self.inner, x, use_reentrant=self.reentrant)
            return {"y": y, "x": x}

    net, x = Net(), torch.rand(4, 8, requires_grad=True)
    report = audit(net, x)
    assert {(r.name, r.kind) for r in report.residuals} == {
        ("first.weight", "parameter"), ("matmul", "new"), ("sin", "new"), ("exp", "output"),
    }  # fmt: skip
    assert {r.module for r in report.residuals if r.op == "matmul"} == {"Net/first"}
    assert net.first.weight.grad is None
    assert report.new_bytes == 2 * 128
    for net.reentrant in (False, True):
        report = audit(net, x)
        assert report.new_bytes == 0, "what the checkpoint holds is an output"
        found = [(r.op, r.count) for r in report.repeats if not r.is_kept]
        assert found == [("matmul", 1), ("sin", 1)]
        found = [(r.op, r.count) for r in report.repeats if r.is_kept]
        assert found == [("matmul", 1)] * net.reentrant, "the last product, which nobody reads and is an output"
        assert said(report) == set()

    @dataclasses.dataclass
    class Batch:
        x: Tensor
        name: str = "batch"

    report = audit(lambda batch: Batch(batch.x.sin()), Batch(x))
    assert [r.name for r in report.residuals] == ["batch.x"]


def test_views_of_one_storage_are_found_once() -> None:
    """What is derivable is so as a whole; a copy of a view is one copy, and several views show one half."""

    def split(x: Tensor, scale: Tensor) -> Tensor:
        a, b, c = (x * scale).chunk(3, -1)
        return (a.sin() * b.cos() * c.tan()).sum()

    report = audit(split, array("torch", 8, 48), array("torch", 48))
    found = [("derivable", 1536), ("derivable", 512)]
    assert (report.new_bytes, [(f.what, f.nbytes) for f in report.findings]) == (3584, found)

    def halves(x: Tensor, w: Tensor) -> Tensor:
        a = (x @ w)[:, :32]
        return a.sin().sum() + a.t().contiguous().cos().sum() + (a.t() @ a).sum() + (a.unsqueeze(0) ** 3).sum()

    report = audit(halves, array("torch", 64, 64), array("torch", 64, 64))
    found = [("duplicate", 8192, ("clone",)), ("pinned", 8192, ("matmul",))]
    assert (report.new_bytes, [(f.what, f.nbytes, f.names) for f in report.findings]) == (16384 + 8192, found)

    def halved(x: Tensor, w: Tensor) -> Tensor:
        """The same with what is found mended by hand."""
        a = (x @ w)[:, :32].contiguous()
        return a.sin().sum() + a.t().cos().sum() + (a.t() @ a).sum() + (a.unsqueeze(0) ** 3).sum()

    mended = audit(halved, array("torch", 64, 64), array("torch", 64, 64))
    assert (mended.new_bytes, mended.findings) == (report.new_bytes - 8192 - 8192, [])


def test_a_storage_written_through_a_view_is_no_source() -> None:
    """Nothing says what is in it then, so nothing follows from it; nor from numbers that nobody wrote."""

    def fn(x: Tensor) -> Tensor:
        table = torch.zeros(4, 8)
        table[1:] = torch.rand(3, 8)
        return (x * (table * 2)).sum()

    assert audit(fn, array("torch", 4, 8)).findings == []
    assert audit(lambda x: (x * (torch.empty(4, 8) * 2)).sum(), array("torch", 4, 8)).findings == []


def test_the_device_is_named_and_what_a_gpu_keeps_otherwise() -> None:
    """With the file of PyTorch that chooses the kernel; an elementwise function keeps the same everywhere."""

    def fn(x: Tensor) -> Tensor:
        y = F.dropout(F.batch_norm(x, None, None, training=True), 0.5)[None]
        return F.scaled_dot_product_attention(y, y, y, dropout_p=0.1) + F.scaled_dot_product_attention(y, y, y)

    for is_concrete in (False, True):
        report = audit(fn, array("torch", 4, 8), is_concrete=is_concrete)
        assert f"{report.framework} on a CPU, before compilation" in str(report)
        assert [*report.trace.elsewhere] == ["batch_norm", "dropout", "attention"]
        assert "On a GPU batch_norm, dropout, attention may keep something else (ATen/" in str(report)
        assert [op["op"] for op in report.document()["unlike_on_gpu"]] == ["batch_norm", "dropout", "attention"]
    assert "On a GPU" not in str(audit(lambda x: x.sin().exp(), array("torch", 4, 8)))

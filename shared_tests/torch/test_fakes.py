"""Models that a file copies or converts once they are made: on fake tensors as in a run, and nothing is allocated."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residuals_lab import frameworks
from residuals_lab.audit import audit
from residuals_lab.errors import UsageError


class Tied(nn.Module):
    """An embedding whose weight is that of the last layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 16), nn.Linear(16, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(tokens)))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


TOKENS, ROWS, IMAGES = torch.arange(20), torch.ones(4, 10, 32), torch.ones(2, 3, 8, 8)
NARROW = torch.bfloat16
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "encoder, which copies its layer": (encoder, ROWS),
    "copy of copies, converted": (lambda: copy.deepcopy(encoder()).bfloat16(), ROWS.to(NARROW)),
    "converted": (lambda: nn.Sequential(nn.Linear(32, 32), nn.GELU()).to(NARROW), ROWS.to(NARROW)),
    "by type": (lambda: nn.Sequential(nn.Linear(32, 32), nn.GELU()).type(NARROW), ROWS.to(NARROW)),
    "converted twice": (lambda: nn.Sequential(nn.Linear(32, 32), nn.GELU()).half().double(), ROWS.double()),
    "converted and frozen": (lambda: nn.Linear(32, 32).requires_grad_(False).to(NARROW), ROWS.to(NARROW)),
    "tied, converted": (lambda: Tied().to(NARROW), TOKENS),
    "tied, copied, converted": (lambda: copy.deepcopy(Tied().half()).to(NARROW), TOKENS),
    "counter of batches, copied": (lambda: copy.deepcopy(convolutions()).bfloat16(), IMAGES.to(NARROW)),
    "channels last": (lambda: convolutions().to(memory_format=torch.channels_last), IMAGES),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(32, 32)).to(NARROW), ROWS.to(NARROW)),
    "with a gradient": (lambda: with_gradient().to(NARROW), ROWS.to(NARROW)),
}


def with_gradient() -> nn.Module:
    module = nn.Linear(32, 32)
    module.weight.grad = torch.zeros_like(module.weight)
    return module


def kept(make: Callable[[], nn.Module], x: Tensor, is_concrete: bool) -> list[tuple[Any, ...]]:
    """What an audit says that a model keeps."""
    x = x.clone().requires_grad_(x.is_floating_point())
    if is_concrete:
        report = audit(make(), x, is_concrete=True)
    else:
        with frameworks.load("torch").abstractly(), warnings.catch_warnings():
            warnings.simplefilter("error")
            report = audit(make(), x)
    return sorted((r.name, r.kind, r.is_new, r.storage_bytes, r.value.dtype, r.value.shape) for r in report.residuals)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_copied_and_converted_as_in_a_run(model: str) -> None:
    make, x = MODELS[model]
    assert kept(make, x, is_concrete=False) == kept(make, x, is_concrete=True)


def test_a_module_is_copied_within_the_forward() -> None:
    module = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32)).double()

    def fn(x: Tensor) -> Tensor:
        return copy.deepcopy(module).float()(x)

    x = torch.ones(4, 32, requires_grad=True)
    assert audit(fn, x).new_bytes == audit(fn, x, is_concrete=True).new_bytes > 0


def test_a_conversion_allocates_nothing_and_keeps_its_device() -> None:
    with frameworks.load("torch").abstractly():
        million = nn.Linear(10**6, 10**6, bias=False).to(NARROW)  # four TB, and two
        moved = copy.deepcopy(million).to("meta")
    assert (million.weight.dtype, million.weight.device.type) == (NARROW, "cpu")
    assert (moved.weight.device.type, million.weight is moved.weight) == ("meta", False)


def test_weights_that_are_drawn_again_until_they_fit() -> None:
    """As those of most vision transformers; wherever the bounds are."""
    real = nn.init.trunc_normal_(torch.empty(100), a=0.0, b=1.0)
    with frameworks.load("torch").abstractly():
        for bounds in ((-2.0, 2.0), (0.0, 0.1), (3.0, 4.0)):
            weight = nn.init.trunc_normal_(nn.Parameter(torch.empty(4, 4)), 0.0, 1.0, *bounds)
            assert weight.requires_grad
    assert 0 <= real.min() <= real.max() <= 1


def test_pytorch_is_afterwards_as_it_was() -> None:
    before = torch.utils.swap_tensors, Tensor.__deepcopy__, nn.init._no_grad_trunc_normal_
    with frameworks.load("torch").abstractly():
        now = torch.utils.swap_tensors, Tensor.__deepcopy__, nn.init._no_grad_trunc_normal_
        assert all(a is not b for a, b in zip(before, now, strict=True))
    assert before == (torch.utils.swap_tensors, Tensor.__deepcopy__, nn.init._no_grad_trunc_normal_)


def test_numbers_that_the_program_itself_spells_out_are_there() -> None:
    """As those by which a model drops paths, and those of positions; through views and writes, too."""

    def fn(x: Tensor) -> Tensor:
        at = torch.arange(8)
        at[None].view(-1).add_(1)
        rates = [rate.item() for rate in torch.linspace(0, 0.5, 3)]
        some = at[at > 4]
        assert (at.sum(), rates, torch.tensor([1, 2]).tolist()) == (36, [0, 0.25, 0.5], [1, 2])
        return F.dropout(x[:, : some.numel()].sin(), rates[1]) * some

    x = torch.ones(4, 8, requires_grad=True)
    assert audit(fn, x).new_bytes == audit(fn, x, is_concrete=True).new_bytes > 0


def test_numbers_that_depend_on_an_argument_or_a_draw_are_not() -> None:
    def written(x: Tensor) -> Tensor:
        at = torch.zeros(8)
        part = at[:4]
        part += x.detach()[:4]
        return x * at.sum().item()

    x = torch.ones(8, requires_grad=True)
    for fn in (written, lambda x: x * x.sum().item(), lambda x: x * torch.rand(4).sum().item()):
        with pytest.raises(UsageError, match="run it with --concrete"):
            audit(fn, x)
    with frameworks.load("torch").abstractly():
        zeros = frameworks.load("torch").shaped((8,), "float32")
        with pytest.raises(UsageError, match="run it with --concrete"):
            audit(lambda x: x * x.sum().item(), zeros)

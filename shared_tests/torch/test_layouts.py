"""What an operation makes has on fake tensors the strides that it has in a run, on which copies and so bytes depend."""

import itertools
import random
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import TestCase

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format
from torch.utils._pytree import tree_leaves, tree_map

from residuals_lab.audit import audit
from residuals_lab.frameworks.torch.fakes import Fakes, faking
from residuals_lab.frameworks.torch.layouts import view_strides

ORDERS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t,
    "transposed": lambda t: t.mT.contiguous().mT,
    "channels last": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
    "first axis last": lambda t: t.movedim(0, -1).contiguous().movedim(-1, 0),
}
OFTEN = """nn.functional.batch_norm nn.functional.max_pool1d nn.functional.max_unpool1d nn.functional.max_unpool2d
    copysign div xlogy special.xlog1py nn.functional.binary_cross_entropy nn.functional.channel_shuffle
    native_dropout_backward nn.functional.logsigmoid nn.functional.pad logaddexp logical_and roll pow ldexp
    nn.functional.unfold where add
    nn.functional.conv2d nn.functional.interpolate nn.functional.layer_norm nn.functional.group_norm softmax cat
    nn.functional.linear matmul nn.functional.scaled_dot_product_attention"""
SKIPPED = ("fft", "linalg", "signal", "sparse", "to_sparse")


def laid_out(t: Any) -> Any:
    """All of a tensor's layout on which anything later depends."""
    if not isinstance(t, Tensor) or t.layout is not torch.strided:
        return None
    strides = [s for n, s in zip(t.shape, t.stride(), strict=True) if n > 1] if t.numel() else []
    return t.shape, t.dtype, strides, t.numel() and suggest_memory_format(t)


def both(fn: Callable[..., Any], args: Any) -> tuple[list[Any], list[Any]]:
    """The layouts of the results of `fn(*args)`, in a run and on fake tensors."""
    mode = Fakes()
    with torch.random.fork_rng():
        real = fn(*args)
    fakes = tree_map(lambda a: mode.from_tensor(a) if isinstance(a, Tensor) else a, args)
    with faking(mode):
        fake = fn(*fakes)
    return [laid_out(t) for t in tree_leaves(real)], [laid_out(t) for t in tree_leaves(fake)]


def samples(whole: bool) -> Iterator[tuple[str, Callable[..., Any], Any]]:
    """Calls of the operations that PyTorch tests itself with."""
    sys.modules.setdefault("expecttest", SimpleNamespace(TestCase=TestCase))  # type: ignore[arg-type] # not used here
    from torch.testing._internal.common_methods_invocations import op_db

    for op in op_db:
        if torch.float32 in op.dtypes and not op.name.startswith(SKIPPED) and (whole or op.name in OFTEN.split()):
            for s in itertools.islice(op.sample_inputs("cpu", torch.float32, requires_grad=True), 6 if whole else 3):
                yield op.name, lambda i, a, k, op=op: op(i, *a, **k), (s.input, s.args, s.kwargs)


@pytest.mark.filterwarnings("ignore")
def test_operations_of_pytorch(request: pytest.FixtureRequest) -> None:
    """`--whole` takes all of them."""
    unlike, count = set(), 0
    for name, fn, args in samples(request.config.getoption("whole")):
        for order, arranged in ORDERS.items():

            def given(a: Any, arranged: Any = arranged) -> Any:
                is_dense = isinstance(a, Tensor) and a.dim() > 1 and a.layout is torch.strided
                return arranged(a).detach().requires_grad_(a.requires_grad) if is_dense else a

            try:
                run, fake = both(fn, tree_map(given, args))
            except Exception:  # a sample that cannot be arranged so, or is not for fake tensors
                continue
            count += 1
            if run != fake:
                unlike.add((name, order, str(run), str(fake)))
    assert not unlike
    assert count > 100


ONE = torch.ones
BATCH_OF_ONE: dict[str, Callable[[Tensor], Any]] = {
    "an image of attention": lambda x: x.flatten(2).mT.contiguous().mT.view(x.shape),
    "its convolution": lambda x: F.conv2d(x.flatten(2).mT.sin().mT.reshape(x.shape), ONE(2, x.shape[1], 1, 1)),
    "its norm": lambda x: F.group_norm(x.flatten(2).mT.clone().mT.view(x.shape), 1).sin(),
    "enlarged": lambda x: F.interpolate(x.unsqueeze(0).view(x.shape) * 2, scale_factor=2.0),
    "repeated": lambda x: x[:, :, None].expand(-1, -1, 2, -1, -1).reshape(x.shape[0], -1, *x.shape[2:]),
    "pooled": lambda x: F.max_pool2d(x.unflatten(0, (1, -1)).flatten(0, 1), 1).sin(),
    "dropped": lambda x: F.dropout(x.flatten(0, 1).unflatten(0, x.shape[:2]), 0.5),
    "attended": lambda x: F.scaled_dot_product_attention(x, x, x).transpose(1, 2).flatten(2),
}


@pytest.mark.parametrize("made", BATCH_OF_ONE)
def test_axes_of_length_one(made: str) -> None:
    for shape in ((1, 4, 3, 5), (2, 1, 3, 5), (2, 4, 1, 1)):
        for order in itertools.permutations(range(4)):
            x = torch.rand([shape[i] for i in order]).permute([order.index(i) for i in range(4)]).requires_grad_()
            run, fake = both(BATCH_OF_ONE[made], (x,))
            assert run == fake, (shape, x.stride())


IDS, BAGS = torch.tensor([3, 1, 4, 1, 5, 2]), torch.tensor([0, 3, 6])
ROOMY: dict[str, Callable[[Tensor], Tensor]] = {
    "a mean of squares": lambda x: F.mse_loss(x, x.sin()).sqrt(),
    "a sum of a loss": lambda x: F.smooth_l1_loss(x.exp(), x, reduction="sum").exp(),
    "a margin": lambda x: F.soft_margin_loss(x, x.detach().sign()).square(),
    "an entropy": lambda x: F.binary_cross_entropy(x.sigmoid(), x.detach().sigmoid()).square(),
    "a loss that is not reduced": lambda x: F.mse_loss(x, x + 1, reduction="none").sqrt(),
    "patches, put back": lambda x: F.fold(F.unfold(x[None, None], 3).sin(), (4, 6), 3).sin(),
    "patches with gaps": lambda x: F.unfold(x[None, None], 2, stride=4).exp().square(),
    "a window": lambda x: x * torch.hann_window(6),
    "a window of all": lambda x: x * torch.kaiser_window(6, periodic=False),
    "bags of rows": lambda x: F.embedding_bag(IDS, x.mT, BAGS[:2], mode="mean").sin(),
    "bags that are summed": lambda x: F.embedding_bag(IDS, x.mT.contiguous().bfloat16(), BAGS, mode="sum").sin(),
    "bags that end": lambda x: F.embedding_bag(IDS, x.mT, BAGS, mode="max", include_last_offset=True).sin(),
}  # fmt: skip


@pytest.mark.parametrize("made", ROOMY)
def test_memory_beyond_what_a_result_shows(made: str) -> None:
    """Twice, since PyTorch remembers what it makes of an operation on fake tensors, but not in how much memory."""
    x = torch.rand(4, 6, requires_grad=True)
    expected = audit(ROOMY[made], x, is_concrete=True).new_bytes
    assert [audit(ROOMY[made], x).new_bytes for _ in range(2)] == [expected] * 2
    assert not audit(ROOMY[made], x).trace.unsure


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_groups(dtype: torch.dtype) -> None:
    """Those of a mixture of experts, and those that its backward makes."""
    x, w = torch.rand(6, 8, dtype=dtype, requires_grad=True), torch.rand(2, 16, 8, dtype=dtype, requires_grad=True)

    def fn(x: Tensor, w: Tensor) -> Tensor:
        return F.grouped_mm(x, w.mT, offs=torch.tensor([2, 6], dtype=torch.int32)).sin()

    assert audit(fn, x, w).new_bytes == audit(fn, x, w, is_concrete=True).new_bytes
    made = audit(fn, x, w).trace
    assert [s.op for s in made.steps].count("_grouped_mm") == 3


def test_the_strides_of_a_view() -> None:
    """Those that PyTorch gives, for views of every kind, and None where it refuses one."""
    draw = random.Random(0)
    for _ in range(2000):
        shape = [draw.choice([1, 1, 2, 3, 4]) for _ in range(draw.randint(1, 5))]
        order = draw.sample(range(len(shape)), len(shape))
        x = torch.empty([shape[i] for i in order]).permute([order.index(i) for i in range(len(shape))])
        new = [*shape, 1]
        draw.shuffle(new) if draw.random() < 0.3 else None
        for _ in range(3):
            at = draw.randrange(len(new))
            if len(new) > at + 1:
                new[at : at + 2] = [new[at] * new[at + 1]]
            elif new[at] == 4:
                new[at:] = [2, 2]
        try:
            expected = x.view(new).stride()
        except RuntimeError:
            expected = None
        assert view_strides(x.shape, x.stride(), new) == expected, (x.shape, x.stride(), new)


class Projections(nn.Module):
    """Three projections of what a norm over the features gives, as for time series: each copies it, in a run."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layers = nn.BatchNorm1d(8), nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Any:
        h = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return sum(layer(h) for layer in self.layers)


class Attended(nn.Module):
    """Attention between convolutions, of which a batch of one is laid out as channels-last."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.qkv, self.last = nn.Conv2d(3, 8, 3), nn.Linear(8, 24), nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).sin()
        q, k, v = self.qkv(x.flatten(2).mT).chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v).mT.view(x.shape)
        return F.silu(self.last(F.silu(x + y))).flatten(1).sin()


@pytest.mark.parametrize(
    ("model", "shape", "expected"), [(Projections(), (4, 10, 8), 3904), (Attended(), (1, 3, 8, 8), None)]
)
def test_copies_of_what_is_laid_out_otherwise(model: nn.Module, shape: tuple[int, ...], expected: int | None) -> None:
    x = torch.rand(shape, requires_grad=True)
    found = audit(model, x).new_bytes
    assert found == audit(model, x, is_concrete=True).new_bytes
    assert expected in (None, found)

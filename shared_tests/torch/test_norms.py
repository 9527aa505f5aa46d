"""Norms that go through an array in blocks: right however it is cut, and their peak is that of F.*."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cases import Case
from residuals_lab.frameworks.torch.programs import peak_bytes
from residuals_torch import batch_norm, group_norm, layer_norm, rms_norm
from residuals_torch._lib import norms
from torch_calls import assert_right, cotangent, subsets, value_and_vjp

from . import test_eager, test_transforms

Norm = Callable[[Tensor, Tensor], Tensor]


def of_norms(choice: Callable[[Case], bool]) -> Callable[[Any], Any]:
    """Decorate a test to run on the cases of the norms that `choice` accepts."""

    def mark(test: Any) -> Any:
        test.only = lambda case: case.source.op.name.endswith("_norm") and choice(case)
        return test

    return mark


@pytest.fixture(params=[1, 7, 24])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """So small are the blocks: of one piece each, or of a few, where the last has fewer."""
    monkeypatch.setattr(norms, "block_size", lambda x: request.param)
    return int(request.param)


@of_norms(lambda case: case.dtype != "float16" and case.source.arrays["x"].size < 2000)
@pytest.mark.usefixtures("size")
def test_right_in_blocks(torch_case: Case) -> None:
    fn, g = torch_case.call.ours(torch_case.adapter), cotangent(torch_case)
    for args in subsets(torch_case):
        assert_right(torch_case, args, g, *value_and_vjp(fn, args, g))


@of_norms(lambda case: case.dtype in ("float64", "bfloat16") and case.novel)
@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("layout", ["transposed", "constant"])
def test_strides_in_blocks(torch_case: Case, layout: str) -> None:
    test_eager.test_strides_of_inputs(torch_case, layout)
    test_eager.test_strides_of_cotangent(torch_case, layout)


@of_norms(lambda case: case.dtype in ("float32", "bfloat16") and case.novel)
@pytest.mark.usefixtures("size")
def test_nothing_is_overwritten_in_blocks(torch_case: Case) -> None:
    """By no block, nor by the only one."""
    test_eager.test_nothing_is_overwritten(torch_case)


@of_norms(lambda case: case.first and case.dtype == "float64")
@pytest.mark.usefixtures("size")
def test_no_blocks_under_transformations(torch_case: Case) -> None:
    test_transforms.test_vmap_of_vjp(torch_case)
    test_transforms.test_vmap_of_vjp_without_gradients(torch_case)
    test_eager.test_gradgradcheck(torch_case)


def test_blocks_are_all_of_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each element once, in as few blocks as have room: of the last axes that are cut first."""
    x = torch.arange(2 * 6 * 5 * 4).reshape(2, 6, 5, 4)
    for cuts, room, count in (
        ({0: 2, 1: 6}, 40, 6),
        ({0: 2, 1: 3}, 100, 4),
        ({0: 2, 2: 5, 3: 4}, 60, 6),
        ({1: 6}, 1, 6),
    ):
        monkeypatch.setattr(norms, "block_size", lambda x, room=room: room)
        blocks = [norms._cut(x, x, block) for block in norms._blocks(x, cuts)]
        assert sorted(itertools.chain(*(b.flatten().tolist() for b in blocks))) == list(range(x.numel()))
        assert len(blocks) == count


OPTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Norm, Norm]] = {
    "layer_norm of two axes": (
        (2, 3, 5),
        (3, 5),
        lambda x, w: layer_norm(x, w, w),
        lambda x, w: F.layer_norm(x, (3, 5), w, w),
    ),
    "layer_norm of channels": (
        (2, 5, 3, 4),
        (5,),
        lambda x, w: layer_norm(x, w, w, axis=1),
        lambda x, w: F.layer_norm(x.movedim(1, -1), (5,), w, w).movedim(-1, 1),
    ),
    "rms_norm of two axes": ((2, 3, 5), (3, 5), rms_norm, lambda x, w: F.rms_norm(x, (3, 5), w, 1e-6)),
    "rms_norm of an offset": (
        (3, 5),
        (5,),
        lambda x, w: rms_norm(x, w, offset=1.0),
        lambda x, w: F.rms_norm(x, (5,), 1 + w, 1e-6),
    ),
    "rms_norm of channels": (
        (2, 5, 3),
        (5,),
        lambda x, w: rms_norm(x, w, axis=-2),
        lambda x, w: F.rms_norm(x.mT, (5,), w, 1e-6).mT,
    ),
    "group_norm of the last": (
        (2, 3, 5, 8),
        (8,),
        lambda x, w: group_norm(x, 4, w, w, axis=-1),
        lambda x, w: F.group_norm(x.movedim(-1, 1), 4, w, w).movedim(1, -1),
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_those_of_pytorch(name: str) -> None:
    """The option, or what its users write without it; so the truth in NumPy is right too."""
    shape, of_weight, *both = OPTIONS[name]
    x, w = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in (shape, of_weight))
    g = torch.randn(shape, dtype=torch.float64)
    ours, theirs = (value_and_vjp(fn, [x, w], g) for fn in both)
    torch.testing.assert_close(ours, theirs)


IMAGES = (16, 64, 48, 48)
NORMS: dict[str, tuple[tuple[int, ...], Norm, Norm]] = {
    "layer_norm": ((2048, 1024), lambda x, w: layer_norm(x, w, w), lambda x, w: F.layer_norm(x, w.shape, w, w)),
    "rms_norm": ((2048, 1024), rms_norm, lambda x, w: F.rms_norm(x, w.shape, w)),
    "group_norm": (IMAGES, lambda x, w: group_norm(x, 8, w, w), lambda x, w: F.group_norm(x, 8, w, w)),
    "group_norm of one image": (
        (1, 64, 192, 192),
        lambda x, w: group_norm(x, 32, w, w),
        lambda x, w: F.group_norm(x, 32, w, w),
    ),
    "batch_norm": (
        IMAGES,
        lambda x, w: batch_norm(x, w, w, training=True)[0],
        lambda x, w: F.batch_norm(x, None, None, w, w, training=True),
    ),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_the_peak_is_that_of_pytorchs_own(name: str, dtype: torch.dtype) -> None:
    """In twelve layers, where most of it is what they save, it is no higher; in one at most half as high again."""
    shape, *both = NORMS[name]
    x = torch.randn(shape).to(dtype).requires_grad_()
    # F.batch_norm takes no narrow weight on a CPU.
    w = torch.ones(shape[1], dtype=torch.float32 if name == "batch_norm" else dtype, requires_grad=True)

    def run(norm: Norm, layers: int) -> None:
        y = x
        for _ in range(layers):
            y = norm(y + 0.01, w)
        torch.autograd.grad(y.sum(), (x, w))

    for layers, share in ((1, 1.5), (12, 1.0)):
        ours, theirs = (peak_bytes(partial(run, norm, layers)) for norm in both)
        assert ours <= share * theirs, f"{layers} layers: {ours / theirs:.3f} of F's"

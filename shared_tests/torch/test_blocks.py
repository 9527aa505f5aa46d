"""An op in plain eager code works a block at a time: as right as on the whole, and with no more memory than `F.*`."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import residuals_torch as ours
from cases import Case, only
from draws import KEYS
from residuals_lab.frameworks.torch.programs import peak_bytes
from residuals_torch._lib import blocks
from residuals_torch._lib.blocks import in_blocks
from torch_calls import LAYOUTS, assert_right, cotangent, leaf, value_and_vjp

KEY = torch.from_numpy(KEYS[0])


def gated(fn: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: fn(x, x * 1.01)


# Each op beside what PyTorch has for it; of one tensor, and of its shape.
TWINS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "scaled": (gated(ours.scaled), gated(torch.mul)),
    "relu": (ours.relu, F.relu),
    "relu_bits": (ours.relu_bits, F.relu),
    "sigmoid": (ours.sigmoid, torch.sigmoid),
    "tanh": (ours.tanh, torch.tanh),
    "silu": (ours.silu, F.silu),
    "gelu": (ours.gelu, F.gelu),
    "gelu tanh": (partial(ours.gelu, approximate="tanh"), partial(F.gelu, approximate="tanh")),
    "swiglu": (gated(ours.swiglu), gated(lambda gate, up: F.silu(gate) * up)),
    "geglu": (gated(ours.geglu), gated(lambda gate, up: F.gelu(gate) * up)),
    "softmax": (ours.softmax, partial(F.softmax, dim=-1)),
    "softmax of columns": (partial(ours.softmax, axis=0), partial(F.softmax, dim=0)),
    "dropout": (lambda x: ours.dropout(x, 0.1), partial(F.dropout, p=0.1)),
    "dropout of a key": (lambda x: ours.dropout(x, 0.1, KEY), partial(F.dropout, p=0.1)),
    "dropout_remat": (lambda x: ours.dropout_remat(x, 0.1, KEY), partial(F.dropout, p=0.1)),
}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A block is larger where there are more threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("op", TWINS)
def test_the_peak_is_that_of_pytorch(op: str, dtype: torch.dtype) -> None:
    """A call's at most half as much again, and that of twelve layers no more but for what a block takes."""
    x = torch.randn(1024, 512, dtype=dtype, requires_grad=True)
    scratch = 8 * 4 * blocks.block_size(x)

    def run(fn: Callable[[Tensor], Tensor], layers: int) -> None:
        y = x
        for _ in range(layers):
            y = fn(y + 0.01)
        torch.autograd.grad(y.sum(), x)

    (call, twins_call), (chain, twins_chain) = (
        [peak_bytes(lambda fn=fn, layers=layers: run(fn, layers)) for fn in TWINS[op]] for layers in (1, 12)
    )
    assert call <= 1.5 * twins_call
    assert chain <= twins_chain + scratch


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "block_size", lambda a: 4)


@only(dtype=("float64", "bfloat16"), novel=True)
@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_small_blocks_are_as_right_as_the_whole(torch_case: Case, layout: str) -> None:
    fn, g = torch_case.call.ours(torch_case.adapter), LAYOUTS[layout](cotangent(torch_case))
    args = [leaf(LAYOUTS[layout](a), a) for a in torch_case.args]
    assert_right(torch_case, args, g, *value_and_vjp(fn, args, g))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("axis", [None, -1])
@pytest.mark.parametrize("shape", [(3, 5), (2, 17), (1, 9), (7,), (2, 3, 4), (5, 1, 1), (100, 1)])
def test_each_element_is_in_one_block(shape: tuple[int, ...], axis: int | None) -> None:
    """Whatever the strides are; a row along `axis` is not divided, and a result may be of another length there."""
    sizes: list[int] = []

    def fn(a: Tensor) -> tuple[Tensor, ...]:
        sizes.append(a.numel())
        return (2 * a, None) if axis is None else (2 * a, None, a.sum(axis, keepdim=True))

    x = torch.randn(shape)
    for laid in (x, x.movedim(0, -1).contiguous().movedim(-1, 0)):
        sizes.clear()
        with torch.no_grad():
            found = in_blocks(fn, laid, axis=axis)
        assert sum(sizes) == x.numel()
        assert max(sizes) <= (4 if axis is None else max(4, shape[axis]))
        torch.testing.assert_close(found, fn(x))
        assert found[0].stride() == torch.empty_like(laid).stride()


@pytest.mark.parametrize("size", [5, 100])  # at once, and in blocks
@pytest.mark.parametrize("op", TWINS)
def test_the_memory_format_is_kept(op: str, size: int) -> None:
    """As `F.*` keeps it: by the value, and by the gradient, of what is `channels_last`."""
    like = {"memory_format": torch.channels_last}
    x = torch.randn(2, 8, size, size).to(**like).requires_grad_()
    y = TWINS[op][0](x)
    (dx,) = torch.autograd.grad(y, x, torch.randn_like(y))
    assert y.is_contiguous(**like)
    assert dx.is_contiguous(**like)


# Where each operation has to be seen once: a derivative, a program or an axis of vmap is recorded, or a mode is on.
RECORDED: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Any]] = {
    "grad mode": lambda fn, x: fn(x.clone().requires_grad_()),
    "func.grad": lambda fn, x: torch.func.grad(lambda x: fn(x).sum())(x),
    "vmap": lambda fn, x: torch.func.vmap(fn)(torch.stack([x, x])),
    "compile": lambda fn, x: torch.compile(fn, fullgraph=True, backend="eager")(x),
    "jit.trace": lambda fn, x: torch.jit.trace(fn, x, check_trace=False),
    "meta": lambda fn, x: fn(x.to("meta")),
    "mode": lambda fn, x: within(Watch(), fn, x),
}


class Watch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def within(mode: TorchDispatchMode, fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with mode:
        return fn(x)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
@pytest.mark.usefixtures("small_blocks", "forgetful")
@pytest.mark.parametrize("how", [None, *RECORDED])
def test_the_whole_is_given_where_it_is_recorded(how: str | None) -> None:
    calls = []

    def double(a: Tensor) -> Tensor:
        calls.append("")
        return 2 * a

    def run(a: Tensor) -> Tensor:
        return in_blocks(double, a)

    with torch.set_grad_enabled(how in ("grad mode", "func.grad")):
        RECORDED[how](run, torch.ones(3, 5)) if how else run(torch.ones(3, 5))
    assert len(calls) == 1 if how else len(calls) > 3

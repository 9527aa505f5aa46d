"""What an op in PyTorch keeps, for how long, and in a way that autograd can see."""

import gc
import itertools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cases import Case, only, where
from torch_calls import assert_same, cotangent, subsets, value_and_vjp


def nodes(y: Tensor) -> list[Any]:
    """The nodes of the graph behind `y` that are `autograd.Function`s."""
    todo, found = [y.grad_fn], []
    while todo:
        node = todo.pop()
        if node is not None and node not in found:
            found.append(node)
            todo += [following for following, _ in node.next_functions]
    return [node for node in found if isinstance(node, torch.autograd.function.BackwardCFunction)]


def saved(fn: Any, args: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The value, and what saved-tensor hooks see."""
    seen: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t.detach()), lambda _: None):
        return fn(*args), seen


class Allocations(TorchDispatchMode):
    """Weak references to the memory of everything that operations make; another tensor of old memory is not made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[StorageWeakRef] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        old, new = (
            {StorageWeakRef(t.untyped_storage()) for t in tree_leaves(found) if isinstance(t, Tensor)}
            for found in ((args, kwargs), out)
        )
        self.made += new - old
        return out

    def alive(self, *besides: Tensor) -> int:
        """How much of it is alive, apart from these tensors' memory."""
        known = {StorageWeakRef(t.untyped_storage()).cdata for t in besides}
        return sum(not made.expired() for made in self.made if made.cdata not in known)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """What is part of a reference cycle stays alive."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.fixture(autouse=True)
def warm(torch_case: Case) -> None:
    """The first call of its kind imports modules of PyTorch, and an exception on the way keeps its frames alive."""
    fn = torch_case.call.ours(torch_case.adapter)
    with Allocations():
        value_and_vjp(fn, torch_case.args, cotangent(torch_case))
        with torch.no_grad():
            fn(*torch_case.args)


def spoilt(t: Tensor) -> Tensor:
    """Another value: NaN, the other bits, or another class."""
    if t.is_floating_point():
        return torch.full_like(t, torch.nan)
    if t.dtype.is_signed:
        return (t == 0).to(t.dtype)
    return torch.from_numpy(~t.cpu().numpy()).to(t.device)


def with_a_gradient(case: Case) -> bool:
    """Whether there is any gradient but 0, as there is not without elements, or where all labels are ignored."""
    call = case.source
    return case.dtype == "float64" and any(d.any() for d in call.vjp(np.ones_like(call.forward())).values())


@where(with_a_gradient)
def test_what_is_saved_is_read(torch_case: Case) -> None:
    """Whatever is frozen, each saved tensor matters to a gradient that is wanted: a frozen input costs no residual."""
    fn, g = torch_case.call.ours(torch_case.adapter), cotangent(torch_case)

    def gradients(args: list[Tensor], spoil: int | None = None) -> tuple[tuple[Tensor, ...], int]:
        count = itertools.count()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: (next(count), t.detach()), lambda kept: spoilt(kept[1]) if kept[0] == spoil else kept[1]
        ):
            return value_and_vjp(fn, args, g)[1], next(count)

    for args in subsets(torch_case):
        right, saves = gradients(args)
        if not any(d.any() for d in right):
            continue  # where all is hidden, nothing matters
        for i in range(saves):
            wrong, _ = gradients(args, spoil=i)
            assert any(not torch.equal(a, b) for a, b in zip(wrong, right, strict=True)), f"residual {i} of {saves}"
    is_identity = torch_case.call.static.get("rate") == 0  # dropout that drops nothing
    assert saves or is_identity, "if all want a gradient"


@only(dtype="float32")
def test_nothing_is_saved_for_nothing(torch_case: Case) -> None:
    fn = torch_case.call.ours(torch_case.adapter)
    with no_garbage_collection():
        for grad_mode, wanted in ((False, True), (True, False)):
            args = [a.requires_grad_(wanted and a.requires_grad) for a in torch_case.args]
            with torch.set_grad_enabled(grad_mode), Allocations() as allocations:
                y, seen = saved(fn, args)
            assert not seen
            assert not allocations.alive(y, *args)


@only(dtype="float32")
def test_no_tensor_hangs_on_the_graph(torch_case: Case) -> None:
    """Where hooks do not see it and an overwritten input goes unnoticed."""
    for args in subsets(torch_case):
        graph = nodes(torch_case.call.ours(torch_case.adapter)(*args))
        assert graph
        for node in graph:
            assert not [t for t in tree_leaves(vars(node)) if isinstance(t, Tensor)]


@only(dtype="float32")
def test_memory_dies_with_the_output(torch_case: Case) -> None:
    """At once, without the garbage collector."""
    with no_garbage_collection():
        for args in subsets(torch_case):
            with Allocations() as allocations:
                y = torch_case.call.ours(torch_case.adapter)(*args)
            graph = [weakref.ref(node) for node in nodes(y)]
            assert graph
            del y
            assert not allocations.alive(*args)
            assert not [node for node in graph if node() is not None]


@only(dtype="float32")
def test_memory_dies_with_the_backward(torch_case: Case) -> None:
    """Though the output lives on."""
    with no_garbage_collection():
        for args in subsets(torch_case):
            with Allocations() as allocations:
                y, gradients = value_and_vjp(torch_case.call.ours(torch_case.adapter), args, cotangent(torch_case))
            assert not allocations.alive(y, *args, *gradients)


@only(dtype="float32")
def test_memory_of_a_second_order_graph_dies(torch_case: Case) -> None:
    """What the backward has saved for its own backward too."""
    g = cotangent(torch_case).requires_grad_()
    with no_garbage_collection():
        args = torch_case.args
        with Allocations() as allocations:
            y = torch_case.call.ours(torch_case.adapter)(*args)
            gradients = torch.autograd.grad(y, [a for a in args if a.requires_grad], g, create_graph=True)
        del y, gradients
        assert not allocations.alive(g, *args)


@only(dtype="float32")
def test_overwritten_tensors_are_noticed(torch_case: Case) -> None:
    """Overwriting an input or output makes the backward raise if it is saved, and changes nothing if it is not."""
    fn, g = torch_case.call.ours(torch_case.adapter), cotangent(torch_case)
    _, right = value_and_vjp(fn, torch_case.args, g)
    for i in range(len(torch_case.args) + 1):
        args = torch_case.args
        wanted = [a for a in args if a.requires_grad]
        y, seen = saved(fn, args)
        is_saved = [*args, y][i].untyped_storage()._cdata in {t.untyped_storage()._cdata for t in seen}
        y = fn(*args)  # where hooks pack a tensor, autograd leaves its version to them
        victim = [*args, y][i]
        if not victim.is_floating_point():
            continue
        with torch.no_grad():
            victim.add_(1)
        if is_saved:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                torch.autograd.grad(y, wanted, g)
        else:
            assert_same(torch.autograd.grad(y, wanted, g), right)

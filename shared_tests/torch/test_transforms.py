"""An op under PyTorch's transformations: torch.func, vmap, checkpoint, autocast."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cases import Case, conditioning, only, where
from residuals_lab.ops.tolerance import FLOAT64_LIMIT, ULP, error, limit
from torch_calls import assert_right, cotangent, other, small, value_and_vjp


class Closed:
    """An op as a function of its differentiable arguments alone."""

    def __init__(self, case: Case, fn: Any = None) -> None:
        self.fn, self.all = fn or case.call.ours(case.adapter), case.args
        self.where = [i for i, a in enumerate(self.all) if a.requires_grad]

    @property
    def args(self) -> list[Tensor]:
        return [self.all[i].detach() for i in self.where]

    def __call__(self, *args: Tensor) -> Tensor:
        given = dict(zip(self.where, args, strict=True))
        return self.fn(*(given.get(i, a) for i, a in enumerate(self.all)))


def every(op: Closed) -> tuple[int, ...]:
    return tuple(range(len(op.where)))


def test_func_grad(torch_case: Case) -> None:
    op, g = Closed(torch_case), cotangent(torch_case)
    gradients = torch.func.grad(lambda *args: (g * op(*args)).sum(), every(op))(*op.args)
    assert_right(torch_case, op.all, g, op(*op.args), gradients)


@only(novel=True)
def test_func_vjp(torch_case: Case) -> None:
    op, g = Closed(torch_case), cotangent(torch_case)
    y, vjp = torch.func.vjp(op, *op.args)
    assert_right(torch_case, op.all, g, y, vjp(g))


def batched(case: Case, op: Closed) -> Iterator[tuple[tuple[int | None, ...], list[Tensor], list[list[Tensor]]]]:
    """Every combination of batch axes None and 0, in an op's first sample also 1.

    Gives the axes, the arguments that have them, and the arguments of each of the calls alone.
    """
    rows = [op.args, [other(a) for a in op.args], [a.flatten().roll(1).reshape(a.shape) for a in op.args]]
    choices = [(None, 0, 1) if a.ndim and case.first else (None, 0) for a in op.args]
    for axes in itertools.product(*choices):
        if any(axis is not None for axis in axes):
            columns = zip(axes, zip(*rows, strict=True), strict=True)
            args = [column[0] if axis is None else torch.stack(column, axis) for axis, column in columns]
            alone = [[rows[0][j] if axes[j] is None else a for j, a in enumerate(row)] for row in rows]
            yield axes, args, alone


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert error(found.detach().cpu().numpy(), expected.detach().cpu().numpy()) <= FLOAT64_LIMIT


@only(dtype="float64")
def test_vmap_of_vjp(torch_case: Case) -> None:
    """Value and gradients, each call with a cotangent of its own."""
    op, g = Closed(torch_case), cotangent(torch_case)
    gs = torch.stack([g, other(g), 2 * g])

    def value_and_gradients(g: Tensor, *args: Tensor) -> tuple[Tensor, ...]:
        y, vjp = torch.func.vjp(op, *args)
        return y, *vjp(g)

    for axes, args, alone in batched(torch_case, op):
        found = torch.func.vmap(value_and_gradients, (0, *axes))(gs, *args)
        rows = [value_and_gradients(g, *row) for g, row in zip(gs, alone, strict=True)]
        for together, each in zip(found, zip(*rows, strict=True), strict=True):
            assert_near(together, torch.stack(each))


@only(dtype="float64")
def test_vjp_of_vmap(torch_case: Case) -> None:
    """The other way round autograd differentiates the rule that vmap made."""
    op, g = Closed(torch_case), cotangent(torch_case)
    gs = torch.stack([g, other(g), 2 * g])
    for axes, args, alone in batched(torch_case, op):
        leaves = [a.clone().requires_grad_() for a in args]
        y, found = value_and_vjp(torch.func.vmap(op, axes), leaves, gs)
        rows = [torch.func.vjp(op, *row) for row in alone]
        gradients = zip(*(vjp(g) for g, (_, vjp) in zip(gs, rows, strict=True)), strict=True)
        assert_near(y, torch.stack([value for value, _ in rows]))
        for d, axis, each in zip(found, axes, gradients, strict=True):
            assert_near(d, torch.stack(each).sum(0) if axis is None else torch.stack(each, axis))


@only(first=True, dtype="float64")
def test_second_vjp_of_vmap(torch_case: Case) -> None:
    """Where an output that is a residual does not depend on what is mapped, all copies share its cotangent."""
    op, g = Closed(torch_case), cotangent(torch_case)
    gs = torch.stack([g, other(g), 2 * g])
    for axes, args, _ in batched(torch_case, op):
        if 1 in axes:
            continue

        def apart(*args: Tensor, axes: tuple[int | None, ...] = axes) -> Tensor:
            rows = [[a if axis is None else a[j] for a, axis in zip(args, axes, strict=True)] for j in range(3)]
            return torch.stack([op(*row) for row in rows])

        us = [other(a) for a in args]
        seconds = [
            torch_case.adapter.second_vjp(
                fn, [a.clone().requires_grad_() for a in args], gs.clone().requires_grad_(), us
            )
            for fn in (torch.func.vmap(op, axes), apart)
        ]
        for together, expected in zip(*seconds, strict=True):
            assert_near(together, expected)


@only(first=True, dtype="float64")
def test_vmap_of_vjp_without_gradients(torch_case: Case) -> None:
    """Nothing that has vmap's axis may be written into what has none."""
    op, g = Closed(torch_case), cotangent(torch_case)
    for axes, args, alone in batched(torch_case, op):
        if 1 not in axes:
            with torch.no_grad():
                found = torch.func.vmap(lambda *args: torch.func.vjp(op, *args)[1](g), axes)(*args)
                rows = [torch.func.vjp(op, *row)[1](g) for row in alone]
            for together, each in zip(found, zip(*rows, strict=True), strict=True):
                assert_near(together, torch.stack(each))


@where(small)
def test_jacobian_and_hessian(torch_case: Case) -> None:
    g, ours = cotangent(torch_case), Closed(torch_case)
    plain = Closed(torch_case, torch_case.call.plain(torch_case.adapter))
    jacobians = [torch.func.jacrev(op, every(op))(*op.args) for op in (ours, plain)]
    hessians = [
        torch.func.jacrev(torch.func.jacrev(lambda *args, op=op: (g * op(*args)).sum(), every(op)), every(op))(*op.args)
        for op in (ours, plain)
    ]
    for found, expected in (*zip(*jacobians, strict=True), *zip(*map(blocks, hessians), strict=True)):
        assert_near(found, expected)


def blocks(hessian: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """A matrix of blocks, row after row."""
    return [block for row in hessian for block in row]


# PyTorch's own decompositions for forward mode, compiled by its deprecated TorchScript when first asked for.
@only(dtype="float32")
def test_forward_mode_raises(torch_case: Case) -> None:
    op = Closed(torch_case)
    tangents = tuple(torch.ones_like(a) for a in op.args)
    with pytest.raises(RuntimeError, match="jvp"):
        torch.func.jvp(op, tuple(op.args), tangents)
    with pytest.raises(RuntimeError, match="jvp"):
        torch.func.vmap(lambda args: torch.func.jvp(op, args, tangents))(tuple(torch.stack([a, a]) for a in op.args))


@only(novel=True)
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoint(torch_case: Case, use_reentrant: bool) -> None:
    args, g = torch_case.args, cotangent(torch_case)

    def recomputed(*args: Tensor) -> Tensor:
        return checkpoint(torch_case.call.ours(torch_case.adapter), *args, use_reentrant=use_reentrant)

    assert_right(torch_case, args, g, *value_and_vjp_backward(recomputed, args, g))


def value_and_vjp_backward(fn: Any, args: Sequence[Tensor], g: Tensor) -> tuple[Tensor, list[Tensor]]:
    """By `backward`, since a reentrant checkpoint takes nothing else."""
    y = fn(*args)
    y.backward(g)
    return y, [a.grad for a in args if a.requires_grad]


@only(dtype="float32")
@pytest.mark.parametrize("backward_inside", [False, True])
def test_autocast(torch_case: Case, backward_inside: bool) -> None:
    """Only contractions run narrower: other ops keep their dtype, and the accuracy that plain maths has there.

    So does a loss, as PyTorch's own do: what runs narrower is what goes into it.
    """
    adapter, call, device = torch_case.adapter, torch_case.call, torch_case.args[0].device.type
    results = []
    for fn in (call.ours(adapter), call.plain(adapter)):
        args = torch_case.args
        with torch.autocast(device, torch.bfloat16):
            y = fn(*args)
        g = cotangent(torch_case).to(y.dtype)
        with torch.autocast(device, torch.bfloat16, enabled=backward_inside):
            gradients = torch.autograd.grad(y, [a for a in args if a.requires_grad], g)
        assert [d.dtype for d in gradients] == [a.dtype for a in args if a.requires_grad]
        results.append((y, *gradients))
    ours, plain = results
    steps = call.trace(adapter, call.ours(adapter), args).steps
    contracts = any(step.cost == "contraction" for step in steps)
    is_loss = "reduction" in call.static
    assert ours[0].dtype == (torch.bfloat16 if contracts and not is_loss else args[0].dtype)
    truth = call.vjp(adapter.to_numpy(g))
    truth[""] = call.forward()
    wanted = ["", *(name for name, a in zip(call.arrays, args, strict=True) if a.requires_grad)]
    for name, found, autodiff in zip(wanted, ours, plain, strict=True):
        true = truth[name]
        allowed = limit("bfloat16" if contracts else adapter.dtype_of(ours[0]), error(adapter.to_numpy(autodiff), true))
        off = error(adapter.to_numpy(found), true)
        if off > allowed and contracts:  # a contraction rounds its arguments: once each, but for autodiff it may cancel
            allowed += conditioning(call, adapter.to_numpy(g), ULP["bfloat16"])[name]
        assert off <= allowed

"""What only PyTorch asks of an op: finite differences, frozen inputs, strides, purity; all eagerly."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import Tensor

import residuals_torch
from cases import Case, only, where
from residuals_lab.ops.tolerance import FLOAT64_LIMIT, error, limit
from torch_calls import LAYOUTS, assert_right, assert_same, cotangent, leaf, other, small, subsets, value_and_vjp


@where(small)
def test_gradcheck(torch_case: Case) -> None:
    fn = torch_case.call.ours(torch_case.adapter)
    assert torch.autograd.gradcheck(fn, torch_case.args, check_batched_grad=True, check_undefined_grad=True)


@where(small)
def test_gradgradcheck(torch_case: Case) -> None:
    fn = torch_case.call.ours(torch_case.adapter)
    assert torch.autograd.gradgradcheck(fn, torch_case.args, check_undefined_grad=True)


def test_every_subset_of_inputs_requiring_grad(torch_case: Case) -> None:
    fn, g = torch_case.call.ours(torch_case.adapter), cotangent(torch_case)
    for args in subsets(torch_case):
        assert_right(torch_case, args, g, *value_and_vjp(fn, args, g))


@only(dtype="float64")
def test_asking_for_one_gradient_of_several(torch_case: Case) -> None:
    """The backward is told what is asked for now, and leaves out the rest."""
    fn, g, adapter = torch_case.call.ours(torch_case.adapter), cotangent(torch_case), torch_case.adapter
    truth = torch_case.call.vjp(adapter.to_numpy(g))
    for i, name in enumerate(torch_case.call.arrays):
        args = torch_case.args
        (d,) = torch.autograd.grad(fn(*args), args[i], g)
        assert error(adapter.to_numpy(d), truth[name]) <= FLOAT64_LIMIT


def test_nothing_to_differentiate(torch_case: Case) -> None:
    adapter, call = torch_case.adapter, torch_case.call
    truth, (plain_y, _) = call.forward(), torch_case.autodiff
    for grad_mode, args in (
        (torch.no_grad(), torch_case.args),
        (torch.inference_mode(), torch_case.args),
        (nullcontext(), [a.detach() for a in torch_case.args]),
    ):
        with grad_mode:
            y = call.ours(adapter)(*args)
        assert not y.requires_grad
        assert error(adapter.to_numpy(y), truth) <= limit(torch_case.dtype, error(plain_y, truth))


@only(dtype=("float64", "bfloat16"), novel=True)  # one that ops take as it is, and one that they widen
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_of_inputs(torch_case: Case, layout: str) -> None:
    fn, g = torch_case.call.ours(torch_case.adapter), cotangent(torch_case)
    args = [leaf(LAYOUTS[layout](a), a) for a in torch_case.args]
    assert_right(torch_case, args, g, *value_and_vjp(fn, args, g))


@only(dtype=("float64", "bfloat16"), novel=True)  # one that ops take as it is, and one that they widen
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_of_cotangent(torch_case: Case, layout: str) -> None:
    fn, args, g = torch_case.call.ours(torch_case.adapter), torch_case.args, LAYOUTS[layout](cotangent(torch_case))
    assert_right(torch_case, args, g, *value_and_vjp(fn, args, g))


@only(novel=True)
def test_nothing_is_overwritten(torch_case: Case) -> None:
    """Neither inputs nor cotangent nor residuals, seen in their values and in their version."""
    args, g = torch_case.args, cotangent(torch_case)
    kept = [*args, g]
    before = [(a, a.detach().clone(), a._version) for a in kept]

    def pack(t: Tensor) -> Tensor:
        held = t.detach()  # shares memory and version; an output that its own node holds would be a cycle
        before.append((held, held.clone(), held._version))
        return held

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = torch_case.call.ours(torch_case.adapter)(*args)
    for _ in range(2):
        for now, value, version in before:
            assert_same(now.detach(), value)
            assert now._version == version
        torch.autograd.grad(y, [a for a in args if a.requires_grad], g, retain_graph=True)
    for now, value, version in before:
        assert_same(now.detach(), value)
        assert now._version == version


@only(novel=True)
def test_backward_again_with_another_cotangent(torch_case: Case) -> None:
    args, g = torch_case.args, cotangent(torch_case)
    wanted = [a for a in args if a.requires_grad]
    y = torch_case.call.ours(torch_case.adapter)(*args)
    for g_now in (g, other(g), g):
        gradients = torch.autograd.grad(y, wanted, g_now, retain_graph=True)
        assert_right(torch_case, args, g_now, y, gradients)


@only(novel=True)
def test_two_forwards_then_two_backwards(torch_case: Case) -> None:
    fn, g = torch_case.call.ours(torch_case.adapter), cotangent(torch_case)
    calls = [torch_case.args, [other(a) if a.requires_grad else a for a in torch_case.args]]
    ys = [fn(*args) for args in calls]
    for args, y in zip(calls, ys, strict=True):
        gradients = torch.autograd.grad(y, [a for a in args if a.requires_grad], g)
        assert_right(torch_case, args, g, y, gradients)


@only(novel=True)
def test_backward_is_deterministic(torch_case: Case) -> None:
    args, g = torch_case.args, cotangent(torch_case)
    wanted = [a for a in args if a.requires_grad]
    y = torch_case.call.ours(torch_case.adapter)(*args)
    first, *more = [torch.autograd.grad(y, wanted, g, retain_graph=True) for _ in range(3)]
    for again in more:
        assert_same(again, first)


@only(dtype="float32")
def test_global_random_state_is_untouched(torch_case: Case) -> None:
    """By the forward too: a sample has a truth, so it draws nothing from the global generator."""
    args, g = torch_case.args, cotangent(torch_case)
    states = torch.get_rng_state, *([torch.cuda.get_rng_state] if torch_case.device == "gpu" else [])
    before = [state() for state in states]
    value_and_vjp(torch_case.call.ours(torch_case.adapter), args, g)
    assert_same([state() for state in states], before)


# Of ops that save what they give: PyTorch's twins of those that save less, as `F.dropout`, refuse as ours do.
PENALIZED = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softmax": partial(torch.softmax, dim=-1),
}


@pytest.mark.parametrize("op", PENALIZED)
def test_a_gradient_penalty_on_an_op_alone(op: str) -> None:
    """A gradient that depends on x at no point, as that of relu, is still differentiated: to zero."""
    found = []
    for fn in (getattr(residuals_torch, op), PENALIZED[op]):
        x = torch.tensor([[-1.0, 0.0, 2.0, torch.nan]], dtype=torch.float64, requires_grad=True)
        (dx,) = torch.autograd.grad(fn(x).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(dx.square().sum(), x))
    torch.testing.assert_close(*found, equal_nan=True)

"""batch_norm beside PyTorch's own: the same results and gradients, and no more bytes."""

from collections.abc import Callable

import torch
from torch import Tensor

from batch_norms import batch_norms, called, per_channel
from cases import Case
from residuals_lab.ops.tolerance import error, rounding


def has_channels(case: Case) -> bool:
    """Without any, `torch.nn.functional.batch_norm` raises an IndexError, and ours returns what is empty."""
    return case.source.arrays["x"].shape[1] > 0 and case.dtype in ("float64", "float32")


def statistics(case: Case) -> list[Tensor]:
    """Both, as PyTorch's own wants them; fresh ones, since it overwrites them."""
    constants = dict(zip(case.call.constants, case.call.constants_in(case.adapter), strict=True))
    absent = case.args[0].new_ones(case.call.arrays["x"].shape[1]).detach()
    return [constants.get(name, absent.clone()) for name in ("running_mean", "running_var")]


def theirs(case: Case, running: list[Tensor]) -> Callable[..., Tensor]:
    def fn(*args: Tensor) -> Tensor:
        given = dict(zip(case.call.arrays, args, strict=True))
        static = case.call.static
        return torch.nn.functional.batch_norm(
            given["x"], *running, given.get("weight"), given.get("bias"), *static.values()
        )

    return fn


@batch_norms(has_channels)
def test_results_and_gradients_are_those_of_pytorch(torch_case: Case) -> None:
    """The statistics, of which ours may be None, are overwritten there."""
    case, running = torch_case, statistics(torch_case)
    expected = case.vjp(theirs(case, running))
    y, gradients = case.vjp(case.call.ours(case.adapter))
    truth = case.call.vjp(case.g)
    _, *found = called(case, [*case.args, *case.call.constants_in(case.adapter)])
    for a, b in zip(found, running, strict=True):
        assert a is None or error(a.numpy(force=True), b.numpy(force=True)) <= 2 * rounding(case.dtype)
    if case.dtype == "float64":
        assert error(y, expected[0]) <= 2 * rounding(case.dtype)
        for name in truth:
            assert error(gradients[name], expected[1][name]) <= 2 * rounding(case.dtype)


@batch_norms(has_channels)
def test_never_more_bytes_than_pytorch(torch_case: Case) -> None:
    """Per-channel statistics apart, whichever inputs are frozen."""
    case = torch_case
    for frozen in range(len(case.args) + 1):
        args = [a.requires_grad_(i != frozen) for i, a in enumerate(case.args)]
        if any(a.requires_grad for a in args):
            ours = case.call.trace(case.adapter, case.call.ours(case.adapter), args)
            own = case.adapter.trace(theirs(case, statistics(case)), args, list(case.call.arrays))
            assert ours.saved_bytes <= own.saved_bytes + per_channel(case)
            assert sum(r.storage_bytes for r in ours.residuals if r.kind == "new") <= per_channel(case)


@batch_norms(lambda case: case.dtype == "float32")
def test_the_running_statistics_require_no_gradient(torch_case: Case) -> None:
    """Whatever those given do; and evaluation returns memory that it was given."""
    given = [a.requires_grad_() for a in torch_case.call.constants_in(torch_case.adapter)]
    y, *found = called(torch_case, [*torch_case.args, *given])
    assert y.requires_grad
    assert not any(a.requires_grad for a in found if a is not None)
    if not torch_case.call.static["training"]:
        assert [a.data_ptr() for a in found] == [a.data_ptr() for a in given]


@batch_norms(lambda case: case.first and case.dtype == "float32")
def test_under_vmap_they_require_none_either(torch_case: Case) -> None:
    given = [*torch_case.args, *torch_case.call.constants_in(torch_case.adapter)]
    y, *found = torch.func.vmap(lambda *given: called(torch_case, given))(*(torch.stack([a, 2 * a]) for a in given))
    assert [a.requires_grad for a in (y, *found)] == [True, False, False]
    for i in range(2):
        _, *alone = called(torch_case, [(i + 1) * a for a in given])
        for a, b in zip(found, alone, strict=True):
            assert error(a[i].numpy(force=True), b.numpy(force=True)) <= rounding("float32")

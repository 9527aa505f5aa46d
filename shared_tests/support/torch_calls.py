"""A case in PyTorch: its value and gradients, whether they are right, and other arguments that are as good."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cases import Case, conditioning
from residuals_lab.ops.tolerance import FLOAT64_LIMIT, ULP, error, limit

Fn = Callable[..., Tensor]


def value_and_vjp(fn: Fn, args: Sequence[Tensor], g: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The value, and the gradients of the arguments that require one."""
    y = fn(*args)
    return y, torch.autograd.grad(y, [a for a in args if a.requires_grad], g)


def assert_right(case: Case, args: Sequence[Tensor], g: Tensor, y: Tensor, gradients: Sequence[Tensor]) -> None:
    """`y` and the gradients agree with the truth at these very arguments and this cotangent."""
    adapter = case.adapter
    arrays = {
        name: adapter.to_numpy(a) if a.is_floating_point() else a.cpu().numpy()
        for name, a in zip(case.call.arrays, args, strict=True)
    }
    call = replace(case.call, arrays=arrays)
    truth = call.vjp(adapter.to_numpy(g))
    wanted = ["", *(name for name, a in zip(arrays, args, strict=True) if a.requires_grad)]
    truth[""] = call.forward()
    plain_y, plain = value_and_vjp(call.plain(adapter), [leaf(a.contiguous(), a) for a in args], g.contiguous())
    for name, found, autodiff in zip(wanted, (y, *gradients), (plain_y, *plain), strict=True):
        true = truth[name]
        if np.abs(true).max(initial=0.0) < FLOAT64_LIMIT:  # all of it cancels: what float64 leaves is no scale
            true = np.zeros_like(true)
        allowed = limit(case.dtype, error(adapter.to_numpy(autodiff), true))
        off = error(adapter.to_numpy(found), true)
        if off > allowed and true.size < truth[""].size:  # a sum, in which all may cancel: for autodiff by chance
            allowed += 4 * conditioning(call, adapter.to_numpy(g), ULP[case.dtype])[name]
        assert off <= allowed


def leaf(a: Tensor, like: Tensor) -> Tensor:
    """`a` cut from the graph, which requires a gradient if `like` does."""
    return a.detach().requires_grad_(like.requires_grad)


def cotangent(case: Case) -> Tensor:
    return case.array(case.g).detach()


def other(a: Tensor) -> Tensor:
    """A tensor like `a` with its values in another order, so that it is as good an argument."""
    return leaf(a.flatten().flip(0).reshape(a.shape), a)


def subsets(case: Case) -> Iterator[list[Tensor]]:
    """The case's arguments, with every choice of those that require a gradient; the last one is all."""
    differentiable = [i for i, a in enumerate(case.args) if a.requires_grad]
    for count in range(1, len(differentiable) + 1):
        for wanted in itertools.combinations(differentiable, count):
            yield [a.requires_grad_(i in wanted) for i, a in enumerate(case.args)]


def assert_same(found: Any, expected: Any) -> None:
    """Equal to the last bit, NaN included."""
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def small(case: Case) -> bool:
    """Finite differences want few elements (gradcheck takes no array without any), and values of ordinary size."""
    arrays = case.source.arrays.values()
    is_small = case.dtype == "float64" and all(0 < a.size <= 30 and abs(a).max() < 100 for a in arrays)
    return is_small and bool(np.isfinite(case.source.forward()).all())


def reversed_axes(a: Tensor) -> tuple[int, ...]:
    return tuple(range(a.ndim))[::-1]


# The same values, or some of them, in memory that is laid out otherwise.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "every-second": lambda a: torch.stack([a, a.neg() if a.is_floating_point() else a], -1)[..., 0],
    "offset": lambda a: torch.stack([a, a])[1],
    "slice": lambda a: torch.cat([a, a], -1)[..., : a.shape[-1]] if a.ndim else a,
    "transposed": lambda a: a.permute(reversed_axes(a)).contiguous().permute(reversed_axes(a)),
    "repeated": lambda a: a[:1].expand_as(a) if a.ndim else a,
    "constant": lambda a: a.flatten()[0].expand_as(a) if a.numel() else a,
}

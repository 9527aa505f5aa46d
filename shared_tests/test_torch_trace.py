"""What the PyTorch adapter sees: values through writes and views, and what is held where no hook looks."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from residuals_lab import frameworks
from residuals_lab.trace import Trace

SHARED = torch.linspace(0.1, 0.8, 8)


def trace(fn: Any) -> Trace:
    return frameworks.load("torch").trace(fn, [torch.linspace(0.1, 0.8, 8, requires_grad=True)], ["x"])


def held(fn: Any) -> list[tuple[str, str, int]]:
    return [(r.name, r.kind, r.nbytes) for r in trace(fn).crossing]


def recomputing(fn: Any) -> Any:
    return lambda x: checkpoint(fn, x, use_reentrant=False)


def test_a_value_is_followed_through_writes() -> None:
    assert held(lambda x: x.sin().mul_(2).exp_().sum()) == [("x", "input", 32), ("exp", "new", 32)]
    assert trace(recomputing(lambda x: x.sin().exp_().sum())).recomputed() == ["exp", "sin"]


def test_a_written_value_is_another_value() -> None:
    """The second sine is of another x, so it is no repetition of the first."""

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x.clone())
            return x.sin().sum()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return g * x.mul_(2).sin()

    assert trace(Twice.apply).recomputed() == []


def test_a_view_holds_what_it_is_a_view_of() -> None:
    assert held(lambda x: (x[::2].sin() * 2).sum()) == [("x", "view", 32)]
    (residual,) = trace(lambda x: x.exp()[:2].sin().sum()).crossing[:1]
    assert (residual.name, residual.nbytes) == ("exp", 32)


def test_one_storage_counts_once() -> None:
    assert trace(lambda x: (x.sin() * x * x).sum()).saved_bytes == 32 * 3
    assert trace(lambda x: (x.view(2, 4) * x.view(2, 4)).sum()).saved_bytes == 32


class Box:
    """An object that a ctx can carry."""

    def __init__(self, t: Tensor) -> None:
        self.t = t


def hiding(keep: Any, fetch: Any) -> Any:
    class Hiding(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            keep(ctx, x.cos())
            return x.sin().sum()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g * fetch(ctx)

    return Hiding.apply


STATE: dict[str, Tensor] = {}
HIDING = {
    "attribute": (lambda ctx, t: setattr(ctx, "t", t), lambda ctx: ctx.t),
    "list": (lambda ctx, t: setattr(ctx, "ts", [t]), lambda ctx: ctx.ts[0]),
    "closure": (lambda ctx, t: setattr(ctx, "f", lambda: t), lambda ctx: ctx.f()),
    "object": (lambda ctx, t: setattr(ctx, "box", Box(t)), lambda ctx: ctx.box.t),
    "module": (lambda ctx, t: STATE.update(t=t), lambda ctx: STATE["t"]),
}


@pytest.mark.parametrize("place", HIDING)
def test_a_hidden_tensor_is_found(place: str) -> None:
    name = {"attribute": "t", "list": "ts"}.get(place, "cos")  # on ctx it has one
    assert held(hiding(*HIDING[place])) == [(name, "hidden", 32)]


def test_what_is_closed_over_is_somebody_elses() -> None:
    assert held(lambda x: (SHARED * x).sum()) == [("closed over", "parameter", 32)]


def test_no_operation_is_passed_over() -> None:
    """One that is in no class counts as costly; cheap ones are told if asked for."""
    again = trace(recomputing(lambda x: (torch.erfinv(x) * torch.special.i0(x)).sum()))
    assert again.recomputed() == ["erfinv", "i0"]
    assert "mul" in trace(recomputing(lambda x: (x * 2).sin().cos().sum())).recomputed(cheap=True)


def test_two_draws_are_two_values() -> None:
    assert trace(lambda x: (x * torch.rand(8) * torch.rand(8)).sum()).recomputed() == []


def test_an_infinite_exponent() -> None:
    assert [name for name, _, _ in held(lambda x: (x ** float("inf")).sum())] == ["x"]


def test_what_is_raised_is_not_logged_as_well() -> None:
    """PyTorch's own log of a shape that does not fit has a traceback, in front of the one line that says it."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    logger.addHandler(handler)
    try:
        with pytest.raises(RuntimeError, match="same reduction dim"):
            frameworks.load("torch").trace(
                lambda x: x @ x, [torch.ones(4, 8, requires_grad=True)], ["x"], is_abstract=True
            )
    finally:
        logger.removeHandler(handler)
    assert (records, logger.disabled) == ([], False)

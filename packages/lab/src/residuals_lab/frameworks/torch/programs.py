"""Programs to be timed: in PyTorch eagerly, or under `torch.compile`."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import residuals_torch
from residuals_lab.frameworks.program import Program
from residuals_lab.frameworks.torch.tracing import tensors


def program(
    fn: Callable[..., Any], args: Sequence[Tensor], differentiated: Sequence[int], is_compiled: bool
) -> Program:
    is_gpu = any(a.is_cuda for a in args)
    wanted = [args[i] for i in differentiated]
    outs = _differentiable(fn(*args))
    cotangents = [torch.randn_like(y) for y in outs]
    if is_compiled:
        torch._dynamo.reset()
    run = torch.compile(fn, fullgraph=True, dynamic=False) if is_compiled else fn

    def gradients(function: Callable[..., Any]) -> Sequence[Tensor | None]:
        ys = _differentiable(function(*args))
        return torch.autograd.grad(ys, wanted, cotangents, allow_unused=True)

    def done() -> None:
        if is_gpu:
            torch.cuda.synchronize()

    def forward() -> None:
        run(*args)
        done()

    def both() -> None:
        gradients(run)
        done()

    def flops() -> int:
        with FlopCounterMode(display=False) as counted:
            gradients(fn)
        return int(counted.get_total_flops())

    moved = [*args, *outs, *cotangents, *(a for a in gradients(fn) if a is not None)]
    return Program(forward, both, lambda: peak_bytes(both, is_gpu), flops, sum(a.nbytes for a in moved))


def _differentiable(result: Any) -> list[Tensor]:
    return [y for y in tensors(result) if y.requires_grad]


def peak_bytes(run: Callable[[], Any], is_gpu: bool = False) -> int:
    """The most bytes that a run holds at one time, beyond those that are there before, as PyTorch counts them.

    A run that compiles something holds more: let it run once before.
    """
    if is_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    # Without this level the profiler says on stderr that it starts, and that it stops.
    silent = patch.dict(os.environ, {"KINETO_LOG_LEVEL": "99"})
    with silent, profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiled:
        run()
    found: list[tuple[int, int]] = []
    events = [*profiled.profiler.kineto_results.experimental_event_tree()]
    while events:
        event = events.pop()
        if event.tag == _EventType.Allocation:
            found.append((event.start_time_ns, event.extra_fields.alloc_size))
        events += event.children
    return max(accumulate((n for _, n in sorted(found, key=lambda event: event[0])), initial=0))


@contextmanager
def fused() -> Iterator[None]:
    residuals_torch.fuse()
    try:
        yield
    finally:
        residuals_torch.unfuse()


def copier(a: Tensor) -> Callable[[], None]:
    """Copies an array: the memory's speed."""

    def run() -> None:
        a.detach().clone()
        if a.is_cuda:
            torch.cuda.synchronize()

    return run


def multiplier(a: Tensor) -> Callable[[], None]:
    """Multiplies a square matrix by itself: the matrix unit's speed."""

    def run() -> None:
        a.detach() @ a.detach()
        if a.is_cuda:
            torch.cuda.synchronize()

    return run

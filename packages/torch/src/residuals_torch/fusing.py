"""Ops of which an eager call runs in one pass: `fuse()` compiles what is inside of each rule; `unfuse()` takes it back.

An eager program reads and writes memory once for each operation, and a rule that is spelled out has several. Fused, the
forward and the backward of a rule are one compiled function each, behind the same `torch.autograd.Function`: what is
saved stays what it is, and hooks see it. Where somebody records or transforms what a rule does, for a second
derivative, under `torch.func`, `vmap`, `torch.compile`, in a mode that sees each operation, or for a subclass such as
DTensor, the rule runs as it is written.
"""

import types
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from inspect import getmembers, isclass
from pkgutil import iter_modules
from typing import Any

import torch
from torch import Tensor

from residuals_torch import ops
from residuals_torch._lib.blocks import is_plain

_written: dict[Any, tuple[Any, Any]] = {}  # a rule that is fused → its forward and its backward as they are written


def fuse() -> None:
    """From now on, and in all threads of this process, an eager call of an op runs compiled, forward and backward.

    The first call of its kind takes seconds, for it compiles; the first of another size once more, for all sizes.
    Numbers that are drawn are those that are drawn without it. Does nothing if the ops are fused already.

    Warns:
        RuntimeWarning: once, where nothing can be compiled; the ops then stay as they are.
    """
    if _written:
        return
    try:
        _compiled(lambda x: x + 1)(torch.zeros(8))
    except Exception as problem:  # of any kind: what is missing, a compiler or a header, shows in many ways
        why = next(iter(str(problem).strip().splitlines()), type(problem).__name__)
        message = f"residuals_torch.fuse: cannot compile here, the ops stay as they are: {why}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return
    for rule in _rules():
        _written[rule] = rule.forward, rule.backward
        rule.forward = staticmethod(_fused_forward(rule))
        rule.backward = staticmethod(_fused_backward(rule))


def unfuse() -> None:
    """Let every op run as it is written again."""
    for rule, (forward, backward) in _written.items():
        rule.forward, rule.backward = staticmethod(forward), staticmethod(backward)
    _written.clear()


def _rules() -> Iterator[Any]:
    """The rule of each op."""
    for found in iter_modules(ops.__path__):
        module = import_module(f"residuals_torch.ops.{found.name}")
        for _, rule in getmembers(module, isclass):
            if issubclass(rule, torch.autograd.Function) and rule.__module__ == module.__name__:
                yield rule


def _compiled(fn: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(fn, options={"fallback_random": True})  # which draws what an eager program draws


def _fused_forward(rule: Any) -> Callable[..., Any]:
    written = rule.forward
    compiled = _compiled(written)

    def forward(*args: Any) -> Any:
        return compiled(*map(_detached, args)) if _is_plain(args) else written(*args)

    return forward


class _Context:
    """What a backward reads of its `ctx`."""

    def __init__(self, saved: tuple[Any, ...], needed: tuple[bool, ...], others: dict[str, Any]) -> None:
        self.saved_tensors, self.needs_input_grad = saved, needed
        for name, value in others.items():
            setattr(self, name, value)


def _fused_backward(rule: Any) -> Callable[..., Any]:
    written = rule.backward

    def run(saved: tuple[Any, ...], needed: tuple[bool, ...], others: dict[str, Any], gs: tuple[Any, ...]) -> Any:
        return written(_Context(saved, needed, others), *gs)

    # With code of its own: PyTorch counts the compilations of each code.
    code = run.__code__.replace(co_name=f"backward of {rule.__name__}")
    own = types.FunctionType(code, run.__globals__, rule.__name__, None, run.__closure__)
    compiled = _compiled(own)

    def backward(ctx: Any, *gs: Any) -> Any:
        saved = ctx.saved_tensors
        if not _is_plain((*saved, *gs)):
            return written(ctx, *gs)
        saved, gs = (tuple(map(_detached, given)) for given in (saved, gs))
        return compiled(saved, ctx.needs_input_grad, dict(vars(ctx)), gs)

    return backward


def _detached(a: Any) -> Any:
    """A tensor without its place in the graph: compiled code is the same whether or not somebody differentiates it."""
    return a.detach() if isinstance(a, Tensor) else a


def _is_plain(given: tuple[Any, ...]) -> bool:
    tensors = [a for a in given if isinstance(a, Tensor)]
    return bool(tensors) and is_plain(*tensors)

"""The modes of PyTorch that an op has to know: torch.compile, vmap, whether a derivative is recorded, autocast."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._guards import active_fake_mode
from torch.jit._trace import is_tracing

from residuals_torch._lib.dtypes import to_dtype


def is_ordinary(a: Tensor) -> bool:
    """Whether the values of `a` can be read and its memory written: not in compiled code, under vmap, on the meta
    device or where operations give fake tensors, nor in a DTensor or another subclass.
    """
    if torch.compiler.is_compiling() or type(a) not in (Tensor, torch.nn.Parameter) or a.is_meta:
        return False
    if active_fake_mode() is not None:
        return False
    wrapped = torch._C._functorch
    return not (wrapped.is_functorch_wrapped_tensor(a) or wrapped.is_legacy_batchedtensor(a))


def is_program() -> bool:
    """Whether a program is compiled or exported, with no transformation of `torch.func` in it."""
    functorch = torch._C._functorch
    # By `isinstance`, since the compiler takes a None from here for an object.
    return torch.compiler.is_compiling() and not isinstance(functorch.peek_interpreter_stack(), functorch.CInterpreter)


def may_write(*given: Tensor | None) -> bool:
    """Whether what is computed from these may be overwritten: no derivative is recorded, and vmap adds no axis.

    Not where a program is recorded either: what it writes over would be missing to a derivative of the program.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or is_tracing():
        return False
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return not any(a is not None and wrapped(a) for a in given)


def is_distributed(a: Tensor) -> bool:
    """Whether `a` is a DTensor: it has no gather along a sharded axis, and no `exp_` of a sum that is pending."""
    return hasattr(a, "device_mesh")


def is_batched(a: Tensor) -> bool:
    """Whether `a` has an axis of vmap; False in compiled code."""
    return not torch.compiler.is_compiling() and bool(torch._C._functorch.is_batchedtensor(a))


def batched_alike(y: Tensor, *saved: Tensor | None) -> tuple[Any, ...]:
    """The outputs of a rule: y, and the residuals, which get an axis of vmap if y has one.

    A residual without that axis would be shared by all copies of the rule. In a second derivative it has a cotangent,
    and PyTorch hands the whole of that to each copy and sums their results: too much by the number of copies.
    """
    if not is_batched(y):
        return y, *saved
    zero = torch.sum(y.detach().reshape(-1)[:0])
    return y, *(None if a is None else a + to_dtype(zero, a.dtype) for a in saved)


def is_autocast(kind: str) -> bool:
    """Whether autocast is on for this kind of device.

    `torch.amp.is_autocast_available` would know of other devices without autocast, but PyTorch 2.11 cannot compile it.
    """
    return kind != "meta" and torch.is_autocast_enabled(kind)


def autocasted(*inputs: Any) -> tuple[Any, ...]:
    """The inputs as a contraction takes them: where autocast is on, in its dtype, but for None and float64."""
    kind = inputs[0].device.type
    if not is_autocast(kind):
        return inputs
    dtype = torch.get_autocast_dtype(kind)
    return tuple(a if a is None or a.dtype == torch.float64 else to_dtype(a, dtype) for a in inputs)


def without_autocast(a: Tensor) -> AbstractContextManager[Any]:
    """A context with autocast off on the device of `a`; the meta device has none."""
    kind = a.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)

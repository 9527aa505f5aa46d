"""What PyTorch is doing while an op runs: compiling, mapping, differentiating, casting."""

from typing import Any

import torch
from torch import Tensor

from residuals_torch._lib.dtypes import to_dtype


def is_ordinary(a: Tensor) -> bool:
    """Whether values are there to be read, memory to be written: not compiled, under vmap, in a DTensor or the like."""
    if torch.compiler.is_compiling() or type(a) not in (Tensor, torch.nn.Parameter) or a.is_meta:
        return False
    wrapped = torch._C._functorch
    return not (wrapped.is_functorch_wrapped_tensor(a) or wrapped.is_legacy_batchedtensor(a))


def may_write(*given: Tensor | None) -> bool:
    """Whether what is made of these may be written over: nothing differentiates it, nor has it an axis of vmap."""
    if torch.is_grad_enabled():
        return False
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return torch.compiler.is_compiling() or not any(a is not None and wrapped(a) for a in given)


def is_batched(a: Tensor) -> bool:
    """Whether `a` has an axis of vmap, outside of a compiler, that is."""
    return not torch.compiler.is_compiling() and bool(torch._C._functorch.is_batchedtensor(a))


def alike(y: Tensor, *saved: Tensor | None) -> tuple[Any, ...]:
    """The outputs of a rule, those that are residuals with the axis of vmap where y has it.

    One without it would be shared by all copies. PyTorch gives its cotangent, which a second derivative has, to each of
    them, and sums what they make of it: so many times too much.
    """
    if not is_batched(y):
        return y, *saved
    zero = torch.sum(y.detach().reshape(-1)[:0])
    return y, *(None if a is None else a + to_dtype(zero, a.dtype) for a in saved)


def autocasted(*inputs: Any) -> tuple[Any, ...]:
    """These as a contraction takes them: in autocast's dtype where it is on, unless they are None or float64."""
    kind = inputs[0].device.type
    if not torch.is_autocast_enabled(kind):
        return inputs
    dtype = torch.get_autocast_dtype(kind)
    return tuple(a if a is None or a.dtype == torch.float64 else to_dtype(a, dtype) for a in inputs)

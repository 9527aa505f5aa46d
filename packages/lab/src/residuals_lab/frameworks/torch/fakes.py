"""Fake tensors have no numbers and take no memory; here they can be copied and converted as usual, in models too."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily


class Fakes(FakeTensorMode):
    """The mode in which tensors are fake. A deep copy of a tensor, which copies its mode too, stays in this one."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Fakes":
        return self


@contextmanager
def faking(mode: FakeTensorMode) -> Iterator[None]:
    """A context in which tensors, those of modules too, are fake ones of this mode: without numbers or memory.

    `copy.deepcopy(module)`, `module.to(torch.bfloat16)` and the like work on them.
    """
    logger = logging.getLogger("torch._subclasses.fake_tensor")  # it logs, with a traceback, what is raised too
    was_disabled, logger.disabled = logger.disabled, True
    swap, deepcopy = torch.utils.swap_tensors, Tensor.__deepcopy__

    def give(old: Tensor, new: Tensor) -> None:
        # PyTorch refuses to swap tensors with weak references to them, and the mode has such to those that it made.
        if isinstance(old, FakeTensor) and isinstance(new, FakeTensor):
            old.__dict__, new.__dict__ = new.__dict__, old.__dict__
            torch._C._swap_tensor_impl(old, new)
        else:
            swap(old, new)

    def copied(t: Tensor, memo: dict[int, Any]) -> Any:
        if not isinstance(t, FakeTensor):  # it was there before
            with torch.no_grad():
                made = t.clone().requires_grad_(t.requires_grad)
            return memo.setdefault(id(t), made)
        if t.constant is not None:  # its number is known, as that of a counter of batches
            with unset_fake_temporarily():
                memo[id(t.constant)] = t.constant.clone()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
            return deepcopy(t, memo)

    torch.utils.swap_tensors, Tensor.__deepcopy__ = give, copied  # type: ignore[method-assign]
    try:
        with mode:
            yield
    finally:
        logger.disabled = was_disabled
        torch.utils.swap_tensors, Tensor.__deepcopy__ = swap, deepcopy  # type: ignore[method-assign]

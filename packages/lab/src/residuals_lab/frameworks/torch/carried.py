"""The tensors that a function holds itself: the parameters and buffers of the modules that run in it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from residuals_lab.frameworks.torch.modules import Modules
from residuals_lab.trace import Input


def carried(fn: Callable[..., Any], args: Sequence[Tensor]) -> list[Input]:
    """By one run of the forward, after which modules and random generators are as they were."""
    modules = Modules(is_abstract=False)
    with torch.random.fork_rng(range(torch.cuda.device_count())), modules:
        fn(*args)
    return [Input(name, t, "parameter" if t.requires_grad else "frozen") for name, t in modules.parameters.items()]


@contextmanager
def cast(arrays: Sequence[Tensor], dtype: str, device: str) -> Iterator[None]:
    """The tensors themselves stay, and with them every reference to them; their numbers are copies."""
    before = [(t, t.data) for t in arrays]
    wide = {True: torch.complex128 if dtype == "float64" else torch.complex64, False: getattr(torch, dtype)}
    try:
        for t, data in before:
            t.data = data.to("cuda" if device == "gpu" else device, wide[t.is_complex()], copy=True)
        yield
    finally:
        for t, data in before:
            t.data = data

"""The check's calls in PyTorch."""

import torch
from torch._dynamo.utils import counters

from residuals_lab.frameworks.torch import calls


def test_every_function_is_compiled_however_many_there_were() -> None:
    """Dynamo compiles one code object eight times, then no more: a tenth check in one process would see nothing."""

    def times(k: int) -> calls.Function:
        return lambda x: x * k

    before = counters["stats"]["unique_graphs"]
    for k in range(10):
        calls.TRANSFORMS["torch.compile"](times(k))(torch.ones(k + 1))
    assert counters["stats"]["unique_graphs"] - before == 10

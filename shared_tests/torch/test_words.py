"""What the adapter takes for names of PyTorch's operations: there are such operations."""

import pytest
import torch

import residuals_torch
from residuals_lab.frameworks.torch import layouts, words

OPERATIONS = (torch.ops.aten, getattr(torch.ops, residuals_torch.__name__))
TABLES = (
    words.OPS, words.IDENTITIES, words.COPIES, words.LIKES, words.UNLIKE_FAKES, words.UNLIKE_ON_GPU, layouts.NORMS,
    layouts.AS_A_SUM, layouts.AS_THEY_ARE, layouts.CHANNELS_LAST_STAYS, layouts.CONTIGUOUS, layouts.RATHER_CONTIGUOUS,
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(set().union(*TABLES)))
def test_pytorch_has_an_operation_of_this_name(name: str) -> None:
    assert any(hasattr(operations, name.partition(".")[0]) for operations in OPERATIONS)

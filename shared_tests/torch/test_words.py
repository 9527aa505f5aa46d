"""What the adapter takes for names of PyTorch's operations: there are such operations."""

import pytest
import torch

import residuals_torch
from residuals_lab.frameworks import torch_words

OPERATIONS = (torch.ops.aten, getattr(torch.ops, residuals_torch.__name__))
TABLES = (
    torch_words.OPS, torch_words.IDENTITIES, torch_words.COPIES, torch_words.LIKES, torch_words.UNLIKE_FAKES,
    torch_words.NORMS,
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(set().union(*TABLES)))
def test_pytorch_has_an_operation_of_this_name(name: str) -> None:
    assert any(hasattr(operations, name) for operations in OPERATIONS)

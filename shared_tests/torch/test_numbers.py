"""Python numbers that an op takes: what the framework's own operator makes of each, in each dtype; nested tensors."""

import pytest
import torch

from cases import Case, only
from residuals_torch import scaled

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3,), ()], ids=str)
@pytest.mark.parametrize("scale", [1e5, 1e-8, 1e-3, 0.1, 3, -2, 1e39, 1e300])
def test_a_number_is_not_rounded_to_the_dtype_of_x(scale: float, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.tensor([1e-3, 0.5, 6e4] if shape else 0.5, dtype=dtype, requires_grad=True)
    y, expected = scaled(x, scale), x * scale
    g = torch.tensor([2.0, -0.3, 1.0] if shape else 2.0, dtype=dtype)
    assert y.dtype == dtype
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(a, x, g)[0] for a in (y, expected)), rtol=0, atol=0)


@only(dtype="float32", first=True)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("layout", [torch.jagged, torch.strided], ids=str)
def test_a_nested_tensor_is_refused_by_the_forward(torch_case: Case, layout: torch.layout) -> None:
    """Not by the backward, where one of PyTorch's operations would not take it."""
    rows = [torch.randn(n, 8) for n in (3, 5)]
    for i, name in enumerate(torch_case.call.arrays):
        args = torch_case.args
        args[i] = torch.nested.nested_tensor(rows, layout=layout, requires_grad=True)
        expected = f"^{name}: expected a tensor of one shape, got a nested tensor; give its values, or pad it$"
        with pytest.raises(TypeError, match=expected):
            torch_case.call.ours(torch_case.adapter)(*args)

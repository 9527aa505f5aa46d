"""Numbers that an op takes: what the framework's own operator makes of each, in each dtype; as tensors; nested ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import rms_norm as their_rms_norm

from cases import Case, only
from residuals_torch import attention, batch_norm, dropout, dropout_remat, group_norm, layer_norm, rms_norm, scaled

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


def running(x: Tensor, momentum: Any) -> Tensor:
    """Both running statistics after one batch."""
    ones = torch.ones_like(x[0, :, 0])
    _, mean, var = batch_norm(x, running_mean=ones, running_var=2 * ones, training=True, momentum=momentum)
    return torch.stack([mean, var])


NUMBERS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "layer_norm eps": lambda x, number: layer_norm(x, eps=number),
    "rms_norm eps": lambda x, number: rms_norm(x, eps=number),
    "group_norm eps": lambda x, number: group_norm(x, 2, eps=number),
    "batch_norm eps": lambda x, number: batch_norm(x, training=True, eps=number)[0],
    "batch_norm momentum": running,
}
KEY = torch.tensor([1, 2], dtype=torch.uint32)
RATES: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "dropout rate": lambda x, rate: dropout(x, rate, KEY),
    "dropout_remat rate": lambda x, rate: dropout_remat(x, rate, KEY),
    "attention dropout": lambda x, rate: attention(x, x, x, dropout=rate, key=KEY),
}
X = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(5))


def value_and_gradient(fn: Callable[..., Tensor], x: Tensor, number: Any) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = fn(x, number)
    return y, torch.autograd.grad(y, x, y.detach().cos())[0] if y.requires_grad else torch.zeros_like(x)


@pytest.mark.parametrize("what", NUMBERS | RATES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_number_may_be_a_tensor(what: str, dtype: torch.dtype) -> None:
    """Also one that would have a gradient: it is a constant to the derivative, and is not kept."""
    fn, learned = (NUMBERS | RATES)[what], torch.tensor(0.3, dtype=dtype, requires_grad=True)
    expected = value_and_gradient(fn, X, learned.item())
    for number in (learned, learned.detach()):
        torch.testing.assert_close(value_and_gradient(fn, X, number), expected, rtol=0, atol=0)
    assert not fn(X, learned).requires_grad


@pytest.mark.parametrize("what", RATES)
def test_a_rate_is_read(what: str) -> None:
    """It is part of the program: no tensor where the values of tensors are not there."""
    name = what.split()[1]
    message = f"^{name}: expected a Python number where tensors cannot be read, as in compiled code, got float32"
    with pytest.raises(TypeError, match=message):
        torch.vmap(RATES[what], in_dims=(None, 0))(X, torch.tensor([0.3, 0.6]))
    with pytest.raises(ValueError, match=f"^{name}: expected a number from 0 to 1, got 2.0$"):
        RATES[what](X, torch.tensor(2.0))


@pytest.mark.parametrize("what", NUMBERS)
def test_one_compilation_for_all_numbers(what: str) -> None:
    compiled = torch.compile(NUMBERS[what], fullgraph=True, backend="aot_eager")
    for number, stance in ((0.3, "default"), (0.6, "fail_on_recompile")):
        with torch.compiler.set_stance(stance):
            found = value_and_gradient(compiled, X, torch.tensor(number, requires_grad=True))
        torch.testing.assert_close(found, value_and_gradient(NUMBERS[what], X, number))


@pytest.mark.parametrize("what", NUMBERS)
@pytest.mark.parametrize("axis", [None, 0])
def test_a_number_may_be_mapped(what: str, axis: int | None) -> None:
    """One of each copy, or the same x for several."""
    fn, xs, numbers = NUMBERS[what], torch.stack([X, 2 * X]).double(), torch.tensor([0.3, 0.6])
    given = xs if axis == 0 else xs[0]
    apart = [fn(xs[i if axis == 0 else 0], number.item()) for i, number in enumerate(numbers)]
    torch.testing.assert_close(torch.func.vmap(fn, (axis, 0))(given, numbers), torch.stack(apart), rtol=1e-6, atol=1e-6)

    def gradient(x: Tensor, number: Tensor) -> Tensor:
        return torch.func.grad(lambda x: fn(x, number).cos().sum())(x)

    apart = [gradient(xs[i if axis == 0 else 0], number) for i, number in enumerate(numbers)]
    torch.testing.assert_close(torch.func.vmap(gradient, (axis, 0))(given, numbers), torch.stack(apart))


@pytest.mark.parametrize("what", NUMBERS)
def test_a_tensor_that_is_no_number_is_named(what: str) -> None:
    name = what.split()[-1]
    for bad, came in ((torch.ones(3), r"float32\[3\]"), (torch.tensor(1), r"int64\[\]"), ("1", "str")):
        with pytest.raises(TypeError, match=rf"^{name}: expected a Python number, got {came}$"):
            NUMBERS[what](X, bad)
    with pytest.raises(ValueError, match=rf"^{name}: expected a number .*, got -1.0$"):
        NUMBERS[what](X, torch.tensor(-1.0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_eps_is_that_of_the_dtype(dtype: torch.dtype) -> None:
    x = (1e-4 * X).to(dtype)
    torch.testing.assert_close(rms_norm(x, eps=None), their_rms_norm(x, x.shape[-1:]))


def test_the_mean_of_all_batches() -> None:
    """As a module of PyTorch with momentum None has it, by the number that it counts."""
    module = torch.nn.BatchNorm1d(4, momentum=None)
    mean, var, count = torch.zeros(4), torch.ones(4), torch.tensor(0)
    for i in range(3):
        module(X + i)
        count += 1
        _, mean, var = batch_norm(X + i, running_mean=mean, running_var=var, training=True, momentum=1 / count)
    torch.testing.assert_close((mean, var), (module.running_mean, module.running_var))

"""An op under torch.compile. Inductor takes seconds, so most samples stop at AOTAutograd, where a rule is traced."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

import residuals_torch
from cases import Case, only, where
from torch_calls import assert_right, cotangent, value_and_vjp

pytestmark = [
    pytest.mark.usefixtures("forgetful"),
    # Inductor recommends faster and coarser matmuls on a GPU.
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores for float32 matrix multiplication available"),
]


def compile_and_check(case: Case, backend: str) -> None:
    args, g = case.args, cotangent(case)
    compiled = torch.compile(case.call.ours(case.adapter), fullgraph=True, backend=backend)
    assert_right(case, args, g, *value_and_vjp(compiled, args, g))


@only(first=True, dtype="float32")
def test_inductor(torch_case: Case) -> None:
    compile_and_check(torch_case, "inductor")


def wide_or_special(case: Case) -> bool:
    """An op's first sample in bfloat16, and in float64 those without elements or without an optional array; the first
    in float32 and float64 are Inductor's, and those of dynamic sizes.
    """
    arrays = case.source.arrays
    special = len(arrays) < len(case.source.op.arrays) or not all(a.size for a in arrays.values())
    return (case.first and case.dtype == "bfloat16") or (special and case.dtype == "float64")


@where(wide_or_special)
def test_compiled(torch_case: Case) -> None:
    compile_and_check(torch_case, "aot_eager")


class Unchanged(TorchFunctionMode):
    """Collects the names of the functions that return their own argument, those that write over it aside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        if isinstance(result, torch.Tensor) and any(result is a for a in args) and not func.__name__.endswith("_"):
            self.names.append(func.__name__)
        return result


def test_functions_that_return_their_argument_are_noticed() -> None:
    a = torch.ones(2)
    with Unchanged() as unchanged:
        a.to(a.dtype).contiguous().exp().add_(1).to(torch.float64)
    assert unchanged.names == ["to", "contiguous"]


@where(lambda case: case.telling)
def test_no_function_returns_its_argument(torch_case: Case) -> None:
    """PyTorch 2.11 compiles a rule whose forward ends in a call that returns its argument to a gradient of zero."""
    args, g, fn = torch_case.args, cotangent(torch_case), torch_case.call.ours(torch_case.adapter)
    with Unchanged() as unchanged:
        value_and_vjp(fn, args, g)
    assert not unchanged.names


def longer(case: Case) -> Case:
    """The case with its first array twice as long in its leading axis, and all that shares the axis."""
    call = case.source
    leading, *_ = next(iter(call.op.arrays.values())).split()

    def twice(name: str, a: np.ndarray) -> np.ndarray:
        letters = call.op.axes_of(name).split()
        return np.concatenate([a, a], letters.index(leading)) if leading in letters else a

    arrays, constants = ({name: twice(name, a) for name, a in of.items()} for of in (call.arrays, call.constants))
    return replace(case, source=replace(call, arrays=arrays, constants=constants))


@only(first=True, dtype="float64")
def test_dynamic_sizes(torch_case: Case) -> None:
    """The second size runs what was compiled for the first."""
    call, n = torch_case.call, len(torch_case.call.arrays)
    compiled = torch.compile(call.ours(torch_case.adapter), fullgraph=True, backend="aot_eager", dynamic=True)
    for case, stance in ((torch_case, "default"), (longer(torch_case), "fail_on_recompile")):
        args, g = [*case.args, *case.call.constants_in(case.adapter)], cotangent(case)
        with torch.compiler.set_stance(stance):
            assert_right(case, args[:n], g, *value_and_vjp(compiled, args, g))


@pytest.mark.parametrize("options", [{}, {"window": 3, "softcap": 2.0}], ids=["all-keys", "window-softcap"])
@pytest.mark.parametrize("is_causal", [True, "lower_right"])
@pytest.mark.parametrize("op", ["attention", "flash_attention"])
def test_one_compilation_for_all_lengths(op: str, is_causal: bool | str, options: dict[str, Any]) -> None:
    """Also for those of several blocks; the gradients of each are right."""
    fn = partial(getattr(residuals_torch, op), is_causal=is_causal, **options)
    compiled = torch.compile(fn, fullgraph=True, backend="aot_eager", dynamic=True)
    for length, stance in ((6, "default"), (7, "fail_on_recompile"), (300, "fail_on_recompile")):
        args = [torch.randn(1, 2, length, 4, dtype=torch.float64, requires_grad=True) for _ in "qkv"]
        g = torch.randn_like(args[0])
        with torch.compiler.set_stance(stance):
            found = value_and_vjp(compiled, args, g)
        torch.testing.assert_close(found, value_and_vjp(fn, args, g))


@pytest.mark.parametrize("needs", ["qkvb", "v", "kb"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiled_flash_attention_saves_what_it_says(needs: str, dtype: torch.dtype) -> None:
    """As the eager one: not the output in narrow dtypes, nor v where it alone needs a gradient."""
    shapes = {"q": (2, 6, 4), "k": (2, 7, 4), "v": (2, 7, 5), "b": (2, 6, 7)}
    args = [torch.randn(shape, dtype=dtype).requires_grad_(name in needs) for name, shape in shapes.items()]

    def saved_and_gradients(fn: Any) -> tuple[list[str], list[torch.Tensor]]:
        saved: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda a: saved.append(a) or a, lambda a: a):
            y = fn(*args)
        gradients = torch.autograd.grad(y.sum(), [a for a in args if a.requires_grad])
        return sorted(f"{a.dtype}{list(a.shape)}" for a in saved), list(gradients)

    def flash(q: Any, k: Any, v: Any, bias: Any) -> Any:
        return residuals_torch.flash_attention(q, k, v, bias=bias)

    saved, gradients = saved_and_gradients(torch.compile(flash, fullgraph=True, backend="aot_eager"))
    expected, expected_gradients = saved_and_gradients(flash)
    assert saved == expected
    torch.testing.assert_close(gradients, expected_gradients)


@only(dtype="float32", first=True)
def test_compiled_double_backward_raises(torch_case: Case) -> None:
    args, g = torch_case.args, cotangent(torch_case).requires_grad_()
    compiled = torch.compile(torch_case.call.ours(torch_case.adapter), fullgraph=True, backend="aot_eager")
    gradients = torch.autograd.grad(compiled(*args), [a for a in args if a.requires_grad], g, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        torch.autograd.grad(gradients, [g, *args], [torch.ones_like(d) for d in gradients], allow_unused=True)


@only(dtype="float64", first=True)
def test_compiled_func_grad(torch_case: Case) -> None:
    args, g = torch_case.args, cotangent(torch_case)
    fn = torch_case.call.ours(torch_case.adapter)
    wanted = tuple(i for i, a in enumerate(args) if a.requires_grad)
    gradient = torch.func.grad(lambda *args: (g * fn(*args)).sum(), wanted)
    compiled = torch.compile(gradient, fullgraph=True, backend="aot_eager")
    assert_right(torch_case, args, g, fn(*args), compiled(*(a.detach() for a in args)))

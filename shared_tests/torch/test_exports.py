"""An op where no numbers are, or not yet: on the meta device, exported, traced to be run later."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.export import Dim

from cases import Case, only, where
from residuals_torch import (
    attention,
    cross_entropy,
    dropout,
    dropout_remat,
    flash_attention,
    layer_norm,
    qk_norm_attention,
    relu_bits,
)
from torch_calls import assert_right, cotangent, value_and_vjp

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),  # what depends on a size is of this size alone
]


@only(first=True, dtype=("float32", "bfloat16"))
def test_meta(torch_case: Case) -> None:
    """Shapes and dtypes of the value and of the gradients, with no memory."""
    call, adapter = torch_case.call, torch_case.adapter
    args = [a.detach().to("meta").requires_grad_(a.requires_grad) for a in torch_case.args]
    constants = [a.to("meta") for a in call.constants_in(adapter)]
    expected = call.ours(adapter)(*torch_case.args)
    y = call.ours(adapter)(*args, *constants)
    gradients = torch.autograd.grad(y, args, torch.empty_like(y))
    assert (y.shape, y.dtype, y.is_meta) == (expected.shape, expected.dtype, True)
    assert [(d.shape, d.dtype) for d in gradients] == [(a.shape, a.dtype) for a in args]


def named(fn: Any, count: int) -> Any:
    """`fn` with that many parameters, each of a name: an export and `torch.fx` name their inputs so."""
    names = ", ".join(f"a{i}" for i in range(count))
    scope: dict[str, Any] = {"fn": fn}
    exec(f"def forward({names}): return fn({names})", scope)
    return scope["forward"]


class Module(torch.nn.Module):
    """A call as a module, which is what an export takes."""

    def __init__(self, fn: Any, count: int) -> None:
        super().__init__()
        self.forward = named(fn, count)


@only(first=True, dtype="float64")
def test_an_exported_program_can_be_trained(torch_case: Case) -> None:
    args, g = torch_case.args, cotangent(torch_case)
    module = Module(torch_case.call.ours(torch_case.adapter), len(args))
    program = torch.export.export(module, tuple(a.detach() for a in args)).module()
    assert_right(torch_case, args, g, *value_and_vjp(program, args, g))


@pytest.mark.parametrize("op", [attention, flash_attention, qk_norm_attention], ids=lambda op: op.__name__)
def test_a_traced_program_can_be_trained(op: Any) -> None:
    static = {"scale": 3.0} if op is qk_norm_attention else {}
    q, k, v = (torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in "qkv")
    traced = torch.jit.trace(lambda *a: op(*a, **static), (q, k, v), check_trace=False)
    expected = torch.autograd.grad(op(q, k, v, **static).square().sum(), (q, k, v))
    torch.testing.assert_close(torch.autograd.grad(traced(q, k, v).square().sum(), (q, k, v)), expected)


@pytest.mark.parametrize("op", [dropout, dropout_remat], ids=lambda op: op.__name__)
def test_a_traced_mask_is_that_of_its_key(op: Any) -> None:
    x, key = torch.ones(3, 4), torch.tensor([1, 2], dtype=torch.uint32)
    traced = torch.jit.trace(lambda x: op(x, 0.5, key), (x,), check_trace=False)
    torch.testing.assert_close(traced(2 * x), op(2 * x, 0.5, key))


# Ops that `torch.fx` records; another one joins with its name.
RECORDED_BY_FX = {"x_sin_x", "scaled", "relu", "relu_bits", "sigmoid", "tanh", "silu", "gelu", "swiglu", "geglu"}
RECORDED_BY_FX |= {"softmax", "dropout", "dropout_remat", "attention", "flash_attention", "qk_norm_attention"}
RECORDED_BY_FX |= {"layer_norm", "rms_norm", "batch_norm", "group_norm", "cross_entropy", "linear_cross_entropy"}


@where(lambda case: case.first and case.dtype == "float64" and case.source.op.name in RECORDED_BY_FX)
def test_fx_records_an_op_as_one_call(torch_case: Case) -> None:
    """The program can be copied, and be trained."""
    args, g = torch_case.args, cotangent(torch_case)
    recorded = torch.fx.symbolic_trace(named(torch_case.call.ours(torch_case.adapter), len(args)))
    calls = [node.target for node in recorded.graph.nodes if node.op == "call_function"]
    assert calls == [torch_case.adapter.public(torch_case.call.op.name)]
    for module in (recorded, copy.deepcopy(recorded)):
        assert_right(torch_case, args, g, *value_and_vjp(lambda *a, f=module: first_of(f(*a)), args, g))


def first_of(results: Any) -> Any:
    """The one that has a gradient."""
    return results[0] if isinstance(results, tuple) else results


def test_fx_records_a_norm_whose_epsilon_and_a_loss_whose_labels_are_inputs() -> None:
    def block(x: Tensor, labels: Tensor, eps: Tensor) -> Tensor:
        return cross_entropy(layer_norm(x, eps=eps), labels)

    given = torch.randn(3, 4), torch.arange(3), torch.tensor(0.1)
    torch.testing.assert_close(torch.fx.symbolic_trace(block)(*given), block(*given), rtol=0, atol=0)


KEY = torch.tensor([1, 2], dtype=torch.uint32)
# Calls by letters: each letter is an axis, which is exported as a dynamic one and then has three sizes.
SIZES = {"b": 3, "h": 4, "g": 2, "s": 6, "t": 7, "d": 8, "e": 5, "n": 12}
DYNAMIC = {
    "attention": (lambda *qkv: attention(*qkv, is_causal=True), "bhsd bgtd bgte"),
    "flash_attention": (lambda *qkv: flash_attention(*qkv, is_causal=True), "bhsd bgtd bgte"),
    "attention-lower-right": (lambda *qkv: attention(*qkv, is_causal="lower_right"), "bhsd bgtd bgte"),
    "flash_attention-lower-right": (
        lambda *qkv: flash_attention(*qkv, is_causal="lower_right", window=3, softcap=2.0),
        "bhsd bgtd bgte",
    ),
    "qk_norm_attention": (lambda *qkv: qk_norm_attention(*qkv, scale=3.0), "bhsd bgtd bgte"),
    "relu_bits": (relu_bits, "bsn"),
    "dropout": (lambda x: dropout(x, 0.5, KEY), "bsn"),
    "attention-dropout": (lambda *qkv: attention(*qkv, dropout=0.5, key=KEY), "bhsd bgtd bgte"),
}


def drawn(letters: str, sizes: dict[str, int]) -> tuple[Tensor, ...]:
    return tuple(torch.randn([sizes[a] for a in word], dtype=torch.float64) for word in letters.split())


def exported_axes() -> Iterator[tuple[str, str]]:
    """Each alone but the heads of keys, which must divide those of queries; and the batch and sequences at once."""
    for op, (_, letters) in DYNAMIC.items():
        yield from ((op, axes) for axes in ("bst", *sorted({*letters} - {*" g"})))


@pytest.mark.parametrize(("op", "axes"), list(exported_axes()))
def test_an_exported_axis_may_be_dynamic(op: str, axes: str) -> None:
    fn, letters = DYNAMIC[op]
    dynamic = tuple({i: Dim.DYNAMIC for i, a in enumerate(word) if a in axes} for word in letters.split())
    args = drawn(letters, SIZES)
    program = torch.export.export(Module(fn, len(args)), args, dynamic_shapes=dynamic).module()
    for times in (1, 2, 3):
        args = [
            a.requires_grad_() for a in drawn(letters, {a: n * times if a in axes else n for a, n in SIZES.items()})
        ]
        y, expected = program(*args), fn(*args)
        g = torch.randn_like(y)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(torch.autograd.grad(y, args, g), torch.autograd.grad(expected, args, g))


@pytest.mark.parametrize("op", ["relu_bits", "dropout", "attention-dropout"])
def test_an_exported_axis_that_is_packed_has_any_length(op: str) -> None:
    """Of one byte or several, full or not."""
    fn, letters = DYNAMIC[op]
    dynamic = tuple({i: Dim.AUTO for i, a in enumerate(word) if a in "nt"} for word in letters.split())
    args = drawn(letters, SIZES | {"n": 20, "t": 20})
    program = torch.export.export(Module(fn, len(args)), args, dynamic_shapes=dynamic).module()
    for n in (2, 5, 8, 16, 21):
        args = drawn(letters, SIZES | {"n": n, "t": n})
        torch.testing.assert_close(program(*args), fn(*args))

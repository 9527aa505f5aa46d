"""The losses beside PyTorch's own, and under its compiler."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import residuals_torch
from losses import CHUNK, FEATURES, ROWS, VOCABULARY, call_of, each_reduction, linear_call, value_and_gradients
from residuals_lab import frameworks
from residuals_lab.ops.tolerance import FLOAT64_LIMIT, error, rounding
from residuals_torch.ops import cross_entropy, linear_cross_entropy


@each_reduction
@pytest.mark.parametrize("labels", [[1, -100, 4], [1, 2, 3], [-100] * 3], ids=str)
def test_as_pytorch_has_it(labels: list[int], reduction: str) -> None:
    adapter = frameworks.load("torch")
    call = call_of("cross_entropy", np.array(labels, np.int32), reduction=reduction)
    args = [adapter.array(a, "float64") for a in call.arrays.values()]
    theirs = call.own(adapter)(*args)
    _, (their_d,) = adapter.value_and_vjp(call.own(adapter), args, adapter.array(np.ones(theirs.shape), "float64"))
    y, (d,) = value_and_gradients(call, adapter)
    assert error(y, adapter.to_numpy(theirs)) <= FLOAT64_LIMIT
    assert error(d, adapter.to_numpy(their_d)) <= FLOAT64_LIMIT


def test_compiled_code_saves_no_logits() -> None:
    """A compiler that found the same product in forward and backward would save it, and with that all logits."""
    adapter, call = frameworks.load("torch"), linear_call(CHUNK)
    args = [adapter.array(a, "float32") for a in call.arrays.values()]
    compiled = torch.compile(call.ours(adapter), fullgraph=True, backend="aot_eager_decomp_partition")
    sizes: dict[Any, int] = {}

    def pack(t: Any) -> Any:
        sizes[t.untyped_storage()._cdata] = t.untyped_storage().nbytes() // 4
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = compiled(*args)
    torch.autograd.grad(loss, args)
    assert max(sizes.values()) == max(VOCABULARY, ROWS) * FEATURES < ROWS * CHUNK


@pytest.mark.parametrize("op", ["cross_entropy", "linear_cross_entropy"])
@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_autocast_gives_float32(op: str, narrow: torch.dtype) -> None:
    """As F.cross_entropy: the sum of a batch overflows float16, and so does the cotangent of a GradScaler's scale."""
    adapter, rows = frameworks.load("torch"), 60_000
    call = call_of(op, np.arange(rows, dtype="int32") % 5, reduction="sum")
    args = [adapter.array(a, "float32") for a in call.arrays.values()]
    with torch.autocast("cpu", narrow):
        loss = call.ours(adapter)(*(a.to(narrow) for a in args))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(float(call.forward()), rel=1e-2)
    scale = 2.0**16
    for d, truth in zip(torch.autograd.grad(loss * scale / rows, args), call.vjp(np.ones(())).values(), strict=True):
        assert error(adapter.to_numpy(d), truth * scale / rows) <= 0.05


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # which PyTorch hides itself
@pytest.mark.parametrize("is_inside", [True, False])
@pytest.mark.parametrize("op", ["cross_entropy", "linear_cross_entropy"])
def test_fake_logits_and_real_labels(op: str, is_inside: bool) -> None:
    """As a file has them that is audited: its labels were made before; F.cross_entropy takes both."""
    call = call_of(op, np.array([1, -100, 2], np.int32))
    labels = torch.from_numpy(call.constants["labels"])
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        args = [torch.empty(a.shape, requires_grad=True) for a in call.arrays.values()]
    with mode if is_inside else nullcontext():
        loss = frameworks.load("torch").public(op)(*args, labels)
        gradients = torch.autograd.grad(loss, args)
    assert loss.shape == ()
    assert [d.shape for d in gradients] == [a.shape for a in args]


@pytest.mark.parametrize("options", [{}, {"class_weight": True, "label_smoothing": 0.1, "z_loss": 0.01, "bias": True}])
def test_one_compilation_for_all_vocabularies(options: dict[str, Any]) -> None:
    """Also for those of several chunks; the gradients of each are right."""
    call = frameworks.load("torch").public("linear_cross_entropy")
    torch._dynamo.reset()

    def fn(x: Any, weight: Any, labels: Any, bias: Any, class_weight: Any) -> Any:
        given = {"bias": bias, "class_weight": class_weight}
        return call(x, weight, labels, chunk=16, **{n: given.get(n, value) for n, value in options.items()})

    compiled = torch.compile(fn, fullgraph=True, backend="aot_eager", dynamic=True)
    for i, v in enumerate((10, 15, 16, 17, 31, 40, 64, 100, 128, 1000)):
        x, weight, bias = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((6, 3), (v, 3), (v,)))
        inputs = x, weight, torch.randint(v, (6,)), bias, torch.rand(v, dtype=torch.float64)
        wanted = [x, weight, bias] if options else [x, weight]
        with torch.compiler.set_stance("fail_on_recompile" if i else "default"):
            loss = compiled(*inputs)
            found = loss, *torch.autograd.grad(loss, wanted)
        loss = fn(*inputs)
        torch.testing.assert_close(found, (loss, *torch.autograd.grad(loss, wanted)))


def test_a_compiled_loss_makes_no_gradient_of_a_frozen_head() -> None:
    """The operator of the backward is asked for what is wanted alone."""
    call, made = frameworks.load("torch").public("linear_cross_entropy"), []
    x, weight = torch.randn(6, 3, requires_grad=True), torch.randn(7, 3)
    compiled = torch.compile(lambda x: call(x, weight, torch.arange(6)), fullgraph=True, backend="aot_eager")

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            made.extend(t.shape for t in tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    loss = compiled(x)
    with Watch():
        torch.autograd.grad(loss, x)
    assert weight.shape not in made
    assert x.shape in made


class Products(TorchDispatchMode):
    """The dtypes of the operands and of the result of each matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[tuple[torch.dtype, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._schema.name in ("aten::mm", "aten::addmm"):
            operands = [a.dtype for a in args if isinstance(a, torch.Tensor)][-2:]
            self.dtypes.append((*operands, out.dtype))
        return out


def test_a_gpu_multiplies_16_bits_and_sums_in_float32() -> None:
    """On fake tensors, since the product that it takes is none of a CPU's."""
    narrow, options = torch.bfloat16, (-100, "mean", 4, 0.0, 0.0)
    with FakeTensorMode(), torch.no_grad():
        x, weight = (torch.empty(shape, dtype=narrow, device="cuda") for shape in ((6, 3), (10, 3)))
        labels = torch.empty(6, dtype=torch.int64, device="cuda")
        with Products() as products:
            loss, residuals = linear_cross_entropy.fwd(x, weight, None, labels, None, *options)
            dx, dweight, _ = linear_cross_entropy.bwd(*options, residuals, loss)
    logits, gradient = (narrow, narrow, torch.float32), (torch.float32,) * 3
    assert products.dtypes == [logits] * 3 + [logits, gradient, gradient] * 3  # of three chunks
    assert dx.dtype == dweight.dtype == narrow


def test_products_of_16_bits_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an operator as a GPU has it, of products of 16 bits that are summed in float32."""
    mm = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b, out_dtype: mm(a.to(out_dtype), b.to(out_dtype)))
    monkeypatch.setattr(linear_cross_entropy, "operand", lambda a: a)
    rng, options = np.random.default_rng(0), (-100, "mean", 10, 0.0, 0.0)
    call = linear_call(10).rounded(frameworks.load("torch"), "bfloat16")
    labels = torch.from_numpy(call.constants["labels"])
    x, weight = (torch.tensor(a, dtype=torch.bfloat16) for a in call.arrays.values())
    g = rng.standard_normal()
    with torch.no_grad():
        loss, residuals = linear_cross_entropy.fwd(x, weight, None, labels, None, *options)
        found = linear_cross_entropy.bwd(*options, residuals, torch.tensor(g))[:2]
    assert error(loss.double().numpy(), call.forward()) <= rounding("bfloat16")
    for d, truth in zip(found, call.vjp(np.float64(g)).values(), strict=True):
        assert error(d.double().numpy(), truth) <= rounding("bfloat16")


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("is_weighted", [True, False])
def test_options_as_pytorch_has_them(is_weighted: bool, label_smoothing: float, reduction: str) -> None:
    """Of the classes on axis 1, where F.cross_entropy has them."""
    torch.manual_seed(0)
    logits = torch.randn(4, 5, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(5, (4, 3)).masked_fill_(torch.rand(4, 3) < 0.3, -100)
    weight = 0.5 + torch.rand(5, dtype=torch.float64) if is_weighted else None
    options = {"label_smoothing": label_smoothing, "reduction": reduction}
    theirs = functional.cross_entropy(logits, labels, weight, **options)
    ours = residuals_torch.cross_entropy(logits, labels, weight=weight, axis=1, **options)
    g = torch.randn_like(theirs)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(y, logits, g) for y in (ours, theirs)))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("is_weighted", [True, False])
@pytest.mark.parametrize("classes", [5, 0])
def test_probabilities_as_pytorch_has_them(
    classes: int, is_weighted: bool, label_smoothing: float, reduction: str
) -> None:
    """Their gradient too, and where no class is left."""
    torch.manual_seed(0)
    logits, labels = (torch.randn(4, classes, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = 0.5 + torch.rand(classes, dtype=torch.float64) if is_weighted else None
    options = {"label_smoothing": label_smoothing, "reduction": reduction}
    ours = residuals_torch.cross_entropy(logits, labels, weight=weight, axis=1, **options)
    if not classes:
        assert ours.isnan().all()
        return
    theirs = functional.cross_entropy(logits, labels, weight, **options)
    g = torch.randn_like(theirs)
    torch.testing.assert_close(ours, theirs)
    for d, expected in zip(*(torch.autograd.grad(y, (logits, labels), g) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(d, expected)


def test_frozen_probabilities_get_no_gradient() -> None:
    """Nor is it computed."""
    logits, labels = torch.randn(4, 5, requires_grad=True), torch.rand(4, 5)
    with Sizes() as with_labels:
        torch.autograd.grad(residuals_torch.cross_entropy(logits, labels), logits)
    with Sizes() as with_both:
        torch.autograd.grad(residuals_torch.cross_entropy(logits, labels.requires_grad_()), (logits, labels))
    assert with_labels.count < with_both.count


def test_class_weights_that_require_a_gradient_are_refused() -> None:
    weight = torch.ones(5, requires_grad=True)
    message = r"^weight: expected a constant, got a tensor that requires a gradient; pass weight.detach\(\)$"
    with pytest.raises(TypeError, match=message):
        residuals_torch.cross_entropy(torch.ones(3, 5), torch.arange(3), weight=weight)


class Sizes(TorchDispatchMode):
    """The most elements of any float32 tensor that operations make, and how many operations there are."""

    largest = count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor) and t.dtype == torch.float32]
        self.largest, self.count = max([self.largest, *made]), self.count + 1
        return out


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 0.1, "weight": np.arange(1.0, 6)}])
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_logits_are_widened_a_block_at_a_time(
    dtype: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three rows of five, where all are nine."""
    monkeypatch.setattr(cross_entropy, "CPU_BLOCK", 3 * 5)
    adapter = frameworks.load("torch")
    call = call_of("cross_entropy", np.array([[0, -100, 2], [4, 1, 1], [-100, 3, 0]], np.int32), **options)
    call = call.rounded(adapter, dtype)
    args, g = [adapter.array(a, dtype) for a in call.arrays.values()], np.array(0.7)
    with Sizes() as sizes:
        loss, (d,) = adapter.value_and_vjp(call.ours(adapter), args, adapter.array(g, dtype))
    allowed = FLOAT64_LIMIT if dtype == "float64" else 2 * rounding(dtype)
    assert error(adapter.to_numpy(loss), call.forward()) <= allowed
    assert error(adapter.to_numpy(d), call.vjp(g)["logits"]) <= allowed
    assert sizes.largest <= 3 * 5

"""The PyTorch adapter: the same functions as the JAX one, which documents them."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import residuals_torch
from residuals_lab.errors import UsageError
from residuals_lab.frameworks.compiled import Call, Compiled
from residuals_lab.frameworks.torch.fakes import abstractly as abstractly
from residuals_lab.frameworks.torch.tracing import dtype_name, nodes, tensors
from residuals_lab.frameworks.torch.tracing import trace as trace
from residuals_torch import _lib

NAME = "torch"
TITLE = f"PyTorch {torch.__version__.partition('+')[0]}"
DTYPES = ("float64", "float32", "bfloat16", "float16")


def _sdpa(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, mask: Tensor | None = None, **static: Any
) -> Tensor:
    if mask is not None:
        bias = torch.zeros((), dtype=q.dtype) if bias is None else bias
        bias = torch.where(mask, bias, -torch.inf)
    return F.scaled_dot_product_attention(q, k, v, bias, enable_gqa=True, **static)


OWN: dict[str, tuple[str, Callable[..., Any]]] = {
    "relu": ("F.relu", lambda x: F.relu(x)),
    "relu_bits": ("F.relu", lambda x: F.relu(x)),
    "sigmoid": ("torch.sigmoid", lambda x: torch.sigmoid(x)),
    "tanh": ("torch.tanh", lambda x: torch.tanh(x)),
    "silu": ("F.silu", lambda x: F.silu(x)),
    "gelu": ("F.gelu", lambda x, approximate: F.gelu(x, approximate=approximate)),
    "swiglu": ("F.silu(gate)*up", lambda gate, up: F.silu(gate) * up),
    "geglu": ("F.gelu(gate)*up", lambda gate, up: F.gelu(gate) * up),
    "softmax": ("torch.softmax", lambda x, axis: torch.softmax(x, axis)),
    "dropout": ("F.dropout", lambda x, rate, key=None: F.dropout(x, rate)),  # draws a mask of its own
    "dropout_remat": ("F.dropout", lambda x, rate, key=None: F.dropout(x, rate)),
    "layer_norm": (
        "F.layer_norm",
        lambda x, weight=None, bias=None, *, eps: F.layer_norm(x, x.shape[-1:], weight, bias, eps),
    ),
    "rms_norm": ("F.rms_norm", lambda x, weight=None, *, eps: F.rms_norm(x, x.shape[-1:], weight, eps)),
    "group_norm": (
        "F.group_norm",
        lambda x, weight=None, bias=None, *, num_groups, eps: F.group_norm(x, num_groups, weight, bias, eps),
    ),
    "attention": ("F.scaled_dot_product_attention", _sdpa),
    "flash_attention": ("F.scaled_dot_product_attention", _sdpa),
    "cross_entropy": (
        "F.cross_entropy",
        lambda logits, labels, ignore_index, reduction: _cross_entropy(logits, labels, ignore_index, reduction),
    ),
    "linear_cross_entropy": (
        "F.cross_entropy(F.linear)",
        lambda x, weight, labels, ignore_index, reduction, chunk: _cross_entropy(
            F.linear(x, weight), labels, ignore_index, reduction
        ),
    ),
    "batch_norm": (  # writes into the running statistics that it is given
        "F.batch_norm",
        lambda x, weight=None, bias=None, running_mean=None, running_var=None, *, training, momentum, eps: F.batch_norm(
            x, running_mean, running_var, _wide(weight, x), _wide(bias, x), training, momentum, eps
        ),
    ),
}


def _wide(a: Tensor | None, x: Tensor) -> Tensor | None:
    """What F.batch_norm wants beside a narrow x on a CPU, with statistics in float32."""
    return None if a is None else a.to(torch.promote_types(x.dtype, torch.float32))


def _cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int, reduction: str) -> Tensor:
    """F.cross_entropy, which wants rows of one axis, and labels of 64 bits."""
    rows, index = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1).long()
    loss = F.cross_entropy(rows, index, ignore_index=ignore_index, reduction=reduction)
    return loss.reshape(labels.shape) if reduction == "none" else loss


def op(name: str) -> ModuleType:
    return import_module(f"residuals_torch.ops.{name}")


def public(name: str) -> Callable[..., Any]:
    return getattr(residuals_torch, name)


def likes(*arrays: Tensor | None) -> Any:
    return _lib.likes(*arrays)


def devices() -> tuple[str, ...]:
    return ("cpu", "gpu") if torch.cuda.is_available() else ("cpu",)


def precision(dtype: str) -> AbstractContextManager[Any]:
    return nullcontext()


def array(a: np.ndarray, dtype: str | None = None, device: str = "cpu") -> Tensor:
    made = torch.tensor(np.asarray(a), dtype=getattr(torch, dtype) if dtype else None)
    made = made.to("cuda" if device == "gpu" else device)
    return made.requires_grad_(made.is_floating_point())


def constant(a: np.ndarray, device: str = "cpu") -> Tensor:
    return array(a, None, device).detach()


def to_numpy(a: Tensor) -> np.ndarray:
    return a.detach().to("cpu", torch.float64).numpy()


def is_floating(a: Any) -> bool:
    return isinstance(a, Tensor) and a.is_floating_point()


def dtype_of(a: Tensor) -> str:
    return dtype_name(a)


def value_and_vjp(fn: Callable[..., Any], args: Sequence[Any], g: Any) -> tuple[Any, tuple[Any, ...]]:
    y, pull = vjp(fn, args)
    return y, pull(g)


def vjp(fn: Callable[..., Any], args: Sequence[Any]) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    y = fn(*args)
    return y, lambda g: torch.autograd.grad(y, tuple(args), g, allow_unused=True, materialize_grads=True)


def uncompiled() -> AbstractContextManager[Any]:
    def compile(model: Any = None, **options: Any) -> Any:
        return model if model is not None else lambda model: model

    return patch.object(torch, "compile", compile)


def rule_of(fn: Callable[..., Any], x: Tensor) -> Any:
    """The `autograd.Function` that `fn(x)` calls last; None if there is none."""
    with uncompiled():
        return getattr(node_of(fn(x)), "_forward_cls", None)


def node_of(y: Any) -> Any:
    """The node of the last `autograd.Function` in the graph of one output or several; None if there is none."""
    outs = [out for out in tensors(y) if out.grad_fn is not None]
    return next((node for node in nodes(outs) if hasattr(node, "_forward_cls")), None)


def second_vjp(fn: Callable[..., Any], args: Sequence[Any], g: Any, us: Sequence[Any]) -> tuple[Any, ...]:
    zero: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}  # what is not reached has gradient 0
    firsts = torch.autograd.grad(fn(*args), tuple(args), g, create_graph=True, **zero)
    pairs = [(d, u) for d, u in zip(firsts, us, strict=True) if d.requires_grad]
    if not pairs:
        return tuple(torch.zeros_like(a) for a in (*args, g))
    return torch.autograd.grad([d for d, _ in pairs], (*args, g), [u for _, u in pairs], **zero)


def arrays_in(tree: Any) -> tuple[dict[str, Tensor], Callable[[Sequence[Any]], Any]]:
    """As in the JAX adapter, for the trees that PyTorch knows, and dataclasses."""
    found: dict[str, Tensor] = {}

    def look(a: Any, path: str) -> None:
        if isinstance(a, Tensor):
            found[path] = a
        for where, part in _parts(a):
            look(part, path + where)

    def replaced(a: Any, arrays: Iterator[Tensor]) -> Any:
        if isinstance(a, Tensor):
            return next(arrays)
        parts = [replaced(part, arrays) for _, part in _parts(a)]
        if isinstance(a, Mapping):
            return type(a)(zip(a, parts, strict=True))  # type: ignore[call-arg]
        if isinstance(a, (list, tuple)):
            return type(a)(*parts) if hasattr(a, "_fields") else type(a)(parts)
        if _is_dataclass(a):
            made = copy.copy(a)
            for f, part in zip(dataclasses.fields(a), parts, strict=True):
                object.__setattr__(made, f.name, part)
            return made
        return a

    look(tree, "")
    return found, lambda arrays: replaced(tree, iter(arrays))


def _parts(a: Any) -> list[tuple[str, Any]]:
    """What a tree consists of, and where in it."""
    if isinstance(a, Mapping):
        return [(f"[{key!r}]", part) for key, part in a.items()]
    if isinstance(a, (list, tuple)):
        names = [f".{name}" for name in a._fields] if hasattr(a, "_fields") else [f"[{i}]" for i in range(len(a))]
        return list(zip(names, a, strict=True))
    return [(f".{f.name}", getattr(a, f.name)) for f in dataclasses.fields(a)] if _is_dataclass(a) else []


def _is_dataclass(a: Any) -> bool:
    return dataclasses.is_dataclass(a) and not isinstance(a, type)


def frozen(tree: Any) -> Any:
    """The tree with tensors that require no gradient."""
    found, rebuild = arrays_in(tree)
    return rebuild([t.detach() for t in found.values()])


def shaped(shape: tuple[int, ...], dtype: str) -> Tensor:
    """A tensor of zeros, without numbers if made `abstractly`. It requires a gradient if it can."""
    if dtype == "key":
        raise UsageError("argument: PyTorch has no keys; residuals_torch takes two numbers, u32[2]")
    made = torch.zeros(shape, dtype=getattr(torch, dtype))
    return made.requires_grad_(made.is_floating_point())


def random_like(a: Tensor) -> Tensor:
    """Random numbers in place of an array without any; zeros in place of integers."""
    return torch.rand_like(a).requires_grad_() if a.is_floating_point() else a


def after_compilation(call: Call) -> Compiled:
    from residuals_lab.frameworks.torch import compiled  # which imports Dynamo

    return compiled.after_compilation(call)


def without_computing(make: Callable[[], Any]) -> Any:
    """What `make()` gives, `abstractly`."""
    return make()


def outline(fn: Callable[..., Any], *args: Any) -> Any:
    return fn(*args)


def checkpointed(fn: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: checkpoint(fn, *args, use_reentrant=False)


def held_bytes(fn: Callable[..., Any], args: Sequence[Tensor]) -> int:
    """Bytes really held: the trace runs on the tensors given, and its storages are theirs."""
    return trace(fn, args, [str(i) for i in range(len(args))]).saved_bytes

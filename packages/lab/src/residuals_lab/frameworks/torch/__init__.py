"""The PyTorch adapter; `residuals_lab.frameworks.protocol` says what its names mean."""

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
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import residuals_torch
from residuals_lab.errors import UsageError
from residuals_lab.frameworks.compiled import Compiled, Subject
from residuals_lab.frameworks.torch.carried import carried as carried
from residuals_lab.frameworks.torch.carried import cast as cast
from residuals_lab.frameworks.torch.fakes import Fakes, faking
from residuals_lab.frameworks.torch.own import OWN as OWN
from residuals_lab.frameworks.torch.programs import copier as copier
from residuals_lab.frameworks.torch.programs import fused as fused
from residuals_lab.frameworks.torch.programs import multiplier as multiplier
from residuals_lab.frameworks.torch.programs import program as program
from residuals_lab.frameworks.torch.record import record as record
from residuals_lab.frameworks.torch.recording import dtype_name
from residuals_lab.frameworks.torch.tracing import nodes, tensors
from residuals_lab.frameworks.torch.tracing import trace as trace
from residuals_torch._lib import cotangents

NAME = "torch"
TITLE = f"PyTorch {torch.__version__.partition('+')[0]}"
DTYPES: tuple[str, ...] = ("float64", "float32", "bfloat16", "float16")


def op(name: str) -> ModuleType:
    return import_module(f"residuals_torch.ops.{name}")


def public(name: str) -> Callable[..., Any]:
    return getattr(residuals_torch, name)


def likes(*arrays: Tensor | None) -> Any:
    return cotangents.likes(*arrays)


def devices() -> tuple[str, ...]:
    return ("cpu", "gpu") if torch.cuda.is_available() else ("cpu",)


def placed(device: str) -> AbstractContextManager[Any]:
    return torch.device("cuda" if device == "gpu" else device)


def precision(dtype: str) -> AbstractContextManager[Any]:
    return nullcontext()


def array(a: np.ndarray, dtype: str | None = None, device: str = "cpu") -> Tensor:
    made = torch.tensor(np.asarray(a), dtype=getattr(torch, dtype) if dtype else None)
    made = made.to("cuda" if device == "gpu" else device)
    return made.requires_grad_(made.is_floating_point() or made.is_complex())


def constant(a: np.ndarray, device: str = "cpu") -> Tensor:
    return array(a, None, device).detach()


def to_numpy(a: Tensor) -> np.ndarray:
    wide = torch.complex128 if a.is_complex() else torch.float64
    return a.detach().to("cpu", wide).resolve_conj().numpy()


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
    """The `autograd.Function` that `fn(x)` calls last."""
    with uncompiled():
        return getattr(node_of(fn(x)), "_forward_cls", None)


def node_of(y: Any) -> Any:
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
    """Of the trees that PyTorch knows, and of dataclasses."""
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
    found, rebuild = arrays_in(tree)
    return rebuild([t.detach() for t in found.values()])


def shaped(shape: tuple[int, ...], dtype: str) -> Tensor:
    """A tensor of zeros, fake if made `abstractly`. It requires a gradient if it can."""
    if dtype == "key":
        raise UsageError("argument: PyTorch has no keys; residuals_torch takes two numbers, u32[2]")
    made = torch.zeros(shape, dtype=getattr(torch, dtype))
    return made.requires_grad_(made.is_floating_point() or made.is_complex())


def random_like(a: Tensor) -> Tensor:
    return torch.rand_like(a).requires_grad_() if a.requires_grad else a


def abstractly() -> AbstractContextManager[None]:
    """Tensors, those of modules too, are fake: `faking` says how."""
    return faking(Fakes())


def after_compilation(subject: Subject) -> Compiled:
    from residuals_lab.frameworks.torch import compiled  # here, since that module imports Dynamo

    return compiled.after_compilation(subject)


def without_computing(make: Callable[[], Any]) -> Any:
    """What `make()` gives: `abstractly`, its tensors are fake."""
    return make()


def outline(fn: Callable[..., Any], *args: Any) -> Any:
    return fn(*args)


def checkpointed(fn: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: checkpoint(fn, *args, use_reentrant=False)


def saved_bytes(fn: Callable[..., Any], args: Sequence[Tensor]) -> int:
    """By a trace, which runs on the tensors given: its storages are theirs."""
    return trace(fn, args, [str(i) for i in range(len(args))]).saved_bytes

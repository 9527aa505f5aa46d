"""The PyTorch adapter: the same functions as the JAX one, which documents them."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint

import residuals_torch
from residuals_lab.trace import Recorder, Trace

NAME = "torch"
TITLE = f"PyTorch {torch.__version__.partition('+')[0]}"
DTYPES = ("float64", "float32", "bfloat16", "float16")

_OPS = {
    "_log_softmax": "softmax",
    "_softmax": "softmax",
    "_to_copy": "convert",
    "_unsafe_view": "view",
    "addmm": "matmul",
    "amax": "max",
    "amin": "min",
    "baddbmm": "matmul",
    "bernoulli": "random",
    "bmm": "matmul",
    "convolution": "conv",
    "dot": "matmul",
    "mm": "matmul",
    "mv": "matmul",
    "native_dropout": "random",
    "normal": "random",
    "rand": "random",
    "rand_like": "random",
    "randn": "random",
    "randn_like": "random",
    "t": "transpose",
    "threefry_uniform": "random",
}
_IDENTITIES = {"alias", "detach", "lift_fresh"}


def op(name: str) -> ModuleType:
    return import_module(f"residuals_torch.ops.{name}")


def public(name: str) -> Callable[..., Any]:
    return getattr(residuals_torch, name)


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


def dtype_of(a: Tensor) -> str:
    return _dtype(a)


def value_and_vjp(fn: Callable[..., Any], args: Sequence[Any], g: Any) -> tuple[Any, tuple[Any, ...]]:
    y = fn(*args)
    return y, torch.autograd.grad(y, tuple(args), g, allow_unused=True, materialize_grads=True)


def second_vjp(fn: Callable[..., Any], args: Sequence[Any], g: Any, us: Sequence[Any]) -> tuple[Any, ...]:
    firsts = torch.autograd.grad(fn(*args), tuple(args), g, create_graph=True)
    return torch.autograd.grad(firsts, (*args, g), tuple(us), allow_unused=True, materialize_grads=True)


def checkpointed(fn: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: checkpoint(fn, *args, use_reentrant=False)


def held_bytes(fn: Callable[..., Any], args: Sequence[Tensor]) -> int:
    """Bytes really held: distinct storages, that saved-tensor hooks see or that hang on a node of the graph."""
    storages: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storages[_storage(t)] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        outs = [y for y in tree_leaves(fn(*args)) if isinstance(y, Tensor)]
    for t in _hung_on_graph(outs):
        pack(t)
    return sum(storages.values())


def trace(
    fn: Callable[..., Any], args: Sequence[Tensor], names: Sequence[str], fields: Callable[..., Any] | None = None
) -> Trace:
    """As in the JAX adapter, by running `fn` on the tensors given. What is held are the storages that saved-tensor
    hooks see, and tensors that hang on a node of the graph where the hooks do not see them.
    """
    recording = _Recording()
    recorder = recording.recorder
    args = [a.detach().requires_grad_(a.requires_grad) for a in args]
    inputs: dict[int, Hashable] = {recording.number(a): _storage(a) for a in args}
    labels = dict(zip(inputs, names, strict=True))
    held: list[tuple[int, Hashable, int, bool]] = []

    def pack(t: Tensor) -> Tensor:
        held.append((recording.number(t), _storage(t), t.untyped_storage().nbytes(), False))
        return t.detach()  # an output that its own node holds would be a cycle

    with recording:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = fn(*args)
        outs = [y for y in tree_leaves(out) if isinstance(y, Tensor) and y.requires_grad]
        seen = {storage for _, storage, _, _ in held}
        for t in _hung_on_graph(outs):
            if _storage(t) not in seen:
                held.append((recording.number(t), _storage(t), t.untyped_storage().nbytes(), True))
        outputs = [recording.number(y) for y in outs]
        cotangents = [torch.ones_like(y) for y in outs]
        recorder.phase = "backward"
        torch.autograd.grad(outs, [a for a in args if a.requires_grad], cotangents, allow_unused=True)
        recorder.phase = "naming"
        if fields is not None:
            with torch.no_grad():
                found = fields(*args)._asdict()
            labels |= {recording.number(t): name for name, t in found.items() if t is not None}
    return recorder.trace(held, inputs, outputs, labels)


class _Recording(TorchDispatchMode):
    """Numbers every tensor that an operation reads or makes.

    Saved tensors come back as new objects, so a tensor is known by what it looks at: storage, offset, shape, strides,
    dtype and version. Storages are kept alive, since a freed one's address is used again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.recorder = Recorder()
        self._known: dict[Hashable, int] = {}
        self._alive: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        ins = [self.number(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        out = func(*args, **kwargs)
        outs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        name = func.overloadpacket.__name__
        if name in _IDENTITIES:
            numbers: Sequence[int] = ins
        else:
            attrs = repr(tree_map(lambda a: "tensor" if isinstance(a, Tensor) else a, (args, kwargs)))
            if torch.Tag.nondeterministic_seeded in func.tags:
                attrs += f" draw {len(self.recorder.steps)}"  # each draw is another value
            base = name.removesuffix("_") if func._schema.is_mutable else name
            if func is torch.ops.aten.pow.Tensor_Scalar and args[1] == int(args[1]):
                base = "integer_pow"  # a few products
            shapes = [(t.shape, _dtype(t)) for t in outs]
            numbers = self.recorder.step(_OPS.get(base, base), attrs, ins, shapes)
        for t, number in zip(outs, numbers, strict=True):
            self._known[self._key(t)] = number
        return out

    def number(self, t: Tensor) -> int:
        key = self._key(t)
        if key not in self._known:
            self._known[key] = self.recorder.value(key, t.shape, _dtype(t))
        return self._known[key]

    def _key(self, t: Tensor) -> Hashable:
        self._alive.append(t.untyped_storage())
        return _storage(t), t.storage_offset(), t.shape, t.stride(), t.dtype, t._version


def _storage(t: Tensor) -> int:
    return t.untyped_storage()._cdata


def _dtype(t: Tensor) -> str:
    return str(t.dtype).removeprefix("torch.")


def _hung_on_graph(outs: Sequence[Tensor]) -> Iterator[Tensor]:
    """Tensors among the attributes of the graph's nodes: what somebody put on `ctx` without `save_for_backward`."""
    todo, seen = [y.grad_fn for y in outs], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        todo += [following for following, _ in node.next_functions]
        yield from (t for t in tree_leaves(getattr(node, "__dict__", {})) if isinstance(t, Tensor))

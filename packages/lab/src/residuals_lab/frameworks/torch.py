"""The PyTorch adapter: the same functions as the JAX one, which documents them."""

import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint

import residuals_torch
from residuals_lab.places import innermost
from residuals_lab.trace import Recorder, Trace
from residuals_torch import _lib

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
    return _dtype(a)


def value_and_vjp(fn: Callable[..., Any], args: Sequence[Any], g: Any) -> tuple[Any, tuple[Any, ...]]:
    y = fn(*args)
    return y, torch.autograd.grad(y, tuple(args), g, allow_unused=True, materialize_grads=True)


def second_vjp(fn: Callable[..., Any], args: Sequence[Any], g: Any, us: Sequence[Any]) -> tuple[Any, ...]:
    zero: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}  # what is not reached has gradient 0
    firsts = torch.autograd.grad(fn(*args), tuple(args), g, create_graph=True, **zero)
    pairs = [(d, u) for d, u in zip(firsts, us, strict=True) if d.requires_grad]
    if not pairs:
        return tuple(torch.zeros_like(a) for a in (*args, g))
    return torch.autograd.grad([d for d, _ in pairs], (*args, g), [u for _, u in pairs], **zero)


def outline(fn: Callable[..., Any], *args: Any) -> Any:
    return fn(*args)


def checkpointed(fn: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: checkpoint(fn, *args, use_reentrant=False)


def held_bytes(fn: Callable[..., Any], args: Sequence[Tensor]) -> int:
    """Bytes really held: the trace runs on the tensors given, and its storages are theirs."""
    return trace(fn, args, [str(i) for i in range(len(args))]).saved_bytes


def trace(
    fn: Callable[..., Any], args: Sequence[Tensor], names: Sequence[str], fields: Callable[..., Any] | None = None
) -> Trace:
    """As in the JAX adapter, by running `fn` on the tensors given. What is held are the storages that saved-tensor
    hooks see; `hidden` are those that hang on a node of the graph otherwise, or that the backward reads without having
    made them or been given them: from a closure, an object, a module.
    """
    recording = _Recording()
    recorder = recording.recorder
    args = [a.detach().requires_grad_(a.requires_grad) for a in args]
    inputs: dict[int, Hashable] = {recording.number(a): _storage(a) for a in args}
    labels = dict(zip(inputs, names, strict=True))
    held: list[tuple[int, Hashable, int, bool]] = []
    seen: set[int] = set()

    def hold(t: Tensor, hidden: bool) -> None:
        if not (hidden and _storage(t) in seen):
            seen.add(_storage(t))
            held.append((recording.number(t), _storage(t), t.untyped_storage().nbytes(), hidden))

    def pack(t: Tensor) -> Tensor:
        hold(t, hidden=False)
        return t.detach()  # an output that its own node holds would be a cycle

    with recording:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = fn(*args)
        outs = [y for y in tree_leaves(out) if isinstance(y, Tensor) and y.requires_grad]
        outputs: dict[int, Hashable] = {recording.number(y): _storage(y) for y in outs}
        cotangents = [torch.ones_like(y) for y in outs]
        recorder.phase, recording.known_to_backward = "backward", {_storage(g) for g in cotangents}
        for t in _hung_on_graph(outs):
            hold(t, hidden=True)
        torch.autograd.grad(outs, [a for a in args if a.requires_grad], cotangents, allow_unused=True)
        for t in recording.found_by_backward:
            hold(t, hidden=True)
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
        self.known_to_backward: set[int] = set()  # storages that the backward was given or made
        self.found_by_backward: list[Tensor] = []  # what it reads beside them
        self._known: dict[Hashable, int] = {}
        self._places: dict[int, tuple[str, str]] = {}  # by the number of the node that autograd makes for a step
        self._scopes: list[str] = []  # of the modules that are running, the innermost last
        self._names: dict[torch.nn.Module, str] = {}
        self._alive: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        ins = [self.number(t) for t in read]
        written = {id(t) for t in _written(func, args, kwargs)}
        out = func(*args, **kwargs)
        outs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if self.recorder.phase == "backward":
            self.found_by_backward += [t for t in read if _storage(t) not in self.known_to_backward]
            self.known_to_backward |= {_storage(t) for t in (*read, *outs)}
        self.recorder.line, self.recorder.scope = self._place()
        name = func.overloadpacket.__name__
        if name in _IDENTITIES:
            numbers: Sequence[int] = ins
        else:
            attrs = repr(tree_map(lambda a: "tensor" if isinstance(a, Tensor) else a, (args, kwargs)))
            if torch.Tag.nondeterministic_seeded in func.tags:
                attrs += f" draw {len(self.recorder.steps)}"  # each draw is another value
            base = name.removesuffix("_") if func._schema.is_mutable else name
            if func is torch.ops.aten.pow.Tensor_Scalar and float(args[1]).is_integer():
                base = "integer_pow"  # a few products
            shapes = [(t.shape, _dtype(t)) for t in outs]
            numbers = self.recorder.step(_OPS.get(base, base), attrs, ins, shapes)
        versions = {_storage(t): _version(t) for t in read}  # a view gets its base's only after this dispatch
        for t, number in zip(outs, numbers, strict=True):
            is_written = id(t) in written  # which counts only after this dispatch too
            key = self._key(t, versions.get(_storage(t), 0) + is_written)
            if is_written or key not in self._known:  # a view that looks like what it is of has the same value
                self._known[key] = number
        return out

    def __enter__(self) -> "_Recording":
        module = torch.nn.modules.module
        self._hooks = (
            module.register_module_forward_pre_hook(self._enter_module),
            module.register_module_forward_hook(self._leave_module, always_call=True),
        )
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        for hook in self._hooks:
            hook.remove()

    def _enter_module(self, module: torch.nn.Module, inputs: Any) -> None:
        if not self._scopes:  # the outermost one, which knows the names of all in it
            root = type(module).__name__
            self._names = {m: "/".join([root, *name.split(".")]).rstrip("/") for name, m in module.named_modules()}
        self._scopes.append(self._names.get(module, type(module).__name__))

    def _leave_module(self, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        self._scopes.pop()

    def _place(self) -> tuple[str, str]:
        """Line and scope: of a forward step, where it is; of a backward step, where the forward made what takes it."""
        node = torch._C._current_autograd_node()
        if node is not None and node._sequence_nr() in self._places:
            return self._places[node._sequence_nr()]
        frame, frames = sys._getframe(2), []
        while frame is not None:
            frames.append((frame.f_code.co_filename, frame.f_lineno))
            frame = frame.f_back
        place = innermost(frames), self._scopes[-1] if self._scopes else ""
        if self.recorder.phase == "forward":
            self._places.setdefault(torch.autograd._get_sequence_nr() - 1, place)
        return place

    def number(self, t: Tensor) -> int:
        key = self._key(t, _version(t))
        if key not in self._known:
            self._known[key] = self.recorder.value(key, t.shape, _dtype(t))
        return self._known[key]

    def _key(self, t: Tensor, version: int) -> Hashable:
        self._alive.append(t.untyped_storage())
        return _storage(t), t.storage_offset(), t.shape, t.stride(), t.dtype, version


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """The tensors that an operation writes into."""
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            t = args[i] if i < len(args) else kwargs.get(argument.name)
            yield from (leaf for leaf in tree_leaves(t) if isinstance(leaf, Tensor))


def _version(t: Tensor) -> int:
    return 0 if t.is_inference() else t._version


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

"""How the PyTorch adapter traces: it runs a function and its backward, and numbers what operations read and make."""

import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import nullcontext
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from residuals_lab.places import innermost
from residuals_lab.trace import Held, Recorder, Trace

# Where this framework has another word than the traces' for an operation.
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


def trace(
    fn: Callable[..., Any],
    args: Sequence[Tensor],
    names: Sequence[str],
    fields: Callable[..., Any] | None = None,
    *,
    is_abstract: bool = False,
) -> Trace:
    """As in the JAX adapter, by running `fn` on the tensors given; if `is_abstract`, on fake ones that look like them.
    Tensors that `fn` finds elsewhere, as in a module, are then taken for fake ones too.

    What is held are the storages that saved-tensor hooks see; `hidden` are those that hang on a node of the graph
    otherwise, or that the backward reads without having made them or been given them: from a closure, an object, a
    module.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True) if is_abstract else None
    with fake or nullcontext():
        return _trace(fn, args, names, fields, _Recording(fake))


def _trace(
    fn: Callable[..., Any],
    args: Sequence[Tensor],
    names: Sequence[str],
    fields: Callable[..., Any] | None,
    recording: "_Recording",
) -> Trace:
    recorder = recording.recorder
    args = [recording.seen_as(a).detach().requires_grad_(a.requires_grad) for a in args]
    inputs: dict[int, Hashable] = {recording.number(a): recording.storage(a) for a in args}
    labels = dict(zip(inputs, names, strict=True))
    held: list[Held] = []
    seen: set[int] = set()

    def hold(t: Tensor, hidden: bool) -> None:
        if not (hidden and recording.storage(t) in seen):
            seen.add(recording.storage(t))
            is_made = recording.storage(t) in recording.made
            so_far = None if hidden else len(recorder.steps)
            held.append(
                Held(
                    recording.number(t),
                    recording.storage(t),
                    t.untyped_storage().nbytes(),
                    is_made,
                    hidden,
                    so_far,
                )
            )

    def pack(t: Tensor) -> Tensor:
        hold(t, hidden=False)
        return t.detach()  # an output that its own node holds would be a cycle

    with recording:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = fn(*args)
        outs = [y for y in tree_leaves(out) if isinstance(y, Tensor) and y.requires_grad]
        outputs: dict[int, Hashable] = {recording.number(y): recording.storage(y) for y in outs}
        cotangents = [torch.ones_like(y) for y in outs]
        recorder.phase, recording.known_to_backward = "backward", {recording.storage(g) for g in cotangents}
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

    def __init__(self, fake: FakeTensorMode | None = None) -> None:
        super().__init__()
        self.fake = fake
        self.recorder = Recorder()
        self.known_to_backward: set[int] = set()  # storages that the backward was given or made
        self.found_by_backward: list[Tensor] = []  # what it reads beside them
        self.known: set[int] = set()  # storages met so far
        self.made: set[int] = set()  # those of them that an operation made
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
        if not (outs or written):  # a question about a tensor, such as where it is
            return out
        self.known |= {self.storage(t) for t in read}
        self.made |= {self.storage(t) for t in outs} - self.known
        self.known |= self.made
        if self.recorder.phase == "backward":
            self.found_by_backward += [t for t in read if self.storage(t) not in self.known_to_backward]
            self.known_to_backward |= {self.storage(t) for t in (*read, *outs)}
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
            shapes = [(t.shape, dtype_name(t)) for t in outs]
            numbers = self.recorder.step(_OPS.get(base, base), attrs, ins, shapes)
        versions = {self.storage(t): _version(t) for t in read}  # a view gets its base's only after this dispatch
        for t, number in zip(outs, numbers, strict=True):
            is_written = id(t) in written  # which counts only after this dispatch too
            key = self._key(t, versions.get(self.storage(t), 0) + is_written)
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
        frame: FrameType | None = sys._getframe(2)
        frames = []
        while frame is not None:
            frames.append((frame.f_code.co_filename, frame.f_lineno))
            frame = frame.f_back
        place = innermost(frames), self._scopes[-1] if self._scopes else ""
        if self.recorder.phase == "forward":
            self._places.setdefault(torch._C._autograd._get_sequence_nr() - 1, place)
        return place

    def number(self, t: Tensor) -> int:
        key = self._key(t, _version(t))
        if key not in self._known:
            self._known[key] = self.recorder.value(key, t.shape, dtype_name(t))
        return self._known[key]

    def seen_as(self, t: Tensor) -> Tensor:
        """The tensor itself, or the fake one that stands for it."""
        return self.fake.from_tensor(t) if self.fake and not isinstance(t, FakeTensor) else t

    def storage(self, t: Tensor) -> int:
        return self.seen_as(t).untyped_storage()._cdata

    def _key(self, t: Tensor, version: int) -> Hashable:
        t = self.seen_as(t)
        self._alive.append(t.untyped_storage())
        return self.storage(t), t.storage_offset(), t.shape, t.stride(), t.dtype, version


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """The tensors that an operation writes into."""
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            t = args[i] if i < len(args) else kwargs.get(argument.name)
            yield from (leaf for leaf in tree_leaves(t) if isinstance(leaf, Tensor))


def _version(t: Tensor) -> int:
    return 0 if t.is_inference() else t._version


def dtype_name(t: Tensor) -> str:
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

"""How the PyTorch adapter traces: it runs a function and its backward, and numbers what operations read and make."""

import dataclasses
import logging
import sys
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import takewhile
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from residuals_lab.errors import UsageError
from residuals_lab.frameworks.torch_names import told_names
from residuals_lab.places import innermost
from residuals_lab.trace import Held, Kind, Known, Recorder, Trace

# Where this framework has another word than the traces' for an operation.
_OPS = {
    "_log_softmax": "log_softmax",
    "_safe_softmax": "softmax",
    "_scaled_dot_product_efficient_attention": "attention",
    "_scaled_dot_product_flash_attention": "attention",
    "_scaled_dot_product_flash_attention_for_cpu": "attention",
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
    "native_batch_norm": "batch_norm",
    "native_dropout": "random",
    "native_group_norm": "group_norm",
    "native_layer_norm": "layer_norm",
    "nll_loss_forward": "nll_loss",
    "normal": "random",
    "rand": "random",
    "rand_like": "random",
    "randn": "random",
    "randn_like": "random",
    "t": "transpose",
    "threefry_uniform": "random",
}
_OF_MODULES = {"forward", "backward", "__call__"}  # functions that are named by their module
_IN_MODULES = ("_buffers", "_modules", "_parameters")
_IDENTITIES = {"alias", "detach", "lift_fresh"}
_COPIES = {"clone"}  # the same values in another storage


def trace(
    fn: Callable[..., Any],
    args: Sequence[Tensor],
    names: Sequence[str],
    fields: Callable[..., Any] | None = None,
    *,
    parameters: Collection[int] = (),
    frozen: Collection[int] = (),
    is_abstract: bool = False,
) -> Trace:
    """As in the JAX adapter, by running `fn` on the tensors given; if `is_abstract`, on fake ones that look like them.
    Tensors that `fn` finds elsewhere, as in a module, are then taken for fake ones too.

    Gradients are asked for of all leaves of the graph that require one. What is held are the storages that saved-tensor
    hooks see, and what a backward reads without having made it or been given it, as a checkpoint does. `hidden` are
    those that hang on a node of the graph otherwise, or that an `autograd.Function` finds in a closure, an object, a
    module. The parameters and buffers of every module that runs are known as such.
    """
    fake = detect_fake_mode(args) or FakeTensorMode(allow_non_fake_inputs=True) if is_abstract else None
    # One tensor that is given twice stays one, for code that asks whether its key is its query.
    differentiated = [a.requires_grad and i not in frozen for i, a in enumerate(args)]
    given = {(id(a), d): a.detach().requires_grad_(d) for a, d in zip(args, differentiated, strict=True)}
    args = [given[id(a), d] for a, d in zip(args, differentiated, strict=True)]
    with fake or nullcontext(), _unlogged("torch._subclasses.fake_tensor"):
        return _trace(fn, args, names, fields, parameters, _Recording(fake))


@contextmanager
def _unlogged(name: str) -> Iterator[None]:
    """Without this logger, which says with a traceback what is raised as well."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _trace(
    fn: Callable[..., Any],
    args: Sequence[Tensor],
    names: Sequence[str],
    fields: Callable[..., Any] | None,
    parameters: Collection[int],
    recording: "_Recording",
) -> Trace:
    recorder = recording.recorder
    args = [recording.seen_as(a) for a in args]
    known = [recording.known_as(a, "parameter" if i in parameters else "input") for i, a in enumerate(args)]
    labels = dict(zip((a.number for a in known), names, strict=True))
    held: list[Held] = []
    seen: set[int] = set()

    def hold(t: Tensor, is_hidden: bool, saved: int | None = None) -> None:
        storage = recording.storage(t)
        seen.add(storage)
        sizes = t.untyped_storage().nbytes(), t.numel() * t.element_size()
        is_made = storage in recording.made
        held.append(Held(recording.number(t), storage, storage, *sizes, is_made, is_hidden, saved))

    def pack(t: Tensor) -> Tensor:
        hold(t, is_hidden=False, saved=len(recorder.steps))
        return t.detach()  # an output that its own node holds would be a cycle

    def tell(t: Tensor, name: str) -> None:
        labels.setdefault(recording.number(t), name)

    with recording:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), told_names(tell):
            out = fn(*args)
        outs = [y for y in _tensors(out) if y.requires_grad]
        if not outs:
            raise UsageError(_without_gradient(out))
        for name, t in recording.parameters.items():
            known.append(recording.known_as(t, "parameter"))
            labels.setdefault(known[-1].number, name)
        known += [recording.known_as(y, "output") for y in _tensors(out)]
        forward = len(recorder.steps)
        cotangents = [torch.ones_like(y) for y in outs]
        recorder.forget(forward)  # which is no step of the function
        recorder.phase, recording.known_to_backward = "backward", {recording.storage(g) for g in cotangents}
        leaves = [*args]
        for node in _nodes(outs):
            if type(node).__name__ == "AccumulateGrad":
                leaves.append(node.variable)
            for name, t in _hung_on(node):
                if recording.storage(t) not in seen:
                    tell(t, name)
                hold(t, is_hidden=recording.storage(t) not in seen)
        leaves += [t for t in recording.parameters.values() if t.requires_grad]
        gradients = _backward(outs, cotangents, leaves)
        for t, is_hidden in recording.found_by_backward:
            if recording.storage(t) not in seen:
                hold(t, is_hidden)
        recorder.phase = "naming"
        if fields is not None:
            with torch.no_grad():
                found = fields(*args)._asdict()
            labels |= {recording.number(t): name for name, t in found.items() if t is not None}
    return recorder.trace(held, known, map(recording.storage, gradients), labels)


def backward_of(out: Any) -> None:
    """Run the backward of all that a function gives, and leave no gradient behind."""
    outs = [y for y in _tensors(out) if y.requires_grad]
    leaves = [node.variable for node in _nodes(outs) if type(node).__name__ == "AccumulateGrad"]
    _backward(outs, [torch.ones_like(y) for y in outs], leaves)


def _backward(outs: Sequence[Tensor], cotangents: Sequence[Tensor], leaves: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of these leaves, whose own are put back afterwards.

    `torch.autograd.grad` would not do: a reentrant checkpoint refuses it, and hides its leaves.
    """
    before = {id(t): (t, t.grad) for t in leaves}
    for t, _ in before.values():
        t.grad = None
    try:
        torch.autograd.backward(outs, cotangents)
        return [t.grad for t, _ in before.values() if t.grad is not None]
    finally:
        for t, grad in before.values():
            t.grad = grad


def _tensors(out: Any) -> list[Tensor]:
    """The tensors among results of any shape, those in dataclasses too."""
    found: list[Tensor] = []
    for leaf in tree_leaves(out):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            found += _tensors([getattr(leaf, f.name) for f in dataclasses.fields(leaf)])
    return found


def _without_gradient(out: Any) -> str:
    found = _tensors(out)
    got = f"{len(found)} of them, none of which does" if found else f"{type(out).__name__} without a tensor"
    return f"expected a result that requires a gradient, got {got}; does an argument or a parameter require one?"


class _Recording(TorchDispatchMode):
    """Numbers every tensor that an operation reads or makes.

    Saved tensors come back as new objects, so a tensor is known by what it looks at: storage, offset, shape, strides,
    dtype and version. Storages are kept alive, since a freed one's address is used again.
    """

    def __init__(self, fake: FakeTensorMode | None = None) -> None:
        super().__init__()
        self.fake = fake
        self.recorder = Recorder(views_share=True)
        self.known_to_backward: set[int] = set()  # storages that the backward was given or made
        self.found_by_backward: list[tuple[Tensor, bool]] = []  # what it reads beside them, and whether a rule does
        self.parameters: dict[str, Tensor] = {}  # and buffers, of the modules that run
        self.known: set[int] = set()  # storages met so far
        self.made: set[int] = set()  # those of them that an operation made
        self._known: dict[Hashable, int] = {}
        self._places: dict[int, tuple[str, str]] = {}  # by the number of the node that autograd makes for a step
        self._scopes: list[str] = []  # of the modules that are running, the innermost last
        self._names: dict[torch.nn.Module, str] = {}
        self._before: dict[torch.nn.Module, tuple[dict[str, Any], list[dict[str, Any]]]] = {}  # as they were
        self._alive: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        ins = [self.number(t) for t in read]
        changed = [*_written(func, args, kwargs)]
        if any(self.seen_as(t) is not t for t in changed):  # a counter of batches, say: it stays what it is
            args, kwargs = tree_map(lambda a: self.seen_as(a) if isinstance(a, Tensor) else a, (args, kwargs))
            changed = [*_written(func, args, kwargs)]
        written = {id(t) for t in changed}
        out = func(*args, **kwargs)
        outs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if not (outs or written):  # a question about a tensor, such as where it is
            return out
        self.known |= {self.storage(t) for t in read}
        self.made |= {self.storage(t) for t in outs} - self.known
        self.known |= self.made
        if self.recorder.phase == "backward":
            # A checkpoint that runs the forward again, inside of a rule or not, does so with gradients enabled.
            in_rule = isinstance(torch._C._current_autograd_node(), BackwardCFunction) and not torch.is_grad_enabled()
            self.found_by_backward += [(t, in_rule) for t in read if self.storage(t) not in self.known_to_backward]
            self.known_to_backward |= {self.storage(t) for t in (*read, *outs)}
        self.recorder.line, self.recorder.scope = self._place()
        name = func.overloadpacket.__name__
        if name in _IDENTITIES:
            numbers: Sequence[int] = ins
        elif name in _COPIES:
            numbers = ins
            self.recorder.again(name, ins, numbers)
        else:
            attrs = repr(tree_map(lambda a: "tensor" if isinstance(a, Tensor) else a, (args, kwargs)))
            if torch.Tag.nondeterministic_seeded in func.tags:
                attrs += f" draw {len(self.recorder.steps)}"  # each draw is another value
            base = name.removesuffix("_") if func._schema.is_mutable else name
            if func is torch.ops.aten.pow.Tensor_Scalar and float(args[1]).is_integer():
                base = "integer_pow"  # a few products
            shapes = [(t.shape, dtype_name(t)) for t in outs]
            numbers = self.recorder.step(_word(base), attrs, ins, shapes)
        if name not in _IDENTITIES and self.recorder.phase == "backward":
            self.recorder.touch(map(self.storage, read), map(self.storage, (*outs, *changed)))
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
        for m, (attributes, inside) in self._before.items():  # a mask that it keeps would be a fake one
            m.__dict__.clear()
            m.__dict__.update(attributes)
            for name, before in zip(_IN_MODULES, inside, strict=True):
                attributes[name].clear()
                attributes[name].update(before)

    def _enter_module(self, module: torch.nn.Module, inputs: Any) -> None:
        if not self._scopes:  # the outermost one, which knows the names of all in it
            root = type(module).__name__
            self._names = {m: "/".join([root, *name.split(".")]).rstrip("/") for name, m in module.named_modules()}
            if self.fake:
                for m in self._names:
                    self._before.setdefault(m, (dict(m.__dict__), [dict(m.__dict__[name]) for name in _IN_MODULES]))
            for name, t in (*module.named_parameters(), *module.named_buffers()):
                self.parameters.setdefault(name, t)
        scope = self._names.get(module, type(module).__name__)
        self._scopes.append(scope)
        self.recorder.classes[scope] = type(module).__name__

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
            frames.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
            frame = frame.f_back
        line, _ = innermost(frames)
        _, function = innermost(takewhile(lambda f: f[2] != "_call_impl", frames))  # inside of the innermost module
        named = function if function.isidentifier() and function not in _OF_MODULES else ""
        place = line, "/".join(filter(None, (self._scopes[-1] if self._scopes else "", named)))
        if self.recorder.phase == "forward" and line:  # not for what a hook does to what is saved
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
        storage = self.seen_as(t).untyped_storage()
        self._alive.setdefault(storage._cdata, storage)
        return storage._cdata

    def known_as(self, t: Tensor, kind: Kind) -> Known:
        return Known(self.number(t), self.storage(t), kind)

    def _key(self, t: Tensor, version: int) -> Hashable:
        t = self.seen_as(t)
        return self.storage(t), t.storage_offset(), t.shape, t.stride(), t.dtype, version


def _word(name: str) -> str:
    """The traces' word for an operation: `gelu_backward` is the "gelu backward"."""
    forward = name.removesuffix("_data").removesuffix("_backward")
    return _OPS.get(forward, forward) + (" backward" if forward != name else "")


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


def _nodes(outs: Sequence[Tensor]) -> Iterator[Any]:
    """The nodes of the graph."""
    todo, seen = [y.grad_fn for y in outs], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [following for following, _ in node.next_functions]
            yield node


def _hung_on(node: Any) -> list[tuple[str, Tensor]]:
    """Tensors among the attributes of a node: what somebody put on `ctx` without `save_for_backward`, and its name."""
    if type(node).__name__ == "CheckpointFunctionBackward":  # the state of a generator
        return []
    attributes = getattr(node, "__dict__", {}).items()
    return [(name, t) for name, a in attributes for t in tree_leaves(a) if isinstance(t, Tensor)]

"""How the PyTorch adapter traces: it runs a function and its backward, and numbers what operations read and make."""

import dataclasses
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import takewhile
from types import FrameType, MappingProxyType, ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from residuals_lab.errors import UsageError
from residuals_lab.frameworks.places import innermost
from residuals_lab.frameworks.torch.draws import Draws
from residuals_lab.frameworks.torch.fakes import Fakes, abstractly
from residuals_lab.frameworks.torch.modules import METHODS, Modules
from residuals_lab.frameworks.torch.names import told_names
from residuals_lab.frameworks.torch.words import COPIES, IDENTITIES, LIKES, UNLIKE_FAKES, as_in_a_run, axes, word
from residuals_lab.trace import Kind, Trace
from residuals_lab.trace.recorder import Held, Known, Recorder

CHECKPOINT = "CheckpointFunctionBackward"  # the node of a reentrant one


def trace(
    fn: Callable[..., Any],
    args: Sequence[Tensor],
    names: Sequence[str],
    fields: Callable[..., Any] | None = None,
    *,
    parameters: Collection[int] = (),
    frozen: Collection[int] = (),
    around: Mapping[str, Any] = MappingProxyType({}),
    is_abstract: bool = False,
) -> Trace:
    """As in the JAX adapter, by running `fn` on the tensors given; if `is_abstract`, on fake ones that look like them.
    Tensors that `fn` finds elsewhere, as in a module, are then taken for fake ones too.

    Gradients are asked for of all leaves of the graph that require one. What is held are the storages that saved-tensor
    hooks see, and what a backward reads without having made it or been given it, as a checkpoint does. `hidden` are
    those that hang on a node of the graph otherwise, or that an `autograd.Function` finds in a closure, an object, a
    module. The parameters and buffers of every module that runs are known as such.
    """
    fake = detect_fake_mode(args) or Fakes() if is_abstract else None
    # One tensor that is given twice stays one, for code that asks whether its key is its query.
    differentiated = [a.requires_grad and i not in frozen for i, a in enumerate(args)]
    given = {(id(a), d): a.detach().requires_grad_(d) for a, d in zip(args, differentiated, strict=True)}
    args = [given[id(a), d] for a, d in zip(args, differentiated, strict=True)]
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices), abstractly(fake) if fake else nullcontext():
        return _trace(fn, args, names, fields, parameters, around, _Recording(fake))


class _Packed:
    """A tensor that is saved, for as long as a graph holds it."""

    def __init__(self, t: Tensor, line: str) -> None:
        self.tensor, self.line, self.version = t, line, _version(t)

    def unpacked(self) -> Tensor:
        """The tensor. PyTorch, which checks this by itself, does not where there are hooks."""
        if _version(self.tensor) != self.version:
            raise UsageError(f"a tensor that is saved at {self.line} is written into before the backward reads it")
        return self.tensor


def _trace(
    fn: Callable[..., Any],
    args: Sequence[Tensor],
    names: Sequence[str],
    fields: Callable[..., Any] | None,
    parameters: Collection[int],
    around: Mapping[str, Any],
    recording: "_Recording",
) -> Trace:
    recorder = recording.recorder
    args = [recording.seen_as(a) for a in args]
    known = [recording.known_as(a, "parameter" if i in parameters else "input") for i, a in enumerate(args)]
    labels = {recording.number(t): name for name, t in around.items() if isinstance(t, Tensor)}
    labels |= zip((a.number for a in known), names, strict=True)
    packed: list[tuple[weakref.ref[_Packed], Held]] = []
    empty: set[int] = set()

    def hold(t: Tensor, is_hidden: bool, saved: int | None = None) -> Held:
        storage = recording.storage(t)
        sizes = t.untyped_storage().nbytes(), t.numel() * t.element_size()
        made = recording.made.get(storage)
        return Held(recording.number(t), storage, storage, *sizes, made is not None, is_hidden, saved, made)

    def pack(t: Tensor) -> _Packed:
        line = recorder.line
        saved = _Packed(t.detach(), line)  # an output that its own node holds would be a cycle
        packed.append((weakref.ref(saved), hold(t, is_hidden=False, saved=len(recorder.steps))))
        if recording.storage(t) in recording.made and t.is_leaf and t.requires_grad and not t.numel():
            empty.add(recording.storage(t))  # by such a tensor the checkpoint of PyTorch 2.11 enters the graph
        return saved

    def tell(t: Tensor, name: str) -> None:
        labels.setdefault(recording.number(t), name)

    with recording:
        with torch.autograd.graph.saved_tensors_hooks(pack, _Packed.unpacked), told_names(tell):
            out = fn(*args)
        held = [a for saved, a in packed if saved() is not None]  # without those of a graph that nothing leads to
        seen = {a.storage for a in held}
        outs = [y for y in tensors(out) if y.requires_grad]
        if not outs:
            raise UsageError(_without_gradient(out))
        known = [recording.known_as(a, k.kind) for a, k in zip(args, known, strict=True)]  # if written into, no longer
        for name, t in recording.modules.parameters.items():
            if recording.storage(t) in recording.made:
                continue
            known.append(recording.known_as(t, "parameter"))
            labels.setdefault(known[-1].number, name)
        known += [recording.known_as(y, "output") for y in tensors(out)]
        recorder.gone = recording.written_over()
        forward = len(recorder.steps)
        cotangents = [torch.ones_like(y) for y in outs]
        recorder.forget(forward)  # which is no step of the function
        recorder.phase, recording.known_to_backward = "backward", {recording.storage(g) for g in cotangents}
        leaves = [*args, *recording.hidden_leaves.values()]
        for node in nodes(outs):
            if type(node).__name__ == "AccumulateGrad":
                leaves.append(node.variable)
            for name, t in _hung_on(node):
                is_hidden = recording.storage(t) not in seen
                if is_hidden:
                    tell(t, name)
                held.append(hold(t, is_hidden))
                seen.add(held[-1].storage)
        leaves += [t for t in recording.modules.parameters.values() if t.requires_grad]
        gradients = _backward(outs, cotangents, leaves)
        for t, is_hidden in recording.found_by_backward:
            if recording.storage(t) not in seen:
                held.append(hold(t, is_hidden))
                seen.add(held[-1].storage)
        recorder.phase = "naming"
        if fields is not None:
            with torch.no_grad():
                found = fields(*args)._asdict()
            labels |= {recording.number(t): name for name, t in found.items() if t is not None}
    return recorder.trace([a for a in held if a.storage not in empty], known, map(recording.storage, gradients), labels)


def backward_of(out: Any) -> None:
    """Run the backward of all that a function gives, and leave no gradient behind."""
    outs = [y for y in tensors(out) if y.requires_grad]
    leaves = [node.variable for node in nodes(outs) if type(node).__name__ == "AccumulateGrad"]
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


def tensors(out: Any) -> list[Tensor]:
    """The tensors among results of any shape, those in dataclasses too."""
    found: list[Tensor] = []
    for leaf in tree_leaves(out):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            found += tensors([getattr(leaf, f.name) for f in dataclasses.fields(leaf)])
    return found


def _without_gradient(out: Any) -> str:
    found = tensors(out)
    got = f"{len(found)} of them, none of which does" if found else f"{type(out).__name__} without a tensor"
    return f"expected a result that requires a gradient, got {got}; does an argument or a parameter require one?"


class _Recording(TorchDispatchMode):
    """Numbers every tensor that an operation reads or makes.

    Saved tensors come back as new objects, so a tensor is known by what it looks at: storage, offset, shape, strides,
    dtype, and how often that was written into. Storages are kept alive, since a freed one's address is used again.
    """

    def __init__(self, fake: FakeTensorMode | None = None) -> None:
        super().__init__()
        self.fake = fake
        self.modules = Modules(is_abstract=fake is not None)
        self.recorder = Recorder(views_share=True, classes=self.modules.classes)
        self.known_to_backward: set[int] = set()  # storages that the backward was given or made
        self.found_by_backward: list[tuple[Tensor, bool]] = []  # what it reads beside them, and whether a rule does
        self.known: set[int] = set()  # storages met so far
        self.made: dict[int, int] = {}  # those of them that an operation made, and how many steps there were then
        self.hidden_leaves: dict[int, Tensor] = {}  # of a reentrant checkpoint, which runs without gradients
        self._draws = Draws()
        self._known: dict[tuple[Any, ...], int] = {}
        self._writes: Counter[int] = Counter()  # into each storage; a tensor's own count is not that of its `.data`
        self._places: dict[int, tuple[str, str]] = {}  # by the number of the node that autograd makes for a step
        self._alive: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.lift_fresh.default and not isinstance(args[0], FakeTensor):
            return self._constant(args[0], func(args[0]))
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        ins = [self.number(t) for t in read]
        if self.recorder.phase == "forward" and not torch.is_grad_enabled():
            self.hidden_leaves.update((id(t), t) for t in read if t.requires_grad and t.is_leaf)
        changed = [*_written(func, args, kwargs)]
        if any(self.seen_as(t) is not t for t in changed):  # a counter of batches, say: it stays what it is
            args, kwargs = tree_map(lambda a: self.seen_as(a) if isinstance(a, Tensor) else a, (args, kwargs))
            changed = [*_written(func, args, kwargs)]
        written = {id(t) for t in changed}
        out = func(*args, **kwargs)
        if self.fake:
            out = as_in_a_run(func.overloadpacket.__name__, out, read)
        outs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if not (outs or written):  # a question about a tensor, such as where it is
            return out
        self.known |= {self.storage(t) for t in read}
        made = {self.storage(t) for t in outs} - self.known
        self.known |= made
        if self.recorder.phase == "backward":
            # A checkpoint that runs the forward again, inside of a rule or not, does so with gradients enabled.
            node = torch._C._current_autograd_node()
            is_rule = isinstance(node, BackwardCFunction) and type(node).__name__ != CHECKPOINT
            in_rule = is_rule and not torch.is_grad_enabled()
            self.found_by_backward += [(t, in_rule) for t in read if self.storage(t) not in self.known_to_backward]
            self.known_to_backward |= {self.storage(t) for t in (*read, *outs)}
        self.recorder.line, self.recorder.scope = self._place()
        name = func.overloadpacket.__name__
        if self.fake and name in UNLIKE_FAKES:
            self.recorder.unsure.setdefault(name, self.recorder.line)
        if name in IDENTITIES:
            numbers: Sequence[int] = ins
        elif name in COPIES:
            numbers = ins
            self.recorder.again(name, ins, numbers)
        else:
            attrs = repr(tree_map(lambda a: "tensor" if isinstance(a, Tensor) else a, (args, kwargs)))
            attrs += self._draws.attribute(func, args, kwargs)
            shapes = [(t.shape, dtype_name(t)) for t in outs]
            if name in LIKES:
                attrs, ins, read = f"{attrs} {shapes}", [], []
            numbers = self.recorder.step(word(func, args, kwargs), attrs, ins, shapes, axes(func, args, kwargs))
        self.made |= dict.fromkeys(made, len(self.recorder.steps))
        if name not in IDENTITIES and self.recorder.phase == "backward":
            self.recorder.touch(map(self.storage, read), map(self.storage, (*outs, *changed)))
        self._writes.update({self.storage(t) for t in changed})
        for t, number in zip(outs, numbers, strict=True):
            key = self._key(t)
            if id(t) in written or key not in self._known:  # a view that looks like what it is of has the same value
                self._known[key] = number
        return out

    def _constant(self, made: Tensor, given: Tensor) -> Tensor:
        """What `torch.tensor` has made and gives. Equal numbers are equal values, as where a checkpoint repeats it."""
        with unset_fake_temporarily():
            spelled_out = repr((made.device, made.tolist()))
        self.recorder.line, self.recorder.scope = self._place()
        (number,) = self.recorder.step("constant", spelled_out, [], [(made.shape, dtype_name(made))])
        storages = {self.storage(t) for t in (made, given)}
        self.known |= storages
        self.made |= dict.fromkeys(storages, len(self.recorder.steps))
        if self.recorder.phase == "backward":
            self.known_to_backward |= storages
            self.recorder.touch([], storages)
        self._known |= {self._key(t): number for t in (made, given)}
        return given

    def __enter__(self) -> "_Recording":
        self._draws.__enter__()
        self.modules.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self.modules.__exit__(*raised)
        self._draws.__exit__(*raised)

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
        named = function if function.isidentifier() and function not in METHODS else ""
        place = line, "/".join(filter(None, (self.modules.running, named)))
        number = torch._C._autograd._get_sequence_nr() - 1
        before = self._places.get(number, ("", ""))  # what a hook does to what is saved has no line
        if self.recorder.phase == "forward" and (not any(before) or (line and not before[0])):
            self._places[number] = place
        return place

    def number(self, t: Tensor) -> int:
        key = self._key(t)
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

    def written_over(self) -> set[int]:
        """The numbers of values that are nowhere any more."""
        there = {n for (storage, *_, writes), n in self._known.items() if writes == self._writes[storage]}
        return {*self._known.values()} - there

    def known_as(self, t: Tensor, kind: Kind) -> Known:
        return Known(self.number(t), self.storage(t), kind)

    def _key(self, t: Tensor) -> tuple[Any, ...]:
        t, storage = self.seen_as(t), self.storage(t)
        return storage, t.storage_offset(), t.shape, t.stride(), t.dtype, self._writes[storage]


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


def nodes(outs: Sequence[Tensor]) -> Iterator[Any]:
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
    if type(node).__name__ == CHECKPOINT:  # the state of a generator
        return []
    return [(name, t) for name, a in getattr(node, "__dict__", {}).items() for t in _within(a, set())]


def _within(a: Any, seen: set[int]) -> Iterator[Tensor]:
    """The tensors in a tree, in a closure, or in an object's attributes."""
    for leaf in tree_leaves(a):
        if isinstance(leaf, Tensor):
            yield leaf
        elif id(leaf) not in seen and not isinstance(leaf, (type, ModuleType, torch.nn.Module)):
            seen.add(id(leaf))
            for cell in getattr(leaf, "__closure__", None) or ():
                yield from _within(cell.cell_contents, seen)
            for part in list(getattr(leaf, "__dict__", {}).values()):
                yield from _within(part, seen)

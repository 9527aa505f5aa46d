"""How the PyTorch adapter numbers tensors: a dispatch mode that sees what every operation reads and makes."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from itertools import takewhile
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves, tree_map

from residuals_lab.frameworks.places import innermost
from residuals_lab.frameworks.torch.draws import Draws
from residuals_lab.frameworks.torch.modules import METHODS, Modules
from residuals_lab.frameworks.torch.replay import Tape
from residuals_lab.frameworks.torch.words import COPIES, IDENTITIES, LIKES, UNLIKE_FAKES, UNLIKE_ON_GPU, axes, word
from residuals_lab.trace import Kind
from residuals_lab.trace.recorder import ArrayType, Known, Recorder, Saved

OUTSIDE = "outside"  # where numbers go that Python, NumPy or a kernel of somebody's own reads
_READS = ("__array__", "__dlpack__", "data_ptr", "numpy", "tolist")  # methods that read memory and are no operations
_LIST = Tensor.tolist  # as it is outside of a recording
_GIVES = ("as_tensor", "asarray", "from_dlpack", "from_numpy", "frombuffer")  # functions that share memory of others
_ASKS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default}  # operations that give a number
CHECKPOINT = "CheckpointFunctionBackward"  # the node of a reentrant checkpoint


class Recording(TorchDispatchMode):
    """Numbers every tensor that an operation reads or makes.

    Saved tensors come back as new objects, so a tensor is known by what it looks at: storage, offset, shape, strides,
    dtype, and how often that was written into. Storages are kept alive, since a freed one's address is used again.
    """

    def __init__(self, fake: FakeTensorMode | None = None, with_contents: bool = False, is_taped: bool = False) -> None:
        super().__init__()
        self.fake = fake
        self.tape = Tape(self.place_of) if is_taped else None  # to run the operations again
        self.with_contents = with_contents
        self.contents: dict[int, Tensor] = {}  # number → a copy of what is saved, if asked for
        self.modules = Modules(is_abstract=fake is not None)
        self.recorder = Recorder(views_share=True, classes=self.modules.classes)
        self.known_to_backward: set[int] = set()  # storages that the backward was given or made
        self.found_by_backward: list[tuple[Tensor, bool]] = []  # others that it reads, and whether a rule does so
        self.known: set[int] = set()  # storages met so far
        self.firsts: dict[int, tuple[int, int]] = {}  # storage → the first value in it, and that value's bytes
        self.places: dict[int, str] = {}  # storage → the line that made it
        self.made: dict[int, int] = {}  # storage that an operation made → how many steps there were then
        self.hidden_leaves: dict[int, Tensor] = {}  # of a reentrant checkpoint, whose forward runs without gradients
        self._unhooked: list[range] = []  # the steps that ran without hooks
        self._draws = Draws()
        self._known: dict[tuple[Any, ...], int] = {}
        self._writes: Counter[int] = Counter()  # storage → writes; a tensor's own count misses those to its `.data`
        self._places: dict[int, tuple[str, str]] = {}  # number of an autograd node → its forward's line and module
        self.alive: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(hasattr(kind, "__tensor_flatten__") for kind in types):
            return NotImplemented  # its own operations, on the tensors that it consists of, come here one by one
        if func is torch.ops.aten.lift_fresh.default and not isinstance(args[0], FakeTensor):
            made = self._constant(args[0], func(args[0]))
            if self.tape:
                self.tape.add(func, args, kwargs, made)
            return made
        given, begin = (args, kwargs), len(self.recorder.steps)
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        ins = [self.number(t) for t in read]
        if self.recorder.phase == "forward" and not torch.is_grad_enabled():
            leaves = [t for t in read if t.requires_grad and t.is_leaf]
            # What the forward made is no leaf, though a view of it looks like one within a rule.
            self.hidden_leaves.update((id(t), t) for t in leaves if self.storage(t) not in self.made)
        changed = [*_written(func, args, kwargs)]
        if any(self.seen_as(t) is not t for t in changed):  # a real one, such as a counter of batches, stays as it is
            args, kwargs = tree_map(lambda a: self.seen_as(a) if isinstance(a, Tensor) else a, (args, kwargs))
            changed = [*_written(func, args, kwargs)]
        out = func(*args, **kwargs)
        outs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if outs or changed:  # else it is a question about a tensor, such as where it is
            self._record(func, args, kwargs, read, ins, changed, outs)
            if self.tape:
                self.tape.add(func, *given, out, changed, begin if len(self.recorder.steps) > begin else None)
        elif func in _ASKS:
            self._leaves(func.overloadpacket.__name__.strip("_"), read)
        return out

    def _leaves(self, how: str, read: Sequence[Tensor]) -> None:
        """Record that the backward reads numbers without an operation: what it makes of them cannot be followed."""
        if self.recorder.phase == "backward":
            self._follow_backward(read, [])
            self.recorder.again(how, [self.number(t) for t in read], [])
            self.recorder.touch(map(self.storage, read), [OUTSIDE])

    def _record(
        self,
        func: Any,
        args: Any,
        kwargs: Any,
        read: Sequence[Tensor],
        ins: Sequence[int],
        changed: Sequence[Tensor],
        outs: Sequence[Tensor],
    ) -> None:
        """Number the tensors that an operation makes of those that it reads, or changes."""
        self.known |= {self.storage(t) for t in read}
        made = {self.storage(t) for t in outs} - self.known
        self.known |= made
        if self.recorder.phase == "backward":
            self._follow_backward(read, outs)
        self.recorder.line, self.recorder.module = self._place()
        name = func.overloadpacket.__name__
        if outs and not self.recorder.device:
            self.recorder.device = {"cuda": "gpu"}.get(outs[0].device.type, outs[0].device.type)
        if self.recorder.device == "cpu" and name in UNLIKE_ON_GPU:
            self.recorder.elsewhere.setdefault(*UNLIKE_ON_GPU[name])
        if self.fake and name in UNLIKE_FAKES:
            self.recorder.unsure.setdefault(name, self.recorder.line)
        if name in LIKES:
            read, ins = [], []
        if name in IDENTITIES:
            numbers = ins
        elif name in COPIES:
            numbers = ins
            self.recorder.again(name, ins, numbers)
        else:
            types = [_type(t) for t in outs]
            attrs = repr(tree_map(lambda a: "tensor" if isinstance(a, Tensor) else a, (args, kwargs)))
            attrs += self._draws.attribute(func, args, kwargs) + (f" {types}" if name in LIKES else "")
            numbers = self.recorder.step(word(func, args, kwargs), attrs, ins, types, axes(func, args, kwargs))
        self.made |= dict.fromkeys(made, len(self.recorder.steps))
        if name not in IDENTITIES and self.recorder.phase == "backward":
            self.recorder.touch(map(self.storage, read), map(self.storage, (*outs, *changed)))
        self._writes.update({self.storage(t) for t in changed})
        written = {id(t) for t in changed}
        for t, number in zip(outs, numbers, strict=True):
            key = self._key(t)
            if key[0] in made:
                self.firsts.setdefault(key[0], (number, t.numel() * t.element_size()))
                self.places.setdefault(key[0], self.recorder.line)
            if id(t) in written or key not in self._known:  # a view that looks like its base has the same value
                self._known[key] = number

    def _follow_backward(self, read: Sequence[Tensor], outs: Sequence[Tensor]) -> None:
        """Note the tensors that the backward reads though it neither made them nor was given them."""
        # A checkpoint that runs the forward again, inside of a rule or not, does so with gradients enabled.
        node = torch._C._current_autograd_node()
        is_rule = isinstance(node, BackwardCFunction) and type(node).__name__ != CHECKPOINT
        in_rule = is_rule and not torch.is_grad_enabled()
        self.found_by_backward += [(t, in_rule) for t in read if self.storage(t) not in self.known_to_backward]
        self.known_to_backward |= {self.storage(t) for t in (*read, *outs)}

    def _constant(self, made: Tensor, given: Tensor) -> Tensor:
        """Number what `torch.tensor` makes: equal numbers are equal values, as when a checkpoint repeats it."""
        with unset_fake_temporarily():
            spelled_out = repr((made.device, _LIST(made)))
        self.recorder.line, self.recorder.module = self._place()
        (number,) = self.recorder.step("constant", spelled_out, [], [_type(made)])
        storages = {self.storage(t) for t in (made, given)}
        self.known |= storages
        self.made |= dict.fromkeys(storages, len(self.recorder.steps))
        if self.recorder.phase == "backward":
            self.known_to_backward |= storages
            self.recorder.touch([], storages)
        self._known |= {self._key(t): number for t in (made, given)}
        return given

    def __enter__(self) -> "Recording":
        self._draws.__enter__()
        for name in _READS:
            setattr(Tensor, name, self._noticed(name, getattr(Tensor, name)))
        for name in _GIVES:
            setattr(torch, name, self._given(getattr(torch, name)))
        self.modules.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        for place, names in ((Tensor, _READS), (torch, _GIVES)):
            for name in names:
                setattr(place, name, getattr(place, name).__wrapped__)
        self.modules.__exit__(*raised)
        self._draws.__exit__(*raised)

    @contextmanager
    def unhooked(self) -> Iterator[None]:
        """A context in which no hooks see what is saved: only memory tells."""
        begin = len(self.recorder.steps)
        yield
        self._unhooked.append(range(begin, len(self.recorder.steps) + 1))
        lines = [step.line for step in self.recorder.steps[begin:] if step.line]
        line = f" at {lines[0]}" if lines else ""
        note = f"What torch.func.grad or its like{line} saves is told by its memory alone, and not by whom it is saved."
        if note not in self.recorder.notes:
            self.recorder.notes.append(note)

    def _noticed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def noticed(t: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.recorder.phase == "backward" and not is_traceable_wrapper_subclass(t):
                self._leaves(name.strip("_"), [t])
            return method(t, *args, **kwargs)

        return noticed

    def _given(self, make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @wraps(make)
        def given(*args: Any, **kwargs: Any) -> Tensor:
            made = make(*args, **kwargs)
            if self.recorder.phase == "backward":
                self.known_to_backward.add(self.storage(made))
            return made

        return given

    def _place(self) -> tuple[str, str]:
        """Line and module of a step; a backward step has those of the forward step whose node runs it."""
        node = torch._C._current_autograd_node()
        if node is not None and node._sequence_nr() in self._places:
            return self._places[node._sequence_nr()]
        frame: FrameType | None = sys._getframe(2)
        frames = []
        while frame is not None:
            frames.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
            frame = frame.f_back
        line, _ = innermost(frames)
        _, function = innermost(takewhile(lambda f: f[2] != "_call_impl", frames))  # within the innermost module
        named = function if function.isidentifier() and function not in METHODS else ""
        place = line, "/".join(filter(None, (self.modules.running, named)))
        number = torch._C._autograd._get_sequence_nr() - 1
        before = self._places.get(number, ("", ""))  # a hook that runs when a tensor is saved has no line
        if self.recorder.phase == "forward" and (not any(before) or (line and not before[0])):
            self._places[number] = place
        return place

    def number(self, t: Tensor) -> int:
        key = self._key(t)
        if key not in self._known:
            self._known[key] = self.recorder.value(key, _type(t))
        return self._known[key]

    def seen_as(self, t: Tensor) -> Tensor:
        """The tensor itself, or the fake one that stands for it."""
        return self.fake.from_tensor(t) if self.fake and not isinstance(t, FakeTensor) else t

    def storage(self, t: Tensor) -> int:
        storage = self.seen_as(t).untyped_storage()
        self.alive.setdefault(storage._cdata, storage)
        return storage._cdata

    def written_over(self) -> set[int]:
        """The numbers of values that no tensor has any more, or that were written through a view of another tensor."""
        there = {n for (storage, *_, writes), n in self._known.items() if writes == self._writes[storage]}
        steps_make = {n for step in self.recorder.steps for n in step.outs}
        unseen = {n for (storage, *_), n in self._known.items() if storage in self.made and n not in steps_make}
        return {*self._known.values()} - there | unseen

    def saved_as(self, t: Tensor, is_hidden: bool, saved_at: int | None = None) -> Saved:
        storage = self.storage(t)
        sizes = t.untyped_storage().nbytes(), t.numel() * t.element_size()
        made_at = self.made.get(storage)
        if self.with_contents:
            with _disable_current_modes():
                self.contents.setdefault(self.number(t), t.detach().clone())
        return Saved(self.number(t), storage, storage, *sizes, made_at is not None, is_hidden, saved_at, made_at)

    def hidden_as(self, storage: int) -> Saved:
        """A storage of which nothing is known but that the graph keeps it."""
        number, nbytes = self.firsts[storage]
        is_hidden = not any(self.made[storage] in steps for steps in self._unhooked)
        sizes = self.alive[storage].nbytes(), nbytes
        return Saved(number, storage, storage, *sizes, True, is_hidden, None, self.made[storage])

    def forget_tensors(self) -> None:
        """Hold no tensor any more; the storages stay."""
        self.hidden_leaves.clear()
        self.found_by_backward.clear()

    def known_as(self, t: Tensor, kind: Kind) -> Known:
        return Known(self.number(t), self.storage(t), kind)

    def place_of(self, t: Tensor) -> tuple[Any, ...]:
        """What a tensor looks at: its storage, and which part of it."""
        t, storage = self.seen_as(t), self.storage(t)
        return storage, t.storage_offset(), t.shape, t.stride(), t.dtype

    def _key(self, t: Tensor) -> tuple[Any, ...]:
        place = self.place_of(t)
        return *place, self._writes[place[0]]


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """The tensors that an operation writes into."""
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            t = args[i] if i < len(args) else kwargs.get(argument.name)
            yield from (leaf for leaf in tree_leaves(t) if isinstance(leaf, Tensor))


def _type(t: Tensor) -> ArrayType:
    return ArrayType(t.shape, dtype_name(t), t.element_size())


def dtype_name(t: Tensor) -> str:
    return str(t.dtype).removeprefix("torch.")

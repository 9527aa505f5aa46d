"""How the PyTorch adapter traces: it runs a function and its backward, and numbers what operations read and make."""

import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

from residuals_lab.errors import UsageError
from residuals_lab.frameworks.torch import memory
from residuals_lab.frameworks.torch.fakes import Fakes, faking
from residuals_lab.frameworks.torch.names import told_names
from residuals_lab.frameworks.torch.recording import CHECKPOINT, OUTSIDE, Recording
from residuals_lab.frameworks.torch.transforms import stepping_aside
from residuals_lab.show import size
from residuals_lab.trace import Kind, Role, Trace
from residuals_lab.trace.recorder import Known, Saved


def trace(
    fn: Callable[..., Any],
    args: Sequence[Tensor],
    names: Sequence[str],
    fields: Callable[..., Any] | None = None,
    *,
    roles: Sequence[Role] = (),
    around: Mapping[str, Any] = MappingProxyType({}),
    is_abstract: bool = False,
    with_contents: bool = False,
) -> Trace:
    """By running `fn` on the tensors given; if `is_abstract`, on fake ones that look like them, and then fake tensors
    stand for those too that `fn` finds elsewhere, as in a module.

    The backward makes the gradients of all leaves of the graph that require one. The residuals are the storages that
    saved-tensor hooks see, and those that the backward reads though it neither made them nor was given them, as a
    checkpoint does. Of the kind "hidden" are residuals that hang on a node of the graph otherwise, or that an
    `autograd.Function` finds in a closure, an object, a module. The parameters and buffers of every module that runs
    are known as such.
    """
    with prepared(args, roles, is_abstract) as (args, fake):
        return _trace(fn, args, names, fields, roles or ["input"] * len(args), around, Recording(fake, with_contents))


@contextmanager
def prepared(
    args: Sequence[Tensor], roles: Sequence[Role], is_abstract: bool
) -> Iterator[tuple[list[Tensor], FakeTensorMode | None]]:
    """A context in which a function runs to be traced: its arguments as leaves of a graph, and the mode of fakes."""
    fake = detect_fake_mode(args) or Fakes() if is_abstract else None
    # One tensor that is given twice stays one, for code that asks whether its key is its query.
    roles = roles or ["input"] * len(args)
    differentiated = [a.requires_grad and role != "frozen" for role, a in zip(roles, args, strict=True)]
    given = {(id(a), d): a.detach().requires_grad_(d) for a, d in zip(args, differentiated, strict=True)}
    args = [given[id(a), d] for a, d in zip(args, differentiated, strict=True)]
    if isinstance(fake, Fakes):
        fake.forget(args)
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices), faking(fake) if fake else nullcontext():
        yield args, fake


class _Packed:
    """A tensor that is saved, for as long as a graph holds it."""

    def __init__(self, t: Tensor, line: str) -> None:
        self.tensor, self.line, self.version = t, line, _version(t)

    def unpacked(self) -> Tensor:
        """The tensor, if it is as it was; where there are hooks, PyTorch does not check that by itself."""
        if _version(self.tensor) != self.version:
            raise UsageError(f"a tensor that is saved at {self.line} is written into before the backward reads it")
        return self.tensor


def _trace(
    fn: Callable[..., Any],
    args: Sequence[Tensor],
    names: Sequence[str],
    fields: Callable[..., Any] | None,
    roles: Sequence[Role],
    around: Mapping[str, Any],
    recording: Recording,
) -> Trace:
    args = [recording.seen_as(a) for a in args]
    kinds: list[Kind] = ["parameter" if role == "parameter" else "input" for role in roles]
    labels = {recording.number(t): name for name, t in around.items() if isinstance(t, Tensor)}
    labels |= {recording.number(t): name for name, a in zip(names, args, strict=True) for t in parts([a])}
    packed: list[tuple[weakref.ref[_Packed], Saved]] = []
    empty: set[Hashable] = set()

    def pack(t: Tensor) -> _Packed:
        # Before the operation that is now recorded, to detach the tensor.
        line = recording.recorder.line or recording.recorder.module or "a place that is not known"
        kept = _Packed(t.detach(), line)  # detached, since an output that its own node holds would be a cycle
        saved_at = len(recording.recorder.steps)
        packed.extend((weakref.ref(kept), recording.saved_as(part, False, saved_at)) for part in parts([t]))
        if recording.storage(t) in recording.made and t.is_leaf and t.requires_grad and not t.numel():
            empty.add(recording.storage(t))  # by such a tensor the checkpoint of PyTorch 2.11 enters the graph
        return kept

    def tell(t: Tensor, name: str) -> None:
        for part in parts([t]):
            labels.setdefault(recording.number(part), name)

    with recording:
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, _Packed.unpacked)
        with hooks, told_names(tell), stepping_aside(recording.unhooked):
            out = fn(*args)
        if isinstance(recording.fake, Fakes):
            recording.recorder.unsure |= recording.fake.asked
        saved = [a for kept, a in packed if kept() is not None]  # a graph without a result has let go of its tensors
        outs = [y for y in tensors(out) if y.requires_grad]
        if not outs:
            raise UsageError(_without_gradient(out))
        known = _known(recording, zip(args, kinds, strict=True), tensors(out), tell)
        made = {key: recording.alive[key] for key in recording.firsts}
        there = memory.alive(made, {a.storage for a in saved} | {a.storage for a in known})
        recording.recorder.gone = recording.written_over()
        gradients, others = _record_backward(recording, outs, args, {a.storage for a in saved}, tell)
        recording.recorder.phase = "naming"
        if fields is not None:
            with torch.no_grad():
                found = fields(*args)._asdict()
            labels |= {recording.number(t): name for name, t in found.items() if t is not None}
    saved = [a for a in (*saved, *others) if a.storage not in empty]
    gradient_keys = [OUTSIDE, *map(recording.storage, parts(gradients))]
    del out, outs, gradients
    saved += _held_otherwise(recording, there, saved, {a.storage for a in known})
    found = recording.recorder.trace(saved, known, gradient_keys, labels)
    return replace(found, contents=recording.contents)


def _known(
    recording: Recording,
    given: Iterable[tuple[Tensor, Kind]],
    results: Sequence[Tensor],
    tell: Callable[[Tensor, str], None],
) -> list[Known]:
    """What is alive anyway. An argument that was written into has another number now."""
    known = [recording.known_as(t, kind) for a, kind in given for t in parts([a])]
    for name, whole in recording.modules.parameters.items():
        for t in parts([whole]):
            if recording.storage(t) not in recording.made:
                known.append(recording.known_as(t, "parameter"))
                tell(t, name)
    return known + [recording.known_as(t, "output") for t in parts(results)]


def _held_otherwise(recording: Recording, there: set[int], saved: Sequence[Saved], known: set[Hashable]) -> list[Saved]:
    """What the graph, to which nothing else may refer now, holds and neither hooks nor the backward showed.

    Said too: what a reference cycle keeps for longer, and what the graph holds that somebody else holds as well.
    """
    recording.forget_tensors()
    freed = memory.freed(recording.alive, there)
    new = {a.storage: a.storage_bytes for a in saved if a.is_made and a.storage not in known}
    if elsewhere := sum(nbytes for storage, nbytes in new.items() if storage in there - freed.all):
        recording.recorder.notes.append(
            f"Held elsewhere too: {size(elsewhere)} of the new memory stays when the graph is gone, as in a cache or a "
            "global variable."
        )
    if late := sum(recording.alive[storage].nbytes() for storage in freed.late):
        places = sorted({recording.places[storage] for storage in freed.late} - {""})
        made = f" made at {', '.join(places[:3])}" if places else ""
        recording.recorder.notes.append(
            f"Leaks: {size(late)}{made} is in a reference cycle, as "
            "where an output is an attribute of its own ctx; it stays until Python's garbage collector runs."
        )
    seen = {a.storage for a in saved} | known
    return [recording.hidden_as(storage) for storage in sorted(freed.all) if storage not in seen]


def _record_backward(
    recording: Recording,
    outs: Sequence[Tensor],
    args: Sequence[Tensor],
    seen: set[Hashable],
    tell: Callable[[Tensor, str], None],
) -> tuple[list[Tensor], list[Saved]]:
    """The gradients, and the tensors that are saved where no hook sees them; `seen` are the storages that hooks saw."""
    recorder, found = recording.recorder, list[Saved]()
    boundary = len(recorder.steps)
    cotangents = [torch.ones_like(y) for y in outs]
    recorder.forget(boundary)  # to make the cotangents is no step of the function
    recorder.phase, recording.known_to_backward = "backward", {recording.storage(g) for g in parts(cotangents)}
    leaves = [*args, *recording.hidden_leaves.values()]
    for node in nodes(outs):
        if type(node).__name__ == "AccumulateGrad":
            leaves.append(node.variable)
        for name, t in [(name, part) for name, whole in _hung_on(node) for part in parts([whole])]:
            is_hidden = recording.storage(t) not in seen
            if is_hidden:
                tell(t, name)
            found.append(recording.saved_as(t, is_hidden))
            seen.add(found[-1].storage)
    leaves += [t for t in recording.modules.parameters.values() if t.requires_grad]
    gradients = _backward(outs, cotangents, leaves)
    for t, is_hidden in recording.found_by_backward:
        if recording.storage(t) not in seen:
            found.append(recording.saved_as(t, is_hidden))
            seen.add(found[-1].storage)
    return gradients, found


def backward_of(out: Any) -> None:
    """Run the backward of all results of a function, and leave no gradient behind."""
    outs = [y for y in tensors(out) if y.requires_grad]
    leaves = [node.variable for node in nodes(outs) if type(node).__name__ == "AccumulateGrad"]
    _backward(outs, [torch.ones_like(y) for y in outs], leaves)


def _backward(outs: Sequence[Tensor], cotangents: Sequence[Tensor], leaves: Sequence[Tensor]) -> list[Tensor]:
    """The gradients that these leaves get, each leaf once."""
    each = {id(t): t for t in leaves}
    return [d for d in accumulated(outs, cotangents, [*each.values()]) if d is not None]


def accumulated(
    outs: Sequence[Tensor], cotangents: Sequence[Tensor], leaves: Sequence[Tensor], retain_graph: bool = False
) -> list[Tensor | None]:
    """The gradients of these leaves; the `.grad` that they had is put back afterwards.

    `torch.autograd.grad` would not do: a reentrant checkpoint refuses it, and hides its leaves.
    """
    before = {id(t): (t, t.grad) for t in leaves}
    for t, _ in before.values():
        t.grad = None
    try:
        torch.autograd.backward(outs, cotangents, retain_graph=retain_graph)
        return [t.grad for t in leaves]
    finally:
        for t, grad in before.values():
            t.grad = grad


def tensors(out: Any) -> list[Tensor]:
    """The tensors among results of any shape, those in objects too."""
    return [*_within(out, set())]


def _without_gradient(out: Any) -> str:
    found = tensors(out)
    got = "one that requires none" if len(found) == 1 else f"{len(found)} that require none"
    return (
        f"expected a result that requires a gradient, got {got if found else f'{type(out).__name__} without a tensor'}"
    )


def parts(given: Sequence[Tensor]) -> list[Tensor]:
    """The tensors that have memory: in place of a wrapper, such as a nested tensor, those that it consists of."""
    found: list[Tensor] = []
    for t in given:
        if is_traceable_wrapper_subclass(t):
            names, _ = t.__tensor_flatten__()
            found += parts([getattr(t, name) for name in names])
        else:
            found.append(t)
    return found


def _version(t: Tensor) -> int:
    return 0 if t.is_inference() else t._version


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
    """The tensors among the attributes of a node, with names: a rule put them on `ctx` without `save_for_backward`."""
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
            slots = [name for c in type(leaf).__mro__ for name in [*getattr(c, "__slots__", ())] if hasattr(leaf, name)]
            for part in (*getattr(leaf, "__dict__", {}).values(), *(getattr(leaf, name) for name in slots)):
                yield from _within(part, seen)

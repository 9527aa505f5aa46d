"""A forward that is run again from a record of its operations, with ops of ours in place of some of them.

The record has the operations as they come below autograd: each of these has a derivative of its own, so that to run
them again, where autograd sees them, makes the same graph. A call of an `autograd.Function` is one operation.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint


class Slot(NamedTuple):
    """The place of a tensor in a record."""

    token: int


@dataclass(frozen=True)
class Entry:
    """One operation of a record."""

    call: Callable[..., Any]
    args: Any  # with a Slot for each tensor
    kwargs: Any
    reads: tuple[int, ...]  # tokens of the tensors that it is given, in order
    outs: tuple[int, ...]  # and of those that it gives
    writes: tuple[int, ...]  # storages that it writes into
    is_grad: bool  # gradients are enabled


@dataclass
class Tape:
    """The record, by the order in which operations run."""

    key: Callable[[Tensor], tuple[Any, ...]]  # what a tensor looks at; its storage comes first
    entries: list[Entry] = field(default_factory=list)
    places: dict[int, int] = field(default_factory=dict)  # place of a step in a trace → its entry
    constants: dict[int, Tensor] = field(default_factory=dict)  # token → a tensor that was there before
    storages: dict[int, Any] = field(default_factory=dict)  # token → its storage
    _objects: dict[int, tuple[weakref.ref[Tensor], int]] = field(default_factory=dict)
    _keys: dict[tuple[Any, ...], int] = field(default_factory=dict)
    _inside: int = 0  # how many calls of a Function are running

    def token(self, t: Tensor) -> int:
        """The token of a tensor: by the object, or where PyTorch made another one of it, by what it looks at."""
        known = self._objects.get(id(t))
        if known is not None and known[0]() is t:
            return known[1]
        token = self._keys.get(self.key(t))
        if token is None:
            token = self._new(t)
            self.constants[token] = t
        self._objects[id(t)] = weakref.ref(t), token
        return token

    def _new(self, t: Tensor) -> int:
        token = len(self.storages)
        self.storages[token] = self.key(t)[0]
        self._objects[id(t)] = weakref.ref(t), token
        self._keys[self.key(t)] = token
        return token

    def given(self, t: Tensor) -> int:
        """The token of an argument."""
        known = self._objects.get(id(t))
        return known[1] if known is not None and known[0]() is t else self._new(t)

    def add(
        self,
        call: Callable[..., Any],
        args: Any,
        kwargs: Any,
        out: Any,
        writes: Sequence[Tensor] = (),
        place: int | None = None,
    ) -> None:
        """Record an operation that has run, the step at this place, unless it is a part of a Function."""
        if self._inside:
            return
        given, named = tree_map(lambda a: Slot(self.token(a)) if isinstance(a, Tensor) else a, (args, kwargs))
        reads = tuple(self.token(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor))
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        outs = tuple(self._given_back(t, reads) for t in made)
        storages = tuple(self.key(t)[0] for t in writes)
        if place is not None:
            self.places[place] = len(self.entries)
        self.entries.append(Entry(call, given, named, reads, outs, storages, torch.is_grad_enabled()))

    def _given_back(self, t: Tensor, reads: Sequence[int]) -> int:
        known = self._objects.get(id(t))
        is_read = known is not None and known[0]() is t and known[1] in reads
        return known[1] if is_read and known else self._new(t)

    @contextmanager
    def functions(self) -> Iterator[None]:
        """A context in which each call of an `autograd.Function` is recorded as one operation."""
        before = Function.__dict__["apply"]

        def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
            call = before.__get__(None, cls)
            for t in tree_leaves((args, kwargs)):
                if isinstance(t, Tensor):
                    self.token(t)
            self._inside += 1
            try:
                out = call(*args, **kwargs)
            finally:
                self._inside -= 1
            self.add(call, args, kwargs, out)
            return out

        setattr(Function, "apply", classmethod(apply))  # noqa: B010  mypy allows no method to be set
        try:
            yield
        finally:
            setattr(Function, "apply", before)  # noqa: B010

    def needed(self, results: Sequence[int], instead: "Instead") -> dict[int, bool]:
        """The entries that results need, where some tensors are made of others; False for an entry that gives nothing
        else.
        """
        live, found, before = set(results), dict[int, bool](), -1
        while len(live) > before:  # again, since a write into a view may come before its base is known to be needed
            before = len(live)
            for i, entry in reversed([*enumerate(self.entries)]):
                replaced = {out for out in entry.outs if (i, out) in instead and out in live}
                live.update(token for out in replaced for token in instead[i, out].reads)
                written = entry.writes and {self.storages[n] for n in live}.intersection(entry.writes)
                if replaced:
                    found.setdefault(i, False)
                if (written and not replaced) or not live.isdisjoint({*entry.outs} - replaced):
                    found[i] = True
                    live.update(entry.reads)
        return dict(sorted(found.items()))


class Made(NamedTuple):
    """What stands in place of a tensor of a record."""

    call: Callable[..., Tensor]
    reads: tuple[int, ...]  # tokens


Instead = Mapping[tuple[int, int], Made]  # by the entry and the token: one that is written into keeps its token


def run(
    tape: Tape,
    given: Mapping[int, Tensor],
    results: Sequence[int],
    instead: Instead,
    loops: Sequence[Sequence[int]] = (),
) -> list[Tensor]:
    """The results of a record, of other arguments, with other tensors in place of some, and with checkpoints of the
    iterations of loops, by the entries at which they begin.
    """
    env: dict[int, Tensor] = {**tape.constants, **given}
    needed = tape.needed(results, instead)
    iterations = {begin: end for bounds in loops for begin, end in pairwise(bounds)}
    i = 0
    while i < len(tape.entries):
        end = iterations.get(i, i + 1)
        inside = {j: needed[j] for j in range(i, end) if j in needed}
        if i in iterations:
            _checkpoint(tape, inside, env, instead, _later(tape, needed, end, results, instead))
        else:
            _execute(tape, inside, env, instead)
        i = end
    return [env[n] for n in results]


def _execute(tape: Tape, entries: Mapping[int, bool], env: dict[int, Tensor], instead: Instead) -> None:
    """Run these entries; False for one that gives nothing but what is replaced."""
    for i, is_run in entries.items():
        entry = tape.entries[i]
        with torch.set_grad_enabled(entry.is_grad):
            if is_run:
                args, kwargs = tree_map(
                    lambda a: env[a.token] if isinstance(a, Slot) else a,
                    (entry.args, entry.kwargs),
                    is_leaf=lambda a: isinstance(a, Slot),
                )
                given = [t for t in tree_leaves(entry.call(*args, **kwargs)) if isinstance(t, Tensor)]
                env.update(zip(entry.outs, given, strict=True))
            for out in entry.outs:
                if (made := instead.get((i, out))) is not None:
                    env[out] = made.call(*(env[n] for n in made.reads))


def _checkpoint(
    tape: Tape, entries: Mapping[int, bool], env: dict[int, Tensor], instead: Instead, later: set[int]
) -> None:
    """Run these entries in a checkpoint, which keeps what they read of before."""
    made = {n for i in entries for n in tape.entries[i].outs}
    reads = dict.fromkeys(n for i in entries for n in _reads(tape, i, entries[i], instead) if n not in made)
    ins = [n for n in reads if n not in tape.constants]
    outs = [*dict.fromkeys(n for i in entries for n in tape.entries[i].outs if n in later)]
    constants = {n: env[n] for n in reads if n in tape.constants}

    def body(*arrays: Tensor) -> list[Tensor]:
        local = constants | dict(zip(ins, arrays, strict=True))
        _execute(tape, entries, local, instead)
        return [local[n] for n in outs]

    env.update(zip(outs, checkpoint(body, *(env[n] for n in ins), use_reentrant=False), strict=True))


def _later(tape: Tape, needed: Mapping[int, bool], begin: int, results: Sequence[int], instead: Instead) -> set[int]:
    """What is read from an entry on, or is a result."""
    return set(results).union(*(_reads(tape, i, needed[i], instead) for i in needed if i >= begin))


def _reads(tape: Tape, i: int, is_run: bool, instead: Instead) -> list[int]:
    entry = tape.entries[i]
    replaced = [n for out in entry.outs if (i, out) in instead for n in instead[i, out].reads]
    return [*(entry.reads if is_run else ()), *replaced]

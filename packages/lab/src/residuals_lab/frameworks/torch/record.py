"""A function of somebody's as a program that is run again with ops in place of some of its steps."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

import residuals_torch
from residuals_lab.frameworks.sites import Loop, Read, Site, Unplaced
from residuals_lab.frameworks.torch.recording import Recording
from residuals_lab.frameworks.torch.replay import Entry, Made, Tape, run
from residuals_lab.frameworks.torch.tracing import prepared, tensors
from residuals_lab.frameworks.torch.transforms import stepping_aside
from residuals_lab.trace import Role, Trace

_MANY = 2**26  # elements of an array that is not computed


class Record:
    """The record of a forward."""

    def __init__(self, tape: Tape, given: Sequence[int], results: Sequence[int], is_abstract: bool) -> None:
        self._tape, self._given, self._results, self._is_abstract = tape, given, results, is_abstract

    def instead(self, trace: Trace, sites: Sequence[Site | Loop]) -> Callable[..., Any]:
        """The function of the same tensors, with the ops in place."""
        made = {self._out(trace, site): self._made(trace, site) for site in sites if isinstance(site, Site)}
        loops = [self._bounds(site) for site in sites if isinstance(site, Loop)]

        def replayed(*args: Tensor) -> list[Tensor]:
            return run(self._tape, dict(zip(self._given, args, strict=True)), self._results, made, loops)

        return replayed

    def numbers(self, trace: Trace, read: Read) -> Any:
        """By running the operations that make it, outside of any mode."""
        if trace.values[read.number].elements > _MANY:
            return None
        token = self._read(trace, read)
        needed = self._tape.needed([token], {})
        reads = {token}.union(*(self._tape.entries[i].reads for i in needed))
        constants = {n: t for n, t in self._tape.constants.items() if n in reads}
        if not reads.isdisjoint(self._given) or any(isinstance(t, FakeTensor) for t in constants.values()):
            return None
        if any(self._tape.entries[i].writes and not _is_new(self._tape, i) for i in needed):
            return None
        with _disable_current_modes(), torch.no_grad():
            (made,) = run(self._tape, {}, [token], {})
            return made.numpy()

    def _read(self, trace: Trace, read: Read) -> int:
        return self._entry(read.place).reads[trace.steps[read.place].ins.index(read.number)]

    def _bounds(self, loop: Loop) -> list[int]:
        """The entries at which the iterations begin, and the one behind the last."""
        tape = self._tape
        return [tape.places.get(place, len(tape.entries)) for place in loop.bounds]

    def _at(self, place: int) -> int:
        if place not in self._tape.places:
            raise Unplaced("it is within a custom rule")
        return self._tape.places[place]

    def _entry(self, place: int) -> Entry:
        return self._tape.entries[self._at(place)]

    def _out(self, trace: Trace, site: Site) -> tuple[int, int]:
        """The entry and the token that a site stands for."""
        return self._at(site.place), self._entry(site.place).outs[trace.steps[site.place].outs.index(site.number)]

    def _made(self, trace: Trace, site: Site) -> Made:
        reads = tuple(self._read(trace, read) for read in site.reads)
        value = trace.values[site.number]
        call = partial(site.make, getattr(residuals_torch, site.op))
        like = value.shape, getattr(torch, value.dtype)
        return Made(lambda *arrays: _like(call(*arrays), *like), reads)

    def has_numbers(self, args: Sequence[Any]) -> bool:
        return not self._is_abstract

    def outcome(self, fn: Callable[..., Any], args: Sequence[Any]) -> list[Any]:
        """The results and the gradients of all leaves that require one."""
        args = [a.detach().requires_grad_(a.requires_grad) for a in args]
        before = {n: t.detach().clone() for n, t in self._tape.constants.items() if not t.requires_grad}
        with torch.random.fork_rng():
            outs = [y for y in fn(*args) if y.requires_grad]
        leaves = [t for t in (*args, *self._tape.constants.values()) if t.requires_grad and t.is_leaf]
        grads = torch.autograd.grad(outs, leaves, [torch.ones_like(y) for y in outs], allow_unused=True)
        with torch.no_grad():
            for n, was in before.items():
                self._tape.constants[n].copy_(was)
        made = [*outs, *(torch.zeros_like(t) if g is None else g for t, g in zip(leaves, grads, strict=True))]
        return [t.detach().double().numpy() for t in made]


def _is_new(tape: Tape, i: int) -> bool:
    """Whether an operation writes into nothing that was there before."""
    return {tape.storages[n] for n in tape.constants}.isdisjoint(tape.entries[i].writes)


def _like(made: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor in the shape and dtype of the one that it stands for."""
    made = made if made.dtype == dtype else made.to(dtype)
    return made if made.shape == torch.Size(shape) else made.reshape(shape)


def record(
    fn: Callable[..., Any], args: Sequence[Tensor], *, roles: Sequence[Role] = (), is_abstract: bool = False
) -> Record:
    """The program of `fn`, by a run of it on the tensors given, or on fake ones that look like them."""
    with prepared(args, roles, is_abstract) as (args, fake):
        recording = Recording(fake, is_taped=True)
        tape = recording.tape
        assert tape is not None
        with recording, stepping_aside(recording.unhooked), tape.functions():
            given = [tape.given(a) for a in args]
            out = fn(*args)
            results = [tape.token(y) for y in tensors(out)]
    return Record(tape, given, results, is_abstract)

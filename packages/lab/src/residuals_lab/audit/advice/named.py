"""Functions and modules that are named like one of our ops and really compute it, where the op saves less."""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence, Set

from residuals_lab.audit.advice.calls import Call, calls, named
from residuals_lab.audit.advice.forward import Forward
from residuals_lab.audit.advice.ours import Found, Ours, Saved, found_advice
from residuals_lab.trace import Trace


def find(forward: Forward, trace: Trace, ours: Ours, freed: Set[Hashable]) -> Found:
    """Ops for functions and modules that are called after them, instead of the residuals that these alone read."""
    readers: dict[Hashable, set[tuple[str, str] | None]] = defaultdict(set)
    for r in trace.residuals:
        modules = [trace.steps[i].module for i in r.reads] or [r.module]  # nobody reads what JAX fills a `where` with
        readers[r.storage] |= {named(trace, module) for module in modules}
    inside: dict[tuple[str, str], Saved] = defaultdict(dict)
    for r in trace.residuals:
        if r.is_new and r.value.shape and len(readers[r.storage]) == 1 and (reader := next(iter(readers[r.storage]))):
            inside[reader][r.storage] = r
    places = _by_module(forward)
    found: list[tuple[str, Call, Saved]] = []
    for (op, module), saved in inside.items():
        if known := calls(op, [place for place in places[module] if place in forward.primal], trace):
            of_calls = _saved_by(known, places[module], saved, forward, trace)
            found += [(op, call, its) for call, its in of_calls if not its or is_most_left(its, freed)]
    together: dict[tuple[str, str, str], tuple[Saved, int]] = defaultdict(lambda: ({}, 0))
    for (op, call, its), instead in zip(found, _instead(found, forward, trace, ours), strict=True):
        saved, before = together[op, call.line, call.x.dtype]
        together[op, call.line, call.x.dtype] = saved | its, before + instead
    for (op, line, _), (saved, instead) in together.items():
        yield found_advice(op, line, op, saved, instead)


def _by_module(forward: Forward) -> dict[str, list[int]]:
    """The places of the forward's steps, by each module that they are in."""
    found: dict[str, list[int]] = defaultdict(list)
    for place, step in enumerate(forward.all):
        names = step.module.split("/")
        for i in range(len(names)):
            found["/".join(names[: i + 1])].append(place)
    return found


def _saved_by(
    found: Sequence[Call], places: Sequence[int], saved: Saved, forward: Forward, trace: Trace
) -> Iterator[tuple[Call, Saved]]:
    """Calls of one module, and which of these residuals are saved by each. A call that saves none, such as one in a
    checkpoint, is left out.
    """
    ends = [call.places[0] for call in found[1:]] + [len(forward.all)]
    arrays = [  # of each call: its input, and all that its steps make, for the backward too
        {forward.array(call.x.number, call.places[0]), *(i for i in places if call.places[0] <= i < end)}
        for call, end in zip(found, ends, strict=True)
    ]
    of_each: list[Saved] = [{} for _ in found]
    for storage, r in saved.items():
        lines = {trace.steps[i].line for i in r.reads}
        likely = [(forward.array_of(r) in its, call.line in lines) for its, call in zip(arrays, found, strict=True)]
        of_each[likely.index(max(likely))][storage] = r
    all_saved = {forward.array_of(r) for r in saved.values()}
    return ((call, its) for call, its, a in zip(found, of_each, arrays, strict=True) if a & all_saved)


def _instead(found: Sequence[tuple[str, Call, Saved]], forward: Forward, trace: Trace, ours: Ours) -> Iterator[int]:
    """The bytes that the op saves in place of each call. An array that is kept anyway, by another call or by somebody
    else, counts nothing.
    """
    saved = {storage: r for _, _, its in found for storage, r in its.items()}
    now = {forward.array_of(r): r.storage_bytes for r in saved.values()}
    kept = {forward.array(n, len(forward.all)) for n in forward.alive}
    kept |= {forward.array_of(r) for r in trace.residuals if r.storage not in saved}
    for op, call, _ in found:
        its = {"input": (call.x, call.places[0]), "output": (call.y, call.places[-1] + 1)}
        instead = 0
        for r in ours.trace(op, call.x.dtype, call.x.shape).residuals:
            if r.kind not in its:
                instead += r.storage_bytes * call.times
                continue
            value, place = its[r.kind]
            array = forward.array(value.number, place)
            if array >= 0 and array not in kept:
                kept.add(array)
                instead += now.get(array, forward.nbytes(array) * call.times)
        yield instead


def is_most_left(saved: Saved, freed: Set[Hashable]) -> bool:
    """Whether other advice frees less than half of these bytes."""
    left = sum(r.storage_bytes for storage, r in saved.items() if storage not in freed)
    return left > sum(r.storage_bytes for r in saved.values()) / 2

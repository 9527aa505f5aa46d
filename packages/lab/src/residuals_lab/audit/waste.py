"""What is wasted in a trace: residuals that nobody needs to keep."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from residuals_lab.trace import Residual, Step, Trace
from residuals_lab.trace.costs import CHEAP, cost_of

What = Literal["unused", "duplicate", "hidden", "pinned", "derivable"]


@dataclass(frozen=True)
class Waste:
    """Residuals that are wasted in the same way at the same place, and the bytes that would be freed without them."""

    what: What
    why: str  # a phrase, the same for all of them
    names: tuple[str, ...]
    line: str
    nbytes: int


def waste(trace: Trace) -> list[Waste]:
    """What is wasted, the largest first. Single numbers are passed over, also one for each iteration of a loop."""
    saved = [r for r in trace.residuals if trace.values[trace.part(r.value.number)].shape]
    found: dict[tuple[What, str, str], list[tuple[str, int]]] = defaultdict(list)
    for what, why, residual, nbytes in (
        *_unused(saved),
        *_hidden(saved),
        *_duplicates(trace, saved),
        *_pinned(saved),
        *_derivable(trace, saved),
    ):
        found[what, why, residual.line].append((residual.name, nbytes))
    together = [
        Waste(what, why, tuple(name for name, _ in these), line, sum(nbytes for _, nbytes in these))
        for (what, why, line), these in found.items()
    ]
    return sorted(together, key=lambda f: -f.nbytes)


_Found = Iterable[tuple[What, str, Residual, int]]


def _unused(saved: list[Residual]) -> _Found:
    for r in saved:
        if r.is_unused:
            why = "read only for a gradient that nobody asked for" if r.reads else "the backward never reads it"
            yield "unused", why, r, _freed(r)


def _hidden(saved: list[Residual]) -> _Found:
    for r in saved:
        if r.kind == "hidden":
            how = "kept outside what the rule saves: in a closure, or as an attribute of ctx"
            yield "hidden", how, r, _freed(r)


def _duplicates(trace: Trace, saved: list[Residual]) -> _Found:
    """Equal values in more than one storage. If none of the storages is alive anyway, one of them has to stay."""
    by_value: dict[int, dict[object, Residual]] = defaultdict(dict)
    for r in saved:
        # An array that was never written to may hold anything, and an operation of unknown cost may draw numbers.
        if not r.op.startswith(("empty", "new_empty")) and (not r.op or cost_of(r.op) != "other"):
            by_value[r.value.number].setdefault(r.storage, r)
    for number, same in by_value.items():
        first, *others = sorted(same.values(), key=lambda r: r.is_new)
        if first.is_new and number in trace.alive:
            yield "duplicate", "the same values as an array that is alive anyway", first, first.storage_bytes
        for r in others:
            if r.is_new:
                yield "duplicate", f"the same values as {first.name}", r, r.storage_bytes


def _pinned(saved: list[Residual]) -> _Found:
    """Parts of a larger array which, for their sake, stays alive as a whole."""
    by_storage: dict[object, dict[int, Residual]] = defaultdict(dict)
    for r in saved:
        by_storage[r.storage][r.value.number] = r
    for parts in by_storage.values():
        largest = max(parts.values(), key=lambda r: r.nbytes)
        wasted = largest.storage_bytes - sum(r.nbytes for r in parts.values())
        if largest.is_new and wasted > largest.storage_bytes / 8:  # less is not worth a copy
            yield "pinned", "a view that keeps a larger array alive: save a copy", largest, wasted


def _derivable(trace: Trace, saved: list[Residual]) -> _Found:
    """New arrays that one cheap step gives again from arrays that are kept anyway: residuals, inputs, constants."""
    makers: dict[int, Step] = {}
    for step in trace.steps[: trace.boundary]:
        for number in step.outs:
            makers.setdefault(number, step)
    storages = defaultdict(lambda: None, {r.value.number: r.storage for r in saved})
    lost = {*makers, *trace.gone}  # values that the backward does not have, unless they are in `there`
    there = {*trace.alive, *(trace.part(r.value.number) for r in saved if not r.is_unused)}.difference(trace.gone)
    for step in trace.steps[: trace.boundary]:  # the slice for one iteration of an array that is there
        if step.op == "slice" and there.issuperset(step.ins):
            there.update(step.outs)
    for r in saved:
        maker = makers.get(trace.part(r.value.number))
        while maker and maker.cost == "view" and maker.op != r.op:  # go back to the step that made the array of a view
            maker = makers.get(maker.ins[0]) if maker.ins[0] not in there else None
        if maker is None or not r.is_new or r.is_unused or maker.cost not in CHEAP:
            continue
        if maker.op in ("carry", "constant"):  # a carry takes the whole loop again; a constant is in the program itself
            continue
        if maker.op.startswith(("empty", "new_empty")):  # its numbers were written later, by an operation not seen
            continue
        if maker.cost == "view" and storages[maker.ins[0]] == r.storage:  # the view shares a storage that is saved
            continue
        if all(n in there or n not in lost for n in maker.ins) and not {*maker.ins} & {*maker.outs}:
            yield "derivable", f"one cheap {maker.op} of arrays that are kept anyway gives it again", r, r.storage_bytes


def _freed(r: Residual) -> int:
    return r.storage_bytes if r.is_new else 0

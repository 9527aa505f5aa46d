"""Functions that somebody wrote out, such as a norm or a gelu, where our op saves less."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence, Set
from functools import partial
from typing import Any

from residuals_lab.audit.advice.calls import Call, calls
from residuals_lab.audit.advice.forward import Forward, Node
from residuals_lab.audit.advice.literals import named
from residuals_lab.audit.advice.ours import Found, Ours, Place, Saved, found_advice
from residuals_lab.frameworks.sites import Read, Site, Unplaced
from residuals_lab.trace import Residual, Trace

# Operations whose backward reads what they have made.
_READS_ITS_OUTPUT = frozenset(
    [
        "exp",
        "exp2",
        "expm1",
        "linalg_vector_norm",
        "log_softmax",
        "logsumexp",
        "max",
        "min",
        "norm",
        "reciprocal",
        "relu",
        "rsqrt",
        "sigmoid",
        "softmax",
        "sqrt",
        "tanh",
    ]
)


def find(forward: Forward, trace: Trace, ours: Ours, freed: Set[Hashable]) -> Found:
    """Ops for what is computed, instead of the residuals that nothing else needs."""
    all_calls = calls(forward, ours.has_option("rms_norm", "offset"))
    keeping = [_kept_ends(call, forward, ours) for call in all_calls]
    found = [
        (call, saved)
        for call, saved in _saved_by(all_calls, keeping, forward, trace)
        if is_most_left(saved, freed) and not _is_lean(call, saved, forward)
    ]
    together: dict[tuple[str, str, str, str], tuple[Saved, int]] = defaultdict(lambda: ({}, 0))
    places = defaultdict[tuple[str, str, str, str], list[Place]](list)
    for (call, its), instead in zip(found, _instead(found, forward, trace, ours), strict=True):
        key = call.op, call.options, _line(call, forward), forward.values[call.x.number].dtype
        saved, before = together[key]
        together[key] = saved | its, before + instead
        places[key].append(partial(_site, call, forward))
    own = {call.op: ours.own(call.op, *_like(call, forward), *_weight(call, forward)) for call, _ in found}
    for key, (saved, instead) in together.items():
        op, options, line, _ = key
        yield found_advice(op, line, op, saved, instead, options, own[op], places[key])


def _site(call: Call, forward: Forward) -> Site:
    """The op in place of a call."""
    weights = [None if node is None else _reader(node, forward) for node in call.weights]
    reads = [_reader(call.x, forward, call.places), *(read for read in weights if read)]
    shape = forward.values[call.x.number].shape[-1:]

    def make(op: Any, x: Any, *given: Any) -> Any:
        rest = iter(given)
        return op(x, *(read and next(rest).reshape(shape) for read in weights), **named(call.options))

    return Site(call.op, tuple(reads), call.y.place, call.y.number, make)


def _reader(node: Node, forward: Forward, among: Iterable[int] = ()) -> Read:
    """The first step that reads this value, of these steps or of any."""
    readers = [p for p in forward.consumers.get(node, ()) if not among or p in among]
    if not readers:
        raise Unplaced("no step there reads an array that the op needs")
    return Read(min(readers), node.number)


def _is_lean(call: Call, saved: Saved, forward: Forward) -> bool:
    """Whether this keeps about a bit an element, or less, as `relu_bits` does: nobody asks for advice on that."""
    return 0 < sum(r.storage_bytes for r in saved.values()) < forward.values[call.x.number].elements / 4


def _like(call: Call, forward: Forward) -> tuple[str, tuple[int, ...]]:
    value = forward.values[call.x.number]
    return value.dtype, value.shape


def _weight(call: Call, forward: Forward) -> list[tuple[int, ...]]:
    """The shape of a weight, for a norm: without one, PyTorch's own keeps less than it usually does."""
    return [forward.values[call.x.number].shape[-1:]] if call.op in ("layer_norm", "rms_norm") else []


def _line(call: Call, forward: Forward) -> str:
    """The line of most of a call's steps."""
    lines = [forward.all[place].line for place in sorted(call.places)]
    return max(filter(None, lines), key=lines.count, default="")


def _kept_ends(call: Call, forward: Forward, ours: Ours) -> dict[str, int]:
    """The arrays that the op keeps in place of a call, of its input and its output, by their kinds."""
    kinds = {r.kind for r in ours.trace(call.op, *_like(call, forward)).residuals}
    ends = {
        "input": forward.array(call.x.number, min(call.places)),
        "output": forward.array(call.y.number, call.y.place + 1),
    }
    return {kind: array for kind, array in ends.items() if kind in kinds}


def _saved_by(
    found: Sequence[Call], keeping: Sequence[dict[str, int]], forward: Forward, trace: Trace
) -> Iterator[tuple[Call, Saved]]:
    """The calls that save anything, such as none does in a checkpoint, and the residuals that would go with each."""
    of_step = {place: i for i, call in enumerate(found) for place in call.places}
    ends = defaultdict[int, list[int]](list)  # array → the calls of which it is the input or the output
    for i, call in enumerate(found):
        ends[forward.array(call.x.number, min(call.places))].append(i)
        ends[forward.array(call.y.number, call.y.place + 1)].append(i)
    saved: list[Saved] = [{} for _ in found]
    is_saving = set[int]()
    for r in trace.residuals:
        array = forward.array_of(r)
        if not (r.is_new and r.value.shape):
            continue
        owner = _owner(r, array, of_step, found, forward)
        if owner is not None and array not in ends:
            saved[owner][r.storage] = r
            is_saving.add(owner)
        elif array in ends:
            is_saving.update(ends[array])
            if _is_only_for(ends[array], r, array, of_step, found, forward):
                # Of the first call whose op would keep it, so that what goes and what comes are said in one line.
                i = next((i for i in ends[array] if array in keeping[i].values()), ends[array][-1])
                saved[i][r.storage] = r
    return ((call, saved[i]) for i, call in enumerate(found) if i in is_saving)


def _owner(r: Residual, array: int, of_step: dict[int, int], found: Sequence[Call], forward: Forward) -> int | None:
    """The call whose steps make an array, or have it made for their backward: by steps that lead to no result, right
    after one of them in the forward, of nothing but what that call reads and makes.
    """
    if array < 0:
        return None
    made_at = forward.place_of(array)
    if forward.all[made_at].op == "carry":  # what one iteration gives the next is no call's
        return None
    if made_at in forward.primal:
        return of_step.get(made_at)
    parents, todo, seen = set[int](), [made_at], set[int]()
    while todo:
        place = todo.pop()
        for n in forward.all[place].ins:
            node = forward.node(n, place)
            if node.place in forward.primal or node.place < 0:
                parents.add(node.place if node.place >= 0 else ~n)
            elif node.place not in seen:
                seen.add(node.place)
                todo.append(node.place)
    for near in (forward.primal_before(made_at), forward.primal_after(made_at)):
        i = of_step.get(near)
        if i is not None and all(p in found[i].places or _is_given(p, found[i], forward) for p in parents):
            return i
    return None


def _is_given(parent: int, call: Call, forward: Forward) -> bool:
    """Whether a call reads what this place makes: its input, or a number."""
    if parent < 0:
        n = ~parent
        return n == call.x.number or forward.values[n].elements < forward.values[call.x.number].elements
    values = [forward.values[n] for n in forward.all[parent].outs]
    return parent == call.x.place or all(v.elements < forward.values[call.x.number].elements for v in values)


def _is_only_for(
    those: Sequence[int], r: Residual, array: int, of_step: dict[int, int], found: Sequence[Call], forward: Forward
) -> bool:
    """Whether the backward reads an array for these calls alone."""
    inside = {_place(forward, p) for i in those for p in found[i].places}
    outside = {
        _place(forward, p)
        for p, step in forward.primal.items()
        if p not in of_step and any(forward.array(n, p) == array for n in step.ins)
    }
    maker = forward.place_of(array)
    if maker >= 0 and maker not in of_step and forward.all[maker].op in _READS_ITS_OUTPUT:
        outside.add(_place(forward, maker))
    reads = {(forward.steps_of_trace[i].line, forward.steps_of_trace[i].module) for i in r.reads}
    return bool(reads) and reads <= inside - outside


def _place(forward: Forward, place: int) -> tuple[str, str]:
    return forward.all[place].line, forward.all[place].module


def _instead(found: Sequence[tuple[Call, Saved]], forward: Forward, trace: Trace, ours: Ours) -> Iterator[int]:
    """The bytes that the op saves in place of each call. An array that is kept anyway, by another call or by somebody
    else, counts nothing.
    """
    saved = {storage: r for _, its in found for storage, r in its.items()}
    now = {forward.array_of(r): r.storage_bytes for r in saved.values()}
    kept = {forward.array(n, len(forward.all)) for n in forward.alive}
    kept |= {forward.array_of(r) for r in trace.residuals if r.storage not in saved and not forward.is_beside(r)}
    for call, _ in found:
        its = {"input": (call.x.number, min(call.places)), "output": (call.y.number, call.y.place + 1)}
        instead = 0
        for r in ours.trace(call.op, *_like(call, forward)).residuals:
            if r.kind not in its:
                instead += r.storage_bytes * call.times
                continue
            array = forward.array(*its[r.kind])
            if array >= 0 and array not in kept:
                kept.add(array)
                instead += now.get(array, forward.nbytes(array) * call.times)
        yield instead


def is_most_left(saved: Saved, freed: Set[Hashable]) -> bool:
    """Whether other advice frees less than half of these bytes."""
    left = sum(r.storage_bytes for storage, r in saved.items() if storage not in freed)
    return left > sum(r.storage_bytes for r in saved.values()) / 2 or not saved

"""Finds the calls of functions that one of our ops computes, by what the steps compute and not by any name."""

from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from residuals_lab.audit.advice.forward import Forward, Node
from residuals_lab.audit.advice.literals import numbers
from residuals_lab.audit.advice.rows import COMPUTED, Row
from residuals_numpy.ops import gelu, layer_norm, relu, rms_norm, sigmoid, silu, softmax, tanh

# Op → operations of which one occurs wherever somebody computes it.
ANCHORS = {
    "gelu": "erf erfc gelu gelu_tanh tanh",
    "layer_norm": "pow rsqrt sqrt std",
    "relu": "clamp clamp_min maximum relu threshold where",
    "rms_norm": "pow rsqrt sqrt",
    "sigmoid": "exp sigmoid",
    "silu": "exp sigmoid silu",
    "softmax": "exp softmax",
    "tanh": "tanh",
}
_OPS = {
    name: [op for op, names in ANCHORS.items() if name in names.split()] for name in " ".join(ANCHORS.values()).split()
}
_DEEPEST = 10  # steps from an anchor back to x
_LONGEST = 40  # steps that a function may take


@dataclass(frozen=True)
class Call:
    """The steps that compute an op once."""

    op: str
    options: str  # that the op needs to give the same numbers, "eps=1e-06"
    places: frozenset[int]  # of the steps
    x: Node
    y: Node
    times: int  # how often a loop around makes this call
    weights: tuple[Node | None, ...]  # that the op takes after x


def calls(forward: Forward, has_offset: bool) -> list[Call]:
    """All calls, none a part of another."""
    found = set[Call]()
    for place, step in forward.primal.items():
        for op in _OPS.get(step.op, ()):
            found.update(_calls_at(op, place, forward, has_offset))
    taken, chosen = set[int](), list[Call]()
    for call in sorted(found, key=lambda call: (-len(call.places), call.y, call.x)):
        if taken.isdisjoint(call.places):
            taken |= call.places
            chosen.append(call)
    return sorted(chosen, key=lambda call: call.y)


def _calls_at(op: str, anchor: int, forward: Forward, has_offset: bool) -> Iterator[Call]:
    """The calls of an op that the step at this place is a part of, one for each array that they may begin with."""
    before = _before(anchor, forward)
    if op in ("layer_norm", "rms_norm", "softmax"):
        axes = {step.axes[0] for step in _near(anchor, before, forward) if len(step.axes) == 1 and step.axes[0] < 0}
        axes = axes if op == "softmax" else axes & {-1}
    else:
        axes = {None}
    size = max((forward.values[n.number].elements for n in before), default=0)
    for axis in axes:
        for x in before:
            value = forward.values[x.number]
            if value.elements == size > 0 and "float" in value.dtype and len(value.shape) >= -(axis or 0):
                if _is_elsewhere(x, forward):
                    continue
                if call := _call(op, anchor, x, axis, forward, has_offset):
                    yield call


def _before(anchor: int, forward: Forward) -> list[Node]:
    """The values that a few steps of simple arithmetic lead from to this place, the nearest first."""
    found, edge = dict[Node, None](), [anchor]
    for _ in range(_DEEPEST):
        nodes = [forward.node(n, place) for place in edge for n in forward.all[place].ins]
        new = [n for n in dict.fromkeys(nodes) if n not in found]
        found.update(dict.fromkeys(new))
        edge = [n.place for n in new if n.place >= 0 and forward.all[n.place].op in COMPUTED]
    return [*found]


def _near(anchor: int, before: Iterable[Node], forward: Forward) -> Iterator[Any]:
    """The steps before an anchor, the anchor, and those that read what it makes."""
    yield forward.all[anchor]
    yield from (forward.all[n.place] for n in before if n.place >= 0)
    outs = [Node(anchor, n) for n in forward.all[anchor].outs]
    for _ in range(2):  # through a view or another precision
        places = [p for n in outs for p in forward.consumers.get(n, ())]
        yield from (forward.all[p] for p in places)
        outs = [Node(p, n) for p in places for n in forward.all[p].outs]


def _call(op: str, anchor: int, x: Node, axis: int | None, forward: Forward, has_offset: bool) -> Call | None:
    """The longest call of an op from x through an anchor, if there is one."""
    value = forward.values[x.number]
    random = np.random.default_rng(1)
    numbers = 3 * random.normal(size=48)
    if axis is not None:
        numbers = (random.normal(size=value.shape[axis]) + 0.3) * (1 if op == "softmax" else 0.05)
    row, best, todo, seen = Row(forward, x, axis, numbers), None, [*forward.consumers.get(x, ())], set[int]()
    while todo and len(seen) < _LONGEST:
        place = min(todo)
        todo.remove(place)
        if place in seen:
            continue
        seen.add(place)
        step = forward.all[place]
        made = row.computed(place) if len(step.outs) == 1 else None
        if made is None:
            continue
        y = Node(place, step.outs[0])
        row.known[y] = made
        todo += forward.consumers.get(y, ())
        if made.kind == "full" and forward.values[y.number].elements == value.elements:
            found = _options(op, row, numbers, made.a, has_offset)
            places = None if found is None else _between(x, y, forward)
            is_next = step.op == "convert" and forward.values[y.number].dtype != value.dtype  # of what follows
            centred = best and any(forward.all[p].axes for p in (places or set()) - best.places)  # once more, by a norm
            if not found or not places or is_next or centred or _only(op, places, forward) != {anchor}:
                continue
            if _is_closed(places, y, forward):
                options = f"axis={axis}" if op == "softmax" and axis != -1 else found.options
                times = max(forward.all[p].times for p in places)
                weights = tuple(None if i is None else row.given[i] for i in found.weights)
                best = Call(op, options, places, x, y, times, weights)
    return None if best and _has_other_weight(best, row) else best


def _has_other_weight(call: Call, row: Row) -> bool:
    """Whether what follows on a norm is a product with a weight that the op has not, such as one more than a weight."""
    if call.op not in ("layer_norm", "rms_norm"):
        return False
    places = row.forward.consumers.get(call.y, ())
    products = [(place, row.forward.all[place]) for place in places if row.forward.all[place].op == "mul"]
    factors = [row.known.get(row.forward.node(n, place)) for place, step in products for n in step.ins]
    return any(known and known.kind == "feature" for known in factors)


def _between(x: Node, y: Node, forward: Forward) -> frozenset[int]:
    """The places of the steps that make y of x."""
    after, todo = set[int](), [*forward.consumers.get(x, ())]
    while todo:
        place = todo.pop()
        if place not in after and place <= y.place:
            after.add(place)
            todo += [p for n in forward.all[place].outs for p in forward.consumers.get(Node(place, n), ())]
    found, todo = set[int](), [y.place]
    while todo:
        place = todo.pop()
        if place in after and place not in found:
            found.add(place)
            todo += [forward.node(n, place).place for n in forward.all[place].ins]
    # A program may make a value twice, x − mean say: a reader is told from its number, and has the last one.
    made = {n for place in found for n in forward.all[place].outs} - {y.number}
    begin = max([x.place, *(place for place in forward.made_at[y.number] if place < y.place)])
    for place in sorted(after - found, reverse=True):
        outs = forward.all[place].outs
        readers = [p for n in outs for p in forward.consumers.get(Node(place, n), ())]
        if place > begin and made.issuperset(outs) and found.issuperset(readers):
            found.add(place)
    return frozenset(found)


def _is_elsewhere(x: Node, forward: Forward) -> bool:
    """Whether what happens to an array first belongs to the code before: a lower precision, a product with 1."""
    steps = [forward.all[place] for place in forward.consumers.get(x, ())]
    size = forward.values[x.number].itemsize
    return all(
        (s.op == "convert" and forward.values[s.outs[0]].itemsize < size)
        or (s.op == "mul" and numbers(s, forward.keys) == [1])
        for s in steps
    )


def _only(op: str, places: Set[int], forward: Forward) -> set[int]:
    """The steps among these without which nobody computes an op: a norm of a norm is nearly that norm, and is two."""
    return {place for place in places if forward.all[place].op in ANCHORS[op].split()}


def _is_closed(places: Set[int], y: Node, forward: Forward) -> bool:
    """Whether nobody but these steps reads what they make, but for y."""
    nodes = {Node(place, n) for place in places for n in forward.all[place].outs} - {y}
    inside = all(places >= {*forward.consumers.get(n, ())} for n in nodes)
    return inside and not any(n.number in forward.alive and n.place == forward.made_at[n.number][-1] for n in nodes)


class _Variant(NamedTuple):
    """A way to call an op."""

    options: str  # "" for none
    weights: tuple[int | None, ...] = ()  # which of a row's features it takes after x


def _options(op: str, row: Row, x: Any, y: Any, has_offset: bool) -> _Variant | None:
    """The way in which an op makes y of x; None if it does not."""
    errors = {}
    with np.errstate(all="ignore"):  # code that is none of our ops may overflow
        for variant, made in _variants(op, row, x, has_offset):
            error = np.max(np.abs(made - y)) / np.max(np.abs(made))
            if error < row.tolerance:
                errors[variant] = error
    return min(errors, key=errors.__getitem__, default=None)


_ELEMENTWISE: dict[str, list[tuple[str, Callable[[Any], Any]]]] = {
    "gelu": [("", gelu.forward), ('approximate="tanh"', lambda x: gelu.forward(x, approximate="tanh"))],
    "relu": [("", relu.forward)],
    "sigmoid": [("", sigmoid.forward)],
    "silu": [("", silu.forward)],
    "softmax": [("", softmax.forward)],
    "tanh": [("", tanh.forward)],
}


def _variants(op: str, row: Row, x: Any, has_offset: bool) -> Iterator[tuple[_Variant, Any]]:
    """What an op makes of x, with each of the options and the weights that there may be."""
    if op in _ELEMENTWISE:
        yield from ((_Variant(options), forward(x)) for options, forward in _ELEMENTWISE[op])
        return
    default = {"layer_norm": 1e-5, "rms_norm": 1e-6}[op]
    for eps in sorted({0.0, *(c for c in row.constants if 0 < c < 0.1)}):
        option = "" if f"{eps:g}" == f"{default:g}" else f"eps={eps:g}"
        features: list[tuple[int | None, Any]] = [(None, None), *enumerate(row.features)]
        for i, w in features:
            if op == "rms_norm":
                yield _Variant(option, (i,)), rms_norm.forward(x, w, eps=eps)
                if has_offset and w is not None:
                    with_offset = ", ".join(filter(None, (option, "offset=1.0")))
                    yield _Variant(with_offset, (i,)), rms_norm.forward(x, 1 + w, eps=eps)
            else:
                for j, b in features:
                    yield _Variant(option, (i, j)), layer_norm.forward(x, w, b, eps=eps)

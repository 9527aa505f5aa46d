"""What an op of ours would keep where somebody's own code keeps more: only where both were measured, on shapes."""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cache

from residuals_lab.audit.advice.forward import Forward
from residuals_lab.audit.advice.named import Call, calls, named
from residuals_lab.frameworks.protocol import Framework
from residuals_lab.trace import Residual, Trace, Value


@dataclass(frozen=True)
class Advice:
    """An op to take for what a line of code does, and what it would keep."""

    what: str  # is done there
    line: str
    op: str  # to take instead
    arrays: int
    nbytes: int  # of new memory, now
    instead: int  # with the op, at most: some of it may be alive anyway

    @property
    def freed(self) -> int:
        return self.nbytes - self.instead


def advice(trace: Trace, adapter: Framework) -> list[Advice]:
    """All that would free something, the most first."""
    forward = Forward(trace)
    patterns = (_of_attention, _of_logits, _of_gates, _of_dropout)
    chosen, freed = list[Advice](), set[Hashable]()

    def choose(found: Iterable[tuple[_Held, Advice]]) -> None:
        for held, one in sorted(found, key=lambda pair: (-pair[1].freed, -pair[1].arrays)):
            if one.freed > 0.05 * one.nbytes and _is_most_left(held, freed):
                chosen.append(one)
                freed.update(held)

    choose(a for pattern in patterns for a in pattern(forward, adapter))
    choose(_of_names(forward, trace, adapter, freed))  # of what is a part of nothing larger
    return sorted(chosen, key=lambda one: (-one.freed, -one.arrays))


_Held = dict[Hashable, Residual]  # new arrays, each by its storage
_Found = Iterator[tuple[_Held, Advice]]


def _advice(what: str, line: str, op: str, held: _Held, instead: int) -> tuple[_Held, Advice]:
    return held, Advice(what, line, op, len(held), sum(r.storage_bytes for r in held.values()), instead)


def _is_most_left(held: _Held, freed: Set[Hashable]) -> bool:
    """Whether other advice does not free half of these arrays, or more."""
    left = sum(r.storage_bytes for storage, r in held.items() if storage not in freed)
    return left > sum(r.storage_bytes for r in held.values()) / 2


def _of_names(forward: Forward, trace: Trace, adapter: Framework, freed: Set[Hashable]) -> _Found:
    """Ops for functions and modules that are called after them: in place of what they alone read in the backward."""
    readers: dict[Hashable, set[tuple[str, str] | None]] = defaultdict(set)
    for r in trace.residuals:
        scopes = [trace.steps[i].module for i in r.reads] or [r.module]  # nobody reads what JAX fills a `where` with
        readers[r.storage] |= {named(trace, scope) for scope in scopes}
    inside: dict[tuple[str, str], _Held] = defaultdict(dict)
    for r in trace.residuals:
        if r.is_new and r.value.shape and len(readers[r.storage]) == 1 and (reader := next(iter(readers[r.storage]))):
            inside[reader][r.storage] = r
    places = _by_scope(forward)
    found: list[tuple[str, Call, _Held]] = []
    for (op, scope), held in inside.items():
        if known := calls(op, [place for place in places[scope] if place in forward.primal], trace):
            of_calls = _held_by(known, places[scope], held, forward, trace)
            found += [(op, call, its) for call, its in of_calls if not its or _is_most_left(its, freed)]
    together: dict[tuple[str, str, str], tuple[_Held, int]] = defaultdict(lambda: ({}, 0))
    for (op, call, its), instead in zip(found, _instead(found, forward, trace, adapter), strict=True):
        held, before = together[op, call.line, call.x.dtype]
        together[op, call.line, call.x.dtype] = held | its, before + instead
    for (op, line, _), (held, instead) in together.items():
        yield _advice(op, line, op, held, instead)


def _by_scope(forward: Forward) -> dict[str, list[int]]:
    """The places of the forward's steps, by each scope that they are in."""
    found: dict[str, list[int]] = defaultdict(list)
    for place, step in enumerate(forward.all):
        names = step.module.split("/")
        for i in range(len(names)):
            found["/".join(names[: i + 1])].append(place)
    return found


def _held_by(
    found: Sequence[Call], places: Sequence[int], held: _Held, forward: Forward, trace: Trace
) -> Iterator[tuple[Call, _Held]]:
    """Calls with one scope, and which of these arrays is held by each. A call of which the arrays are not held, such as
    one in a checkpoint, is left out.
    """
    ends = [call.places[0] for call in found[1:]] + [len(forward.all)]
    arrays = [  # that a call is given or makes, for the backward too
        {forward.array(call.x.number, call.places[0]), *(i for i in places if call.places[0] <= i < end)}
        for call, end in zip(found, ends, strict=True)
    ]
    of_each: list[_Held] = [{} for _ in found]
    for storage, r in held.items():
        lines = {trace.steps[i].line for i in r.reads}
        likely = [(forward.array_of(r) in its, call.line in lines) for its, call in zip(arrays, found, strict=True)]
        of_each[likely.index(max(likely))][storage] = r
    all_held = {forward.array_of(r) for r in held.values()}
    return ((call, its) for call, its, a in zip(found, of_each, arrays, strict=True) if a & all_held)


def _instead(
    found: Sequence[tuple[str, Call, _Held]], forward: Forward, trace: Trace, adapter: Framework
) -> Iterator[int]:
    """The bytes that the op keeps in place of each call: nothing for an array that is kept anyway, by another call or
    by somebody else.
    """
    held = {storage: r for _, _, its in found for storage, r in its.items()}
    now = {forward.array_of(r): r.storage_bytes for r in held.values()}
    kept = {forward.array(n, len(forward.all)) for n in forward.alive}
    kept |= {forward.array_of(r) for r in trace.residuals if r.storage not in held}
    for op, call, _ in found:
        its = {"input": (call.x, call.places[0]), "output": (call.y, call.places[-1] + 1)}
        instead = 0
        for r in _traced(adapter, op, call.x.dtype, call.x.shape).residuals:
            if r.kind not in its:
                instead += r.storage_bytes * call.times
                continue
            value, place = its[r.kind]
            array = forward.array(value.number, place)
            if array >= 0 and array not in kept:
                kept.add(array)
                instead += now.get(array, forward.nbytes(array) * call.times)
        yield instead


def _of_attention(forward: Forward, adapter: Framework) -> _Found:
    """Flash attention where scores, and what is made of them, are held between a product and the next."""
    values = forward.values
    found: dict[str, _Held] = defaultdict(dict)
    instead: Counter[str] = Counter()
    for step in forward.steps:
        for operand in step.ins if step.op == "matmul" else ():
            scores, product = forward.back_to_product(operand)
            held = forward.held(scores)
            if product and held and forward.is_softmax(product, step, operand):
                found[step.line] |= held
                instead[step.line] += _turns(held, values[operand]) * _flash(
                    adapter, values[operand], values[step.outs[0]]
                )
    for line, these in found.items():
        yield _advice("attention", line, "flash_attention", these, instead[line])


def _turns(held: _Held, value: Value) -> int:
    """How many of a loop's turns are stacked up in arrays that each turn gives one of."""
    return max(math.prod(r.value.shape) for r in held.values()) // value.elements


def _flash(adapter: Framework, scores: Value, out: Value) -> int:
    """The bytes that flash attention holds beside q, k and v, for scores and an output of these shapes."""
    *lead, queries, keys = scores.shape
    heads = math.prod(lead)
    features = max(out.elements // (heads * queries), 1)
    shapes = [(heads, tokens, features) for tokens in (queries, keys, keys)]
    return _beside_inputs(_traced(adapter, "flash_attention", out.dtype, *shapes))


def _of_logits(forward: Forward, adapter: Framework) -> _Found:
    """A loss that holds no logits, where those of a product are held to take from each row what its label says."""
    found: dict[str, _Held] = defaultdict(dict)
    instead: Counter[str] = Counter()
    for step in forward.steps:
        if step.op not in ("nll_loss", "gather") or not step.ins:
            continue
        values, product = forward.back_to_product(step.ins[0])
        if product is None or len(product.ins) != 2 or (step.op == "nll_loss" and len(step.ins) != 2):
            continue  # a bias, or weights of classes
        values = forward.made_of(values)
        held, logits = forward.held(values), forward.values[step.ins[0]]
        if held and forward.is_softmax(product, step, step.ins[0]):
            classes = logits.shape[-1]
            left, right = (forward.values[n] for n in product.ins[-2:])
            features = math.isqrt(left.elements * right.elements // logits.elements)
            shapes = [(logits.elements // classes, features), (classes, features)]
            ours = _traced(adapter, "linear_cross_entropy", left.dtype, *shapes)
            found[step.line] |= held
            instead[step.line] += _turns(held, logits) * _beside_inputs(ours)
    for line, these in found.items():
        yield _advice("cross entropy", line, "linear_cross_entropy", these, instead[line])


def _of_gates(forward: Forward, adapter: Framework) -> _Found:
    """One rule for an activation and the product with it, which also keeps what the activation gives."""
    found: dict[tuple[str, str], _Held] = defaultdict(dict)
    instead: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)  # each array that is kept once
    for place, step in enumerate(forward.all):
        if step.op != "mul" or len(step.ins) != 2:
            continue
        for y, up in (step.ins, step.ins[::-1]):
            op, gate, within = forward.activation(step, y)
            is_read_here = forward.is_read_once(y) and y not in forward.alive
            if op and forward.saved[y] and is_read_here and forward.values[up].shape == forward.values[gate].shape:
                given = [r for n in {gate, up} for r in forward.saved[n] if forward.is_at(place, n, r)]
                held = forward.held({y} | within, place) | {r.storage: r for r in given}
                found[op, step.line] |= held
                value = forward.values[gate]
                turns = _turns({r.storage: r for r in forward.saved[y]}, value)
                ours = _traced(adapter, op, value.dtype, value.shape, value.shape)
                for r, n in zip(ours.residuals, (gate, up), strict=True):
                    if n not in forward.alive:
                        array = forward.array(n, place)
                        nbytes = next(
                            (r.storage_bytes for r in given if forward.array_of(r) == array), turns * r.storage_bytes
                        )
                        instead[op, step.line][array] = nbytes
    for (op, line), these in found.items():
        yield _advice("gate", line, op, these, sum(instead[op, line].values()))


def _of_dropout(forward: Forward, adapter: Framework) -> _Found:
    """Dropout that keeps a bit an element, where its mask is held in bytes or in floating numbers."""
    found: dict[tuple[str, str], _Held] = defaultdict(dict)
    instead: Counter[tuple[str, str]] = Counter()
    for place, step in forward.primal.items():
        mask = forward.drops(step)
        if mask is not None and (held := forward.held({mask}, place)):
            out = forward.values[step.outs[0]]
            found[step.line, out.dtype] |= held
            ours = _beside_inputs(_traced(adapter, "dropout", out.dtype, out.shape))
            instead[step.line, out.dtype] += _turns(held, out) * ours
    for (line, dtype), these in found.items():
        yield _advice("dropout", line, "dropout", these, instead[line, dtype])


def _beside_inputs(trace: Trace) -> int:
    return trace.saved_bytes - sum(r.storage_bytes for r in trace.residuals if r.kind == "input")


@cache
def _traced(adapter: Framework, op: str, dtype: str, *shapes: tuple[int, ...]) -> Trace:
    """Our op on arrays of these shapes, of which none is there."""
    public = adapter.public(op)
    fn, others = {
        "dropout": (lambda x, key: public(x, 0.5, key), [((2,), "uint32")]),
        # In one chunk: what is saved does not depend on it, and the trace is shorter.
        "linear_cross_entropy": (
            lambda x, weight, labels: public(x, weight, labels, chunk=len(weight)),
            [(shapes[0][:1], "int32")],
        ),
    }.get(op, (public, []))
    with adapter.abstractly():
        arrays = [adapter.shaped(*a) for a in [*((shape, dtype) for shape in shapes), *others]]
        trace: Trace = adapter.trace(fn, arrays, [str(i) for i in range(len(arrays))], is_abstract=True)
    return trace

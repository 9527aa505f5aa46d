"""What an op of ours would keep where somebody's own code keeps more: only where both were measured, on shapes."""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from residuals_lab.names import does, named
from residuals_lab.patterns import Forward
from residuals_lab.trace import Residual, Step, Trace, Value


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


def advice(trace: Trace, adapter: ModuleType) -> list[Advice]:
    """All that would free something, the most first."""
    forward = Forward(trace)
    patterns = (_of_attention, _of_logits, _of_gates, _of_dropout)
    found = [*_of_names(forward, trace, adapter), *(a for pattern in patterns for a in pattern(forward, adapter))]
    chosen, freed = list[Advice](), set[Hashable]()
    for held, one in sorted(found, key=lambda pair: (-pair[1].freed, -pair[1].arrays)):
        rest = sum(r.nbytes for storage, r in held.items() if storage not in freed)
        if one.freed > 0.05 * one.nbytes and rest > one.nbytes / 2:  # and not done by other advice
            chosen.append(one)
            freed.update(held)
    return chosen


_Held = dict[Hashable, Residual]  # new arrays, each by its storage
_Found = Iterator[tuple[_Held, Advice]]


def _advice(what: str, line: str, op: str, held: _Held, instead: int) -> tuple[_Held, Advice]:
    return held, Advice(what, line, op, len(held), sum(r.nbytes for r in held.values()), instead)


def _of_names(forward: Forward, trace: Trace, adapter: ModuleType) -> _Found:
    """Ops for functions and modules that are called after them: in place of what they alone read in the backward."""
    inside: dict[tuple[str, str], _Held] = defaultdict(dict)
    given_on = set[str]()  # scopes of which the backward of something else reads what they give
    for r in trace.crossing:
        scopes = [trace.steps[i].scope for i in r.reads] or [r.scope]  # nobody reads what JAX fills a `where` with
        readers = {named(trace, scope) for scope in scopes}
        if r.is_new and r.value.shape and len(readers) == 1 and (reader := next(iter(readers))):
            inside[reader][r.storage] = r
        elif r.is_new and (maker := named(trace, r.scope)):
            given_on.add(maker[1])
    found: dict[tuple[str, str, str, bool], _Held] = defaultdict(dict)
    steps = _by_scope(forward.primal)
    for (op, scope), these in inside.items():
        if does(op, steps[scope], trace):
            line, dtype = _line_and_dtype(trace, steps[scope])
            found[op, line, dtype, scope in given_on] |= these
    for (op, line, dtype, output_is_alive), these in found.items():
        largest = max(these.values(), key=lambda r: r.value.elements)
        # Each call makes an array of this shape by each of these operations, at least one.
        of_shape = Counter((r.op, r.value.dtype) for r in these.values() if r.value.shape == largest.value.shape)
        ours = _traced(adapter, op, dtype, largest.value.shape).crossing
        instead = sum(r.nbytes for r in ours if not (output_is_alive and r.kind == "output"))
        yield _advice(op, line, op, these, instead * min(of_shape.values()))


def _by_scope(steps: Sequence[Step]) -> dict[str, list[Step]]:
    """These steps, by each scope that they are in."""
    found: dict[str, list[Step]] = defaultdict(list)
    for step in steps:
        names = step.scope.split("/")
        for i in range(len(names)):
            found["/".join(names[: i + 1])].append(step)
    return found


def _line_and_dtype(trace: Trace, steps: Sequence[Step]) -> tuple[str, str]:
    """The line of most of these steps, and the dtype of the largest array that they are given."""
    made = {n for step in steps for n in step.outs}
    given = [trace.values[n] for step in steps for n in step.ins if n not in made]
    largest = max(given or [trace.values[n] for n in made], key=lambda value: value.elements)
    lines = Counter(step.line for step in steps if step.line)
    return max(lines, key=lambda line: lines[line], default=""), largest.dtype


def _of_attention(forward: Forward, adapter: ModuleType) -> _Found:
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


def _flash(adapter: ModuleType, scores: Value, out: Value) -> int:
    """The bytes that flash attention holds beside q, k and v, for scores and an output of these shapes."""
    *lead, queries, keys = scores.shape
    heads = math.prod(lead)
    features = max(out.elements // (heads * queries), 1)
    shapes = [(heads, tokens, features) for tokens in (queries, keys, keys)]
    return _beside_inputs(_traced(adapter, "flash_attention", out.dtype, *shapes))


def _of_logits(forward: Forward, adapter: ModuleType) -> _Found:
    """A loss that holds no logits, where those of a product are held to take from each row what its label says."""
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
            instead = _turns(held, logits) * _beside_inputs(ours)
            yield _advice("cross entropy", step.line, "linear_cross_entropy", held, instead)


def _of_gates(forward: Forward, adapter: ModuleType) -> _Found:
    """One rule for an activation and the product with it, which also keeps what the activation gives."""
    found: dict[tuple[str, str], _Held] = defaultdict(dict)
    instead: Counter[tuple[str, str]] = Counter()
    for step in forward.steps:
        if step.op != "mul" or len(step.ins) != 2:
            continue
        for y, up in (step.ins, step.ins[::-1]):
            op, gate, within = forward.activation(step, y)
            is_read_here = len(forward.given_on[y]) == 1 and y not in forward.alive
            if op and forward.saved[y] and is_read_here and forward.values[up].shape == forward.values[gate].shape:
                given = [r for n in {gate, up} for r in forward.saved[n][:1]]
                held = forward.held({y} | within) | {r.storage: r for r in given}
                found[op, step.line] |= held
                value = forward.values[gate]
                ours = _traced(adapter, op, value.dtype, value.shape, value.shape)
                saved = sum(r.nbytes for r, n in zip(ours.crossing, (gate, up), strict=True) if n not in forward.alive)
                instead[op, step.line] += _turns(held, value) * saved
    for (op, line), these in found.items():
        yield _advice("gate", line, op, these, instead[op, line])


def _of_dropout(forward: Forward, adapter: ModuleType) -> _Found:
    """Dropout that keeps a bit an element, where its mask is held in bytes or in floating numbers."""
    found: dict[tuple[str, str], _Held] = defaultdict(dict)
    instead: Counter[tuple[str, str]] = Counter()
    for step in forward.primal:
        mask = forward.drops(step)
        if mask is not None and (held := forward.held({mask})):
            out = forward.values[step.outs[0]]
            found[step.line, out.dtype] |= held
            ours = _beside_inputs(_traced(adapter, "dropout", out.dtype, out.shape))
            instead[step.line, out.dtype] += _turns(held, out) * ours
    for (line, dtype), these in found.items():
        yield _advice("dropout", line, "dropout", these, instead[line, dtype])


def _beside_inputs(trace: Trace) -> int:
    return trace.saved_bytes - sum(r.nbytes for r in trace.crossing if r.kind == "input")


@cache
def _traced(adapter: ModuleType, op: str, dtype: str, *shapes: tuple[int, ...]) -> Trace:
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

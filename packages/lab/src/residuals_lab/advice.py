"""What an op of ours would keep where somebody's own code keeps more: only where both were measured, on shapes."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

from residuals_lab.trace import Residual, Step, Trace, Value

# The names that a module or function has where it does what an op does, without "_" and digits, in lower case.
NAMES = {
    "gelu": "gelu newgelu gelutanh newgeluactivation geluactivation pytorchgelutanh",
    "silu": "silu swish siluactivation",
    "relu": "relu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "softmax": "softmax",
    "layer_norm": "layernorm standardize",
    "rms_norm": "rmsnorm llamarmsnorm t5layernorm qwen2rmsnorm mistralrmsnorm gemmarmsnorm",
}
_OP = {name: op for op, names in NAMES.items() for name in names.split()}


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
    found = [*_of_names(trace, adapter), *_of_attention(trace, adapter)]
    return sorted((a for a in found if a.freed > 0.05 * a.nbytes), key=lambda a: -a.freed)


def _of_names(trace: Trace, adapter: ModuleType) -> Iterator[Advice]:
    """Ops for functions and modules that are called after them."""
    found: dict[tuple[str, str], dict[Hashable, Residual]] = defaultdict(dict)
    for r in trace.crossing:
        if r.is_new and r.value.shape and (op := _named(trace, r)):
            found[op, r.line][r.storage] = r
    for (op, line), these in found.items():
        largest = max(these.values(), key=lambda r: r.size)
        # Each call makes an array of this shape by each of these operations, at least one.
        of_shape = Counter(r.op for r in these.values() if r.value.shape == largest.value.shape)
        ours = _traced(adapter, op, [largest.value.shape], largest.value.dtype)
        instead = ours.saved_bytes * min(of_shape.values())
        yield Advice(op, line, op, len(these), sum(r.nbytes for r in these.values()), instead)


def _named(trace: Trace, r: Residual) -> str | None:
    """The op that the innermost module or function around a residual's maker is called after."""
    names = r.scope.split("/")
    scopes = ["/".join(names[: i + 1]) for i in range(len(names))]
    for name in [a for scope in reversed(scopes) for a in (scope.rpartition("/")[2], trace.classes.get(scope, ""))]:
        if op := _OP.get(re.sub(r"[\d_]", "", name.removeprefix("eqx.nn.")).lower()):
            return op
    return None


def _of_attention(trace: Trace, adapter: ModuleType) -> Iterator[Advice]:
    """Flash attention where scores, and what is made of them, are held between a product and the next."""
    forward = trace.steps[: trace.turn]
    makers = {n: step for step in forward if step.op != "carry" for n in step.outs}
    summed = {n for step in forward if step.op in ("sum", "logsumexp") for n in step.ins}
    saved: dict[int, list[Residual]] = defaultdict(list)
    for r in trace.crossing:
        if r.is_new:
            saved[trace.part(r.value.number)].append(r)
    found: dict[str, dict[Hashable, Residual]] = defaultdict(dict)
    instead: Counter[str] = Counter()
    for step in forward:
        for operand in step.ins if step.op == "matmul" else ():
            scores = _scores(trace, makers, summed, operand)
            held = {r.storage: r for n in scores for r in saved[n]}
            if held:
                found[step.line] |= held
                turns = max(math.prod(r.value.shape) for r in held.values()) // trace.values[operand].elements
                instead[step.line] += turns * _flash(adapter, trace.values[operand], trace.values[step.outs[0]])
    for line, these in found.items():
        nbytes = sum(r.nbytes for r in these.values())
        yield Advice("attention", line, "flash_attention", len(these), nbytes, instead[line])


def _scores(trace: Trace, makers: dict[int, Step], summed: set[int], operand: int) -> set[int]:
    """The values from a product to this operand of another, by way of a softmax, all of one size; or none.

    That size is more than either factor's: numbers for each query and key, rather than for each of them.
    """
    size, seen, ops, todo = trace.values[operand].elements, set[int](), set[str](), [operand]
    while todo:
        n = todo.pop()
        maker = makers.get(n)
        if n in seen or maker is None or trace.values[n].elements != size:
            continue
        seen.add(n)
        if maker.op != "matmul":
            ops.add(maker.op)
            todo += maker.ins
        elif all(trace.values[factor].elements < size for factor in maker.ins):
            ops.add("product")
    is_softmax = "softmax" in ops or ("exp" in ops and seen & summed)
    return seen if is_softmax and "product" in ops else set()


def _flash(adapter: ModuleType, scores: Value, out: Value) -> int:
    """The bytes that flash attention holds beside q, k and v, for scores and an output of these shapes."""
    *lead, queries, keys = scores.shape
    heads = math.prod(lead)
    features = max(out.elements // (heads * queries), 1)
    shapes = [(heads, tokens, features) for tokens in (queries, keys, keys)]
    trace = _traced(adapter, "flash_attention", shapes, out.dtype)
    return trace.saved_bytes - sum(r.nbytes for r in trace.crossing if r.kind == "input")


def _traced(adapter: ModuleType, op: str, shapes: Sequence[tuple[int, ...]], dtype: str) -> Trace:
    """Our op on arrays of these shapes, of which none is there."""
    with adapter.abstractly():
        arrays = [adapter.shaped(shape, dtype) for shape in shapes]
        trace: Trace = adapter.trace(adapter.public(op), arrays, list(map(str, range(len(arrays)))), is_abstract=True)
    return trace

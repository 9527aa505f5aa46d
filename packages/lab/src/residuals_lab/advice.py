"""What an op of ours would keep where somebody's own code keeps more: only where both were measured, on shapes."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from residuals_lab.trace import CHEAP, COSTS, Residual, Step, Trace, Value

# The names that a module or function has where it does what an op does, without "_" and digits, in lower case.
NAMES = {
    "gelu": "gelu newgelu gelutanh newgeluactivation geluactivation pytorchgelutanh",
    "silu": "silu swish siluactivation",
    "relu": "relu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "softmax": "softmax",
    "dropout": "dropout",
    "layer_norm": "layernorm standardize",
    "rms_norm": "rmsnorm llamarmsnorm t5layernorm qwen2rmsnorm mistralrmsnorm gemmarmsnorm",
}
_OP = {name: op for op, names in NAMES.items() for name in names.split()}
# What it does if it is that: at least one of the first, and beside them and cheap steps none but the second.
DOES = {
    "gelu": ("erf erfc tanh gelu gelu_tanh", ""),
    "silu": ("silu sigmoid exp", ""),
    "relu": ("relu maximum clamp threshold", ""),
    "sigmoid": ("sigmoid exp", ""),
    "tanh": ("tanh", ""),
    "softmax": ("softmax exp", "max sum"),
    "dropout": ("random", "random_fold_in random_seed random_split"),
    "layer_norm": ("layer_norm rsqrt sqrt", "mean std sum var var_mean"),
    "rms_norm": ("rms_norm rsqrt sqrt", "mean norm sum"),
}
_OF_ROWS = frozenset(  # what may be done to the one number that a softmax or a loss has of each row
    ["add", "convert", "div", "eq", "exp", "is_finite", "log", "max", "maximum", "neg", "reciprocal", "sub", "where"]
)
_OF_LOGITS = frozenset(["convert", "exp", "log_softmax", "sub"])  # and to logits: our op has no scale and no mask


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
    forward = _Forward(trace)
    patterns = (_of_attention, _of_logits, _of_gates)
    found = [*_of_names(trace, adapter), *(a for pattern in patterns for a in pattern(forward, adapter))]
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


def _of_names(trace: Trace, adapter: ModuleType) -> _Found:
    """Ops for functions and modules that are called after them: in place of what they alone read in the backward."""
    inside: dict[tuple[str, str], _Held] = defaultdict(dict)
    given_on = set[str]()  # scopes of which the backward of something else reads what they give
    for r in trace.crossing:
        readers = {_named(trace, trace.steps[i].scope) for i in r.reads}
        if r.is_new and r.value.shape and len(readers) == 1 and (reader := next(iter(readers))):
            inside[reader][r.storage] = r
        elif r.is_new and (maker := _named(trace, r.scope)):
            given_on.add(maker[1])
    found: dict[tuple[str, str, str, bool], _Held] = defaultdict(dict)
    steps = _by_scope(trace)
    for (op, scope), these in inside.items():
        if _does(op, steps[scope], trace):
            line, dtype = _line_and_dtype(trace, steps[scope])
            found[op, line, dtype, scope in given_on] |= these
    for (op, line, dtype, output_is_alive), these in found.items():
        largest = max(these.values(), key=lambda r: r.value.elements)
        # Each call makes an array of this shape by each of these operations, at least one.
        of_shape = Counter((r.op, r.value.dtype) for r in these.values() if r.value.shape == largest.value.shape)
        ours = _traced(adapter, op, dtype, largest.value.shape).crossing
        instead = sum(r.nbytes for r in ours if not (output_is_alive and r.kind == "output"))
        yield _advice(op, line, op, these, instead * min(of_shape.values()))


def _named(trace: Trace, scope: str) -> tuple[str, str] | None:
    """The op that the innermost module or function of a scope is called after, and the scope up to there."""
    names = scope.split("/")
    for outer in ("/".join(names[:i]) for i in range(len(names), 0, -1)):
        for name in (outer.rpartition("/")[2], trace.classes.get(outer, "")):
            if op := _OP.get(re.sub(r"[\d_]", "", name.removeprefix("eqx.nn.")).lower()):
                return op, outer
    return None


def _does(op: str, steps: Sequence[Step], trace: Trace) -> bool:
    """Whether these steps are what their function is called after."""
    essential, others = (set(names.split()) for names in DOES[op])
    does = [step for step in steps if step.op in essential]
    if op == "dropout":  # of each element by itself
        largest = max((trace.values[n].elements for step in steps for n in step.ins), default=0)
        does = [step for step in does if any(trace.values[n].elements >= largest for n in step.outs)]
    axes = {step.axes for step in steps if step.op in ("max", "mean", "norm", "std", "sum", "var", "var_mean")}
    if op in ("layer_norm", "rms_norm") and not axes <= {(-1,)}:
        return False
    if op == "softmax" and axes and (len(axes) > 1 or {len(along) for along in axes} != {1}):
        return False
    return bool(does) and all(step.cost in CHEAP or step.op in essential | others for step in steps)


def _by_scope(trace: Trace) -> dict[str, list[Step]]:
    """The steps of the forward in each scope, and in those within."""
    found: dict[str, list[Step]] = defaultdict(list)
    for step in trace.steps[: trace.turn]:
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


class _Forward:
    """The forward of a trace, to walk in both directions."""

    def __init__(self, trace: Trace) -> None:
        self.values, self.alive = trace.values, trace.alive
        self.steps = [step for step in trace.steps[: trace.turn] if step.op != "carry"]
        self.makers = {n: step for step in self.steps for n in step.outs}
        self.order = {n: i for i, step in enumerate(self.steps) for n in step.outs}
        self.made_in: dict[tuple[str, str], set[int]] = defaultdict(set)
        self.readers: dict[int, list[Step]] = defaultdict(list)
        for step in self.steps:
            self.made_in[step.scope, step.line].update(step.outs)
            for n in step.ins:
                self.readers[n].append(step)
        results, self.given_on = set(self.alive), defaultdict[int, list[Step]](list)  # to what ends in a result
        for step in reversed(trace.steps[: trace.turn]):
            if not results.isdisjoint(step.outs):
                results.update(step.ins)
                for n in step.ins:
                    self.given_on[n].append(step)
        self.saved: dict[int, list[Residual]] = defaultdict(list)
        for r in trace.crossing:
            if r.is_new:
                self.saved[trace.part(r.value.number)].append(r)

    def back_to_product(self, operand: int) -> tuple[set[int], Step | None]:
        """The values of one size from a product up to this one, and the product.

        That size is more than either factor's: numbers for each query and key, or for each token and word, rather than
        for each of them.
        """
        size, seen, product, todo = self.values[operand].elements, set[int](), None, [operand]
        while todo:
            n = todo.pop()
            maker = self.makers.get(n)
            if n in seen or maker is None or self.values[n].elements != size:
                continue
            seen.add(n)
            if maker.op != "matmul":
                todo += maker.ins
            elif all(self.values[factor].elements < size for factor in maker.ins):
                product = maker
        return seen, product

    def made_of(self, values: set[int]) -> set[int]:
        """These values and what is made of them that has their size."""
        size, found, todo = self.values[next(iter(values))].elements, set(values), [*values]
        while todo:
            outs = {n for step in self.readers[todo.pop()] for n in step.outs if self.values[n].elements == size}
            todo += outs - found
            found |= outs
        return found

    def activation(self, step: Step, y: int) -> tuple[str, int, set[int]]:
        """Of what activation a step's operand is the output, as the op that has a gate of it; the activation's input,
        and what else it makes.
        """
        maker = self.makers.get(y)
        if maker and maker.op in ("silu", "gelu"):
            return {"silu": "swiglu", "gelu": "geglu"}[maker.op], maker.ins[0], set()
        if maker and maker.op == "mul" and len(maker.ins) == 2:
            for x, s in (maker.ins, maker.ins[::-1]):
                if s in self.makers and (self.makers[s].op, self.makers[s].ins) == ("sigmoid", (x,)):
                    within = self.made_in[maker.scope, maker.line] if maker.scope != step.scope else {s}
                    return "swiglu", x, within
        return "", y, set()

    def is_softmax(self, product: Step, end: Step, operand: int) -> bool:
        """Whether a product goes through a softmax along the last axis to this step's operand, and nowhere else; or, if
        the step takes from each row what its label says, through a log-softmax or beside a log-sum-exp.
        """
        made = self.made_of({*product.outs}) & {*self.given_on}
        stages = self.stages(made, product)
        if end.op == "matmul":
            is_one = stages.get(operand) == "weights"
        else:
            along = {step.op for n in made for step in self.given_on[n] if step.axes == (-1,)}
            is_one = "logsumexp" in along or stages.get(operand) == "weights"
            is_one = is_one or "exp" in stages.values()
            is_one = is_one and {self.makers[n].op for n in stages} <= _OF_LOGITS | {product.op, *COSTS["view"].split()}
        return is_one and None not in stages.values() and self.ends_in(end, made)

    def stages(self, made: set[int], product: Step) -> dict[int, str | None]:
        """What each of these values is on the way from a product through a softmax: "scores", their "exp", "weights",
        or None if it is something else.
        """
        found: dict[int, str | None] = dict.fromkeys(product.outs, "scores")
        for n in sorted(made - {*product.outs}, key=self.order.__getitem__):
            step = self.makers[n]
            of = [found[i] for i in step.ins if i in found]
            others = [self.values[i] for i in step.ins if i not in found]
            found[n] = None
            if len(of) != 1 or (step.op in ("div", "sub") and step.ins[0] not in found):
                continue
            is_row = all(value.elements < self.values[n].elements for value in others)
            is_sum = all(self.is_sum(value.number) for value in others)
            if step.cost == "view" or step.op == "convert":
                found[n] = of[0]
            elif of[0] == "scores" and step.op == "exp":
                sums = {reader.axes for reader in self.given_on[n] if reader.op == "sum"}
                found[n] = "exp" if sums == {(-1,)} else None
            elif (of[0] == "scores" and step.op in ("softmax", "log_softmax") and step.axes == (-1,)) or (
                of[0] == "exp" and step.op in ("div", "mul") and is_row and is_sum
            ):
                found[n] = "weights"
            elif of[0] == "scores" and (
                step.op in ("where", "masked_fill")
                or (step.op == "sub" and is_row)
                or (step.op == "add" and all(self.back_to_product(v.number)[1] is None for v in others))
                or (step.op in ("mul", "div") and all(value.elements == 1 for value in others))
            ):
                found[n] = "scores"
        return found

    def is_sum(self, n: int) -> bool:
        """Whether this is a sum, or its reciprocal, or something else only where it is 0."""
        maker = self.makers.get(n)
        if maker is None:
            return False
        if maker.cost == "view" or maker.op in ("convert", "reciprocal", "where", "maximum", "masked_fill"):
            return any(map(self.is_sum, maker.ins))
        return maker.op == "sum"

    def ends_in(self, end: Step, values: set[int]) -> bool:
        """Whether nothing but this step, and the softmax itself, reads these values, and none of them is a result."""
        rows, size = set[int](), self.values[next(iter(values))].elements
        todo = [*end.outs]
        while todo:  # what is made of the number that a label takes from each row
            for step in self.given_on[todo.pop()]:
                if step.cost == "view" or step.op in _OF_ROWS:
                    todo += {*step.outs} - rows
                    rows.update(step.outs)

        def ends(n: int) -> bool:
            for step in self.given_on[n]:
                if step is end or not rows.isdisjoint(step.outs):
                    continue
                is_reduction = step.op in ("logsumexp", "max", "sum") and self.values[n].elements == size
                for out in {*step.outs} - values:
                    small = self.values[out].elements < size and (
                        is_reduction or step.cost == "view" or step.op in _OF_ROWS
                    )
                    if out in self.alive or not small or not ends(out):
                        return False
            return True

        return all(ends(n) and n not in self.alive for n in values)

    def held(self, values: set[int]) -> _Held:
        return {r.storage: r for n in values for r in self.saved[n]}


def _of_attention(forward: _Forward, adapter: ModuleType) -> _Found:
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


def _of_logits(forward: _Forward, adapter: ModuleType) -> _Found:
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


def _of_gates(forward: _Forward, adapter: ModuleType) -> _Found:
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

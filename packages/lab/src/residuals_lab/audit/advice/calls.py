"""Recognises functions and modules that are named like one of our ops and really compute it."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from residuals_lab.trace import Step, Trace, Value
from residuals_lab.trace.costs import COSTS, MAKING

# Op → the names of modules and functions that may compute it, without "_", in lower case.
NAMES = {
    "gelu": "gelu newgelu gelutanh newgeluactivation geluactivation pytorchgelutanh",
    "silu": "silu swish siluactivation",
    "relu": "relu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "softmax": "softmax",
    "layer_norm": "layernorm standardize",
    "rms_norm": "rmsnorm llamarmsnorm t5layernorm qwen2rmsnorm qwen3rmsnorm mistralrmsnorm gemmarmsnorm",
}
_OP = {name: op for op, names in NAMES.items() for name in names.split()}
# For each op: operations of which one must occur, and the only others that may (views and copies always may).
DOES = {
    "gelu": ("erf erfc tanh gelu gelu_tanh", "add div integer_pow mul neg pow square sub"),
    "silu": ("silu sigmoid", "mul"),
    "relu": ("relu maximum clamp clamp_min threshold where", "eq ge gt le lt"),
    "sigmoid": ("sigmoid", ""),
    "tanh": ("tanh", ""),
    "softmax": ("softmax exp", "and div eq gt is_finite lt max maximum mul ne reciprocal sub sum where"),
    "layer_norm": ("layer_norm rsqrt sqrt", f"mean std sum var var_mean {COSTS['elementwise']}"),
    "rms_norm": ("rms_norm rsqrt sqrt", f"mean norm sum {COSTS['elementwise']}"),
}


def named(trace: Trace, module: str) -> tuple[str, str] | None:
    """The op that a module, or the innermost one around it that has such a name, is called after; and that module."""
    names = module.split("/")
    for outer in ("/".join(names[:i]) for i in range(len(names), 0, -1)):
        for name in (outer.rpartition("/")[2], trace.classes.get(outer, "")):
            bare = re.sub(r"_\d+$", "", name.removeprefix("eqx.nn.")).replace("_", "").lower()
            if op := _OP.get(bare):
                return op, outer
    return None


@dataclass(frozen=True)
class Call:
    """One call of a function or module that does what an op does."""

    places: Sequence[int]  # of its steps in the trace
    x: Value
    y: Value
    times: int  # how often a loop around it makes this call
    line: str  # of most of its steps


def calls(op: str, places: Sequence[int], trace: Trace) -> list[Call]:
    """The calls of one module or function, whose steps in the forward are at these places: none at all if one of the
    calls is not known to do what the op does.
    """
    found = list[Call]()
    for part in (part for group in _groups(places, trace) for part in _repeats(op, group, trace)):
        steps = [trace.steps[i] for i in part]
        if not does(op, steps, trace):
            return []
        (x,) = _arguments(steps, trace)
        made = [trace.values[n] for step in steps for n in step.outs]
        y = [value for value in made if value.elements == x.elements][-1]
        lines = Counter(step.line for step in steps if step.line)
        line = max(lines, key=lambda line: lines[line], default="")
        found.append(Call(part, x, y, max(step.times for step in steps), line))
    return found


def _groups(places: Sequence[int], trace: Trace) -> Iterator[Sequence[int]]:
    """These places, cut wherever no later step reads a value that an earlier one has made."""
    made = dict[int, int]()  # value → the last of these places that made it, as an index
    joined = set[int]()  # indices at which a value made before is still read later
    for i, place in enumerate(places):
        joined.update(range(min([i, *(made[n] for n in trace.steps[place].ins if n in made)]) + 1, i + 1))
        made |= dict.fromkeys(trace.steps[place].outs, i)
    starts = [i for i in range(len(places)) if i not in joined]
    return (places[i:j] for i, j in pairwise([*starts, len(places)]))


def _repeats(op: str, places: Sequence[int], trace: Trace) -> list[Sequence[int]]:
    """These places, cut into as many calls as there are if each does the same operations and goes on from the last."""
    essential, ops = DOES[op][0].split(), [trace.steps[i].op for i in places]
    for n in range(sum(name in essential for name in ops), 1, -1):
        size, rest = divmod(len(ops), n)
        if rest == 0 and ops == ops[:size] * n and not set(essential).isdisjoint(ops[:size]):
            return [places[i : i + size] for i in range(0, len(ops), size)]
    return [places]


def _arguments(steps: Sequence[Step], trace: Trace) -> set[Value]:
    """The largest arrays of floating numbers that these steps are given."""
    made = {n for step in steps for n in step.outs}
    given = [trace.values[n] for n in {n for step in steps for n in step.ins} - made]
    largest = max((value.elements for value in given), default=0)
    return {v for v in given if v.elements == largest and re.match(r"b?float|complex", v.dtype)}


def does(op: str, steps: Sequence[Step], trace: Trace) -> bool:
    """Whether these steps are what their function is called after, once, of one array."""
    essential, others = (frozenset(names.split()) for names in DOES[op])
    whole = {value.number for value in _arguments(steps, trace)}
    used = [step for step in steps if step.op in essential]
    if len(whole) != 1 or len({step.outs for step in used}) != 1:
        return False
    if not all(s.op in essential | others | MAKING or s.cost == "view" for s in steps):
        return False
    axes = {step.axes for step in steps if step.op in ("max", "mean", "norm", "std", "sum", "var", "var_mean")}
    if op in ("layer_norm", "rms_norm"):
        return axes <= {(-1,)}
    if op == "softmax":
        return len(axes) <= 1 and all(len(along) == 1 for along in axes)
    if op == "silu":
        return all(s.op == "silu" or _is_gated(s, used, whole) for s in steps if s.cost != "view")
    if op == "gelu":  # only `gelu` takes x itself; erf takes a multiple of x, tanh a polynomial
        return not any(s.op in ("erf", "erfc", "tanh") and not whole.isdisjoint(s.ins) for s in used)
    return True


def _is_gated(step: Step, sigmoids: Sequence[Step], x: set[int]) -> bool:
    """Whether a step is a sigmoid of x, or the product of that and x."""
    if step.op == "sigmoid":
        return x.issuperset(step.ins)
    return step.op == "mul" and any({*step.ins} == x | {*s.outs} for s in sigmoids)

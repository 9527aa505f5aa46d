"""What steps compute, found by computing them on one row of numbers: the same whoever wrote them."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from residuals_lab.audit.advice.forward import Forward, Node
from residuals_lab.audit.advice.literals import as_number, literal, operands
from residuals_lab.trace import Step, Value

Kind = Literal["full", "row", "feature", "number"]


class Known(NamedTuple):
    """An array as one row of it shows it: a number for each element of the row, or one for the row."""

    kind: Kind  # a "row" has one number a row, a "feature" one for each place of a row, the same in all rows
    a: Any


_erf = np.vectorize(math.erf, otypes=[float])
_UNARY: dict[str, Callable[[Any], Any]] = {
    "abs": np.abs,
    "erf": _erf,
    "erfc": lambda a: 1 - _erf(a),
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "gelu": lambda a: a * (1 + _erf(a / math.sqrt(2))) / 2,
    "gelu_tanh": lambda a: a * (1 + np.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))) / 2,
    "is_finite": np.isfinite,
    "log": np.log,
    "log1p": np.log1p,
    "log2": np.log2,
    "neg": np.negative,
    "not": np.logical_not,
    "reciprocal": lambda a: 1 / a,
    "relu": lambda a: np.maximum(a, 0),
    "rsqrt": lambda a: 1 / np.sqrt(a),
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "silu": lambda a: a / (1 + np.exp(-a)),
    "sqrt": np.sqrt,
    "square": np.square,
    "tanh": np.tanh,
}
_SEVERAL: dict[str, Callable[..., Any]] = {
    "add": lambda a, b, alpha=1: a + alpha * b,
    "and": np.logical_and,
    "clamp": lambda a, low=None, high=None: a if low is high is None else np.clip(a, low, high),
    "clamp_min": np.maximum,
    "div": np.divide,
    "eq": np.equal,
    "ge": np.greater_equal,
    "gt": np.greater,
    "integer_pow": np.power,
    "le": np.less_equal,
    "lt": np.less,
    "masked_fill": lambda a, mask, b: np.where(mask, b, a),
    "max": np.maximum,
    "maximum": np.maximum,
    "min": np.minimum,
    "minimum": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "or": np.logical_or,
    "pow": np.power,
    "rsub": lambda a, b, alpha=1: b - alpha * a,
    "sub": lambda a, b, alpha=1: a - alpha * b,
    "threshold": lambda a, bound, other: np.where(a > bound, a, other),
    "where": np.where,
}
_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "logsumexp": lambda a: np.log(np.sum(np.exp(a))),
    "max": np.max,
    "mean": np.mean,
    "min": np.min,
    "std": lambda a, correction=1: np.std(a, ddof=correction),
    "sum": np.sum,
    "var": lambda a, correction=1: np.var(a, ddof=correction),
}
_ALONG = {"softmax": lambda a: np.exp(a) / np.sum(np.exp(a))}  # of a row, a row
_SAME = frozenset(["clone", "convert", "copy", "copy_p"])
_VIEWS = frozenset(["broadcast", "expand", "reshape", "squeeze", "unsqueeze", "view"])
_CONSTANTS = {"zeros": 0.0, "zeros_like": 0.0, "ones": 1.0, "ones_like": 1.0}
COMPUTED = frozenset([*_UNARY, *_SEVERAL, *_REDUCTIONS, *_ALONG, *_SAME, *_VIEWS, "var_mean"])


class Row:
    """One row of an array `x`, and what the steps of a forward make of it."""

    def __init__(self, forward: Forward, x: Node, axis: int | None, numbers: Any) -> None:
        self.forward, self.axis = forward, axis
        self.size = forward.values[x.number].elements
        self.x = forward.values[x.number]
        self.length = len(numbers)
        self.known: dict[Node, Known | None] = {x: Known("full", numbers)}
        self.features: list[Any] = []  # rows of arrays that are given, such as weights
        self.given: list[Node] = []  # these arrays
        self.constants: set[float] = set()
        self.tolerance = 1e-6  # relative; a constant in low precision is one nearby
        self._random = np.random.default_rng(0)

    def of(self, node: Node, depth: int = 8) -> Known | None:
        """What an array is, if it is made of x, constants and given rows alone."""
        if node not in self.known:
            value = self.forward.values[node.number]
            made = None
            if node.place >= 0 and depth and (value.elements < self.size or value.elements == 1):
                made = self.computed(node.place, depth - 1)
            self.known[node] = made or self._given(node, value)
        return self.known[node]

    def computed(self, place: int, depth: int = 8) -> Known | None:
        """What a step makes, if it is one of those that are known here."""
        step = self.forward.all[place]
        if step.op in _CONSTANTS or step.op in ("constant", "full", "full_like", "scalar_tensor"):
            return self._constant(step)
        if step.op not in COMPUTED or not step.ins:
            return None
        ins = [self.of(self.forward.node(n, place), depth) for n in step.ins]
        if not all(ins):
            return None
        known = [k for k in ins if k]
        given = [self.forward.values[n] for n in step.ins]
        with np.errstate(all="ignore"):
            if step.op in _SAME:
                return known[0]
            if step.op in _VIEWS:
                return self._viewed(step, known[0], given[0])
            if step.axes or step.op == "var_mean":
                return self._reduced(step, known[0])
            return self._elementwise(step, known, given)

    def _constant(self, step: Step) -> Known | None:
        if step.op in _CONSTANTS:
            return Known("number", _CONSTANTS[step.op])
        text = str(self.forward.keys.get(step.outs[0], ("", ""))[1])
        if step.op == "constant":  # `(device(type='cpu'), 0.5)`
            found = re.search(r", (-?[\w.+-]+)\)$", text)
            return self._number(found[1], "float32") if found else None
        arguments = operands(step, self.forward.keys)
        numbers = [a for a in (arguments[0] if arguments else ()) if isinstance(a, (int, float))]
        return self._number(numbers[-1], "float32") if numbers else None

    def _number(self, text: Any, dtype: str) -> Known | None:
        number = as_number(text)
        if number is None:
            return None
        self.constants.add(number)
        if dtype in ("bfloat16", "float16"):
            self.tolerance = max(self.tolerance, 4e-3)
        return Known("number", number)

    def _given(self, node: Node, value: Value) -> Known | None:
        key = self.forward.keys.get(node.number)
        if node.place < 0 and (number := literal(key)) is not None:
            return self._number(number, value.dtype)
        if value.elements == 1 and self.size > 1:
            return Known("number", self._random.normal())
        wide = self.x.shape[-1] if self.x.shape else 0
        if self.axis in (None, -1) and value.elements == wide < self.size and value.shape[-1] == wide:
            self.features.append(self._random.normal(size=self.length))
            self.given.append(node)
            return Known("feature", self.features[-1])
        return None

    def _viewed(self, step: Step, known: Known, given: Value) -> Known | None:
        out, axis = self.forward.values[step.outs[0]], -1 if self.axis is None else self.axis
        if known.kind == "number":
            return known
        dims = re.search(r"'broadcast_dimensions': \(([\d, ]*)\)", str(self.forward.keys[step.outs[0]][1]))
        kept = [int(d) for d in dims[1].replace(",", " ").split()] if dims else []
        at = len(out.shape) + axis
        if known.kind == "row":  # a broadcast must not put the rows along the axis
            along = given.shape[kept.index(at)] if dims and at in kept else 1
            if not dims and step.op == "expand":
                along = given.shape[axis] if len(given.shape) >= -axis else 1
            return known if along == 1 else None
        if at < 0 or out.shape[at] != (given.shape[axis] if len(given.shape) >= -axis else 0):
            return None
        if dims and (at not in kept or kept.index(at) != len(given.shape) + axis):
            return None
        return known if known.kind == "feature" or out.elements == given.elements else None

    def _reduced(self, step: Step, known: Known) -> Known | None:
        if self.axis is None or step.axes != (self.axis,) or known.kind != "full":
            return None
        if step.op in _ALONG:
            return Known("full", _ALONG[step.op](known.a))
        arguments = operands(step, self.forward.keys)
        reduce = _REDUCTIONS.get(step.op)
        if arguments is None or reduce is None:
            return None
        if step.op in ("std", "var"):
            correction = arguments[1].get("correction", 1)
            return Known("row", reduce(known.a, 1 if correction is None else correction))
        return Known("row", reduce(known.a))

    def _elementwise(self, step: Step, known: Sequence[Known], given: Sequence[Value]) -> Known | None:
        kinds = {k.kind for k in known}
        is_full = "full" in kinds or {"row", "feature"} <= kinds
        if is_full and self.forward.values[step.outs[0]].elements != self.size:
            return None
        if is_full and not all(self._is_aligned(k, value) for k, value in zip(known, given, strict=True)):
            return None
        arguments, rest = operands(step, self.forward.keys), iter([k.a for k in known])
        if arguments is None or "rounding_mode" in arguments[1]:
            return None
        args = [next(rest) if a is ... else a for a in arguments[0]]
        kwargs = {key: a for key, a in arguments[1].items() if key in ("alpha",)}
        self.constants.update(a for a in arguments[0] if isinstance(a, (int, float)))
        if step.op == "where" and str(self.forward.keys[step.outs[0]][1]).startswith("{"):
            args = [args[0], args[2], args[1]]  # JAX gives the one for False first
        if step.op == "clamp" and str(self.forward.keys[step.outs[0]][1]).startswith("{"):
            args = [args[1], args[0], args[2]]
        try:
            made = (_UNARY.get(step.op) or _SEVERAL[step.op])(*args, **kwargs)
        except (KeyError, TypeError, ValueError):
            return None
        kind: Kind = "full" if is_full else "feature" if "feature" in kinds else "row" if "row" in kinds else "number"
        return Known(kind, np.asarray(made, float))

    def _is_aligned(self, known: Known, value: Value) -> bool:
        """Whether an operand meets a full array as its kind says: one number a row, say, not one a column."""
        axis = -1 if self.axis is None else self.axis
        if known.kind != "row" or value.elements in (1, self.size):
            return True
        return len(value.shape) >= -axis and value.shape[axis] == 1

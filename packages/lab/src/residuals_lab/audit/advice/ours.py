"""Advice, and what our ops keep: traced on shapes, never guessed."""

import inspect
import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from residuals_lab.frameworks.protocol import Framework
from residuals_lab.frameworks.sites import Loop, Site
from residuals_lab.trace import Residual, Trace, Value

Place = Callable[[], Site | Loop]  # one call of an op; it raises Unplaced where it cannot be told how to call it


@dataclass(frozen=True)
class Advice:
    """An op to take for what a line of code does, and what it would keep."""

    what: str  # the line does, "attention"
    line: str
    op: str  # to take instead: one of ours, or the framework's with the package before it, "jax.checkpoint"
    arrays: int
    nbytes: int  # new bytes as it is
    instead: int  # new bytes with the op, at most: some of its residuals may be alive anyway
    storages: frozenset[Hashable] = frozenset()  # of these arrays
    options: str = ""  # that the op needs to give the same numbers, 'approximate="tanh"'
    own: str = ""  # the framework's own op, where that keeps as little
    places: tuple[Place, ...] = field(default=(), repr=False, compare=False)  # where the op is called
    is_own_once: bool = False  # and has no second derivative

    @property
    def freed(self) -> int:
        return self.nbytes - self.instead

    def call(self, framework: str) -> str:
        """What to write: an op of ours with its options, or a function of the framework."""
        if "." in self.op:
            return f"{self.op} of its body"
        if self.op == "dropout":
            key = ", key" if framework == "jax" else ""
            return f"residuals_{framework}.dropout(x, rate if training else 0.0{key})"  # it knows of no evaluation
        options = f"(…, {self.options})" if self.options else ""
        always = ", which drops in evaluation too," if self.op == "attention" else ""
        own = f"{self.own}{options}{' (no second derivative)' * self.is_own_once} or " if self.own else ""
        return own + f"residuals_{framework}.{self.op}{options}{always}"


# The arguments of the framework's own op that are not arrays.
_STATIC: dict[str, dict[str, Any]] = {
    "flash_attention": {"is_causal": False, "scale": None},
    "gelu": {"approximate": "none"},
    "layer_norm": {"eps": 1e-5},
    "relu": {},
    "rms_norm": {"eps": 1e-6},
    "sigmoid": {},
    "silu": {},
    "softmax": {"axis": -1},
    "tanh": {},
}
Saved = dict[Hashable, Residual]  # the residuals of a pattern that are new memory, by their storages
Found = Iterator[tuple[Saved, Advice]]


def found_advice(
    what: str,
    line: str,
    op: str,
    saved: Saved,
    instead: int,
    options: str = "",
    own: str = "",
    places: Iterable[Place] = (),
) -> tuple[Saved, Advice]:
    """Advice about these arrays."""
    nbytes = sum(r.storage_bytes for r in saved.values())
    return saved, Advice(what, line, op, len(saved), nbytes, instead, frozenset(saved), options, own, tuple(places))


class Ours:
    """Our ops in one framework, each traced once a shape."""

    def __init__(self, adapter: Framework) -> None:
        self._adapter = adapter
        self._traces: dict[tuple[object, ...], Trace] = {}

    def has_option(self, op: str, name: str) -> bool:
        """Whether an op takes an argument of this name."""
        return name in inspect.signature(self._adapter.public(op)).parameters

    def trace(self, op: str, dtype: str, *shapes: tuple[int, ...]) -> Trace:
        """The trace of an op on arrays of these shapes, without any numbers."""
        key = (op, dtype, *shapes)
        if key not in self._traces:
            self._traces[key] = self._traced(op, dtype, *shapes)
        return self._traces[key]

    def own(self, op: str, dtype: str, *shapes: tuple[int, ...]) -> str:
        """The framework's own op for an op of ours, if it takes arrays of these shapes and keeps as little; else ""."""
        name, fn = self._adapter.OWN.get(op, ("", None))
        if fn is None or op not in _STATIC:
            return ""
        key = (name, dtype, *shapes)
        if key not in self._traces:
            with self._adapter.abstractly():
                arrays = [self._adapter.shaped(shape, dtype) for shape in shapes]
                names = [str(i) for i in range(len(arrays))]
                fn = partial(fn, **_STATIC[op])
                try:
                    self._traces[key] = self._adapter.trace(fn, arrays, names, is_abstract=True)
                except IndexError:  # of PyTorch's attention, which takes no fewer than three dimensions
                    return ""
        own, ours = self._traces[key], self.trace(op, dtype, *shapes)
        # What is saved may be an output, which the next operation often saves too, or new memory.
        return name if own.saved_bytes <= ours.saved_bytes and own.new_bytes <= ours.new_bytes else ""

    def is_own_once(self, op: str, dtype: str, *shapes: tuple[int, ...]) -> bool:
        """Whether the framework's own op for an op of ours has no second derivative, on arrays of these shapes."""
        fn = partial(self._adapter.OWN[op][1], **_STATIC[op])
        with self._adapter.abstractly():
            arrays = [self._adapter.shaped(shape, dtype) for shape in shapes]
            try:
                g = self._adapter.outline(fn, *arrays)
                self._adapter.outline(partial(_twice, self._adapter, fn), g, *arrays)
            except RuntimeError:  # PyTorch has no formula for the derivative of that backward
                return True
            except ValueError:  # JAX differentiates all of its own ops again, but does not say so on shapes alone
                return False
        return False

    def _traced(self, op: str, dtype: str, *shapes: tuple[int, ...]) -> Trace:
        fn, others = self._adapter.public(op), list[tuple[tuple[int, ...], str]]()
        if op == "dropout":
            fn, others = partial(_half_dropped, fn), [((2,), "uint32")]
        elif op == "attention":  # advised where weights are dropped; else flash_attention is
            fn, others = partial(_weights_half_dropped, fn), [((2,), "uint32")]
        elif op == "cross_entropy":
            others = [(shapes[0][:1], "int32")]
        elif op == "linear_cross_entropy":
            fn, others = partial(_in_one_chunk, fn), [(shapes[0][:1], "int32")]
        with self._adapter.abstractly():
            arrays = [self._adapter.shaped(*a) for a in [*((shape, dtype) for shape in shapes), *others]]
            return self._adapter.trace(fn, arrays, [str(i) for i in range(len(arrays))], is_abstract=True)


def _twice(adapter: Framework, fn: Callable[..., Any], g: Any, *arrays: Any) -> Any:
    return adapter.second_vjp(fn, arrays, g, arrays)


def _half_dropped(dropout: Callable[..., Any], x: Any, key: Any) -> Any:
    return dropout(x, 0.5, key)


def _weights_half_dropped(attention: Callable[..., Any], q: Any, k: Any, v: Any, key: Any) -> Any:
    return attention(q, k, v, dropout=0.5, key=key)


def _in_one_chunk(linear_cross_entropy: Callable[..., Any], x: Any, weight: Any, labels: Any) -> Any:
    """The op in one chunk: its residuals do not depend on the chunks, and the trace of one chunk is short."""
    return linear_cross_entropy(x, weight, labels, chunk=len(weight))


def iterations(saved: Saved, value: Value) -> int:
    """How many iterations of a loop are stacked up in these arrays, where one contributes a value of this size."""
    return max(math.prod(r.value.shape) for r in saved.values()) // value.elements


def beside_inputs(trace: Trace) -> int:
    """The bytes of an op's residuals that are not its inputs."""
    return trace.saved_bytes - sum(r.storage_bytes for r in trace.residuals if r.kind == "input")

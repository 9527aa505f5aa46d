"""One call of an op, and the functions of arrays that it gives in each framework and in NumPy."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np

from residuals_lab.frameworks.protocol import Framework
from residuals_lab.ops import BY_NAME, Op
from residuals_lab.trace import Trace


@dataclass(frozen=True)
class Call:
    """The arrays of a call in float64, by name (an optional one may be absent), and its static arguments.

    `constants` are the arrays that are never differentiated, in their own dtype. The functions that a call gives are
    functions of `arrays`, which bring the constants along, on `device`.
    """

    op: Op
    arrays: dict[str, np.ndarray]
    static: dict[str, Any]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    device: str = "cpu"

    @classmethod
    def of(cls, op: Op, arguments: Mapping[str, Any]) -> "Call":
        """Sort the arguments of a call into arrays, static ones and constants, in the op's order, with defaults."""
        op = op.of(arguments)
        arrays, constants = (
            {name: arguments[name] for name in names if arguments.get(name) is not None}
            for names in (op.arrays, op.constants)
        )
        return cls(op, arrays, {name: arguments.get(name, default) for name, default in op.static.items()}, constants)

    def rounded(self, adapter: Framework, dtype: str) -> "Call":
        """The same call with its arrays as `dtype` has them: the truth about a low-precision run starts there.

        Floating constants are statistics, which are at least float32.
        """
        arrays = {name: round_to(adapter, a, dtype) for name, a in self.arrays.items()}
        wide = np.float64 if dtype == "float64" else np.float32
        constants = {name: a.astype(wide) if a.dtype.kind == "f" else a for name, a in self.constants.items()}
        return replace(self, arrays=arrays, constants=constants)

    # The truth, in NumPy and float64.

    @property
    def _numpy(self) -> ModuleType:
        return importlib.import_module(f"residuals_numpy.ops.{self.op.name}")

    def forward(self) -> np.ndarray:
        """The value: the first of the results, which is the one that has a gradient."""
        return _first(self.results())

    def results(self) -> Any:
        """All results of the op."""
        return self._numpy.forward(**self.arrays, **self._exact, **self.static)

    def vjp(self, g: np.ndarray) -> dict[str, np.ndarray]:
        """The gradient of each array that is there."""
        gradients = self._numpy.vjp(*self._all(self.arrays | self._exact), g=g, **self.static)
        return {name: d for name, d in zip(self.op.arrays, gradients, strict=True) if name in self.arrays}

    def residuals(self) -> dict[str, np.ndarray]:
        """The value of each residual that is there."""
        found = self._numpy.residuals(**self.arrays, **self._exact, **self.static)
        return {name: value for name, value in found.items() if value is not None}

    @property
    def _exact(self) -> dict[str, np.ndarray]:
        """The constants, as NumPy computes with them."""
        return {name: a.astype(np.float64) if a.dtype.kind == "f" else a for name, a in self.constants.items()}

    # In a framework: functions of this call's arrays, in order.

    def bind(self, adapter: Framework, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn` of arrays and constants as a function of the arrays alone, to which constants may still be given."""
        constants = self.constants_in(adapter)

        def bound(*given: Any) -> Any:
            return fn(*given, *constants[len(given) - len(self.arrays) :])

        return bound

    def constants_in(self, adapter: Framework) -> list[Any]:
        """The constants as the framework's arrays."""
        return [adapter.constant(a, self.device) for a in self.constants.values()]

    def ours(self, adapter: Framework) -> Callable[..., Any]:
        """The op as its users call it."""
        public = adapter.public(self.op.name)
        return self.bind(adapter, lambda *given: _first(public(**self._named(given), **self.static)))

    def saved(self, adapter: Framework) -> Callable[..., Any]:
        """The `Residuals` of the op."""
        fwd = self._fwd(adapter)
        return self.bind(adapter, lambda *given: fwd(*given)[1])

    def plain(self, adapter: Framework) -> Callable[..., Any]:
        """The same maths without the op's rule: `fwd`, for the framework to differentiate."""
        fwd = self._fwd(adapter)
        return self.bind(adapter, lambda *given: _first(fwd(*given)[0]))

    def own(self, adapter: Framework) -> Callable[..., Any]:
        """The framework's own op for the same thing, where its adapter knows one."""
        _, fn = adapter.OWN[self.op.name]
        return self.bind(adapter, lambda *given: fn(**self._named(given), **self.static))

    def checkpointed(self, adapter: Framework) -> Callable[..., Any]:
        """The plain maths in a checkpoint, which saves nothing but the inputs."""
        return adapter.checkpointed(self.plain(adapter))

    def trace(self, adapter: Framework, fn: Callable[..., Any], arrays: Sequence[Any]) -> Trace:
        """The trace of one of these functions at `arrays`, with the constants as further inputs, by name."""
        inputs = [*arrays, *self.constants_in(adapter)]
        return adapter.trace(fn, inputs, [*self.arrays, *self.constants], self.saved(adapter))

    def saved_bytes(self, adapter: Framework, fn: Callable[..., Any], arrays: Sequence[Any]) -> int:
        """The bytes that one of these functions really saves, with the constants as further inputs."""
        return adapter.saved_bytes(fn, [*arrays, *self.constants_in(adapter)])

    def backward(
        self, adapter: Framework, residuals: Mapping[str, Any], g: Any, arrays: Sequence[Any]
    ) -> dict[str, Any]:
        """The gradients of the op's `bwd` on these residuals, one for each of `arrays`, of its shape and dtype."""
        module = adapter.op(self.op.name)
        fields = module.Residuals(**{name: residuals.get(name) for name in module.Residuals._fields})
        given = dict(zip(self.arrays, arrays, strict=True))
        like = {"like": adapter.likes(*(given.get(name) for name in self.op.arrays))}
        takes = inspect.signature(module.bwd).parameters
        gradients = module.bwd(*self.static.values(), fields, g, **(like if "like" in takes else {}))
        # In JAX, a None for each constant follows the gradients.
        return {name: d for name, d in zip(self.op.arrays, gradients, strict=False) if name in self.arrays}

    def _fwd(self, adapter: Framework) -> Callable[..., Any]:
        fwd = adapter.op(self.op.name).fwd  # found beforehand: a compiler cannot follow an import
        return lambda *given: fwd(*self._all(self._named(given)), *self.static.values())

    def _named(self, given: tuple[Any, ...]) -> dict[str, Any]:
        return dict(zip((*self.arrays, *self.constants), given, strict=True))

    def _all(self, given: Mapping[str, Any]) -> list[Any]:
        return [given.get(name) for name in (*self.op.arrays, *self.op.constants)]


def _first(results: Any) -> Any:
    return results[0] if isinstance(results, tuple) else results


def samples(op_name: str, seed: int = 0) -> dict[str, Call]:
    """The op's sample calls, by name."""
    op = BY_NAME[op_name]
    module = importlib.import_module(f"residuals_numpy.ops.{op_name}")
    return {name: Call.of(op, call) for name, call in module.samples(np.random.default_rng(seed)).items()}


def round_to(adapter: Framework, a: np.ndarray, dtype: str) -> np.ndarray:
    """`a` rounded to `dtype`, in float64."""
    with adapter.precision(dtype):
        return adapter.to_numpy(adapter.array(a, dtype))

"""One call of an op, and the functions of arrays that it gives in each framework and in NumPy."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from residuals_lab.ops import BY_NAME, Op


@dataclass(frozen=True)
class Call:
    """The arrays of a call in float64, by name (an optional one may be absent), and its static arguments."""

    op: Op
    arrays: dict[str, np.ndarray]
    static: dict[str, Any]

    @classmethod
    def of(cls, op: Op, arguments: Mapping[str, Any]) -> "Call":
        """Sort the arguments of a call into arrays and static ones, in the op's order, defaults filled in."""
        arrays = {name: arguments[name] for name in op.arrays if arguments.get(name) is not None}
        return cls(op, arrays, {name: arguments.get(name, default) for name, default in op.static.items()})

    def rounded(self, adapter: ModuleType, dtype: str) -> "Call":
        """The same call with its arrays as `dtype` has them: the truth about a low-precision run starts there."""
        arrays = {name: round_to(adapter, a, dtype) for name, a in self.arrays.items()}
        return replace(self, arrays=arrays)

    # The truth, in NumPy and float64.

    @property
    def _numpy(self) -> ModuleType:
        return importlib.import_module(f"residuals_numpy.ops.{self.op.name}")

    def forward(self) -> np.ndarray:
        return self._numpy.forward(**self.arrays, **self.static)

    def vjp(self, g: np.ndarray) -> dict[str, np.ndarray]:
        """The gradient of each array that is there."""
        gradients = self._numpy.vjp(*self._all(self.arrays), g=g, **self.static)
        return {name: d for name, d in zip(self.op.arrays, gradients, strict=True) if name in self.arrays}

    def residuals(self) -> dict[str, np.ndarray]:
        """The value of each residual that is there."""
        found = self._numpy.residuals(**self.arrays, **self.static)
        return {name: value for name, value in found.items() if value is not None}

    # In a framework: functions of this call's arrays, in order.

    def ours(self, adapter: ModuleType) -> Callable[..., Any]:
        """The op as its users call it."""
        public = adapter.public(self.op.name)
        return lambda *arrays: public(**dict(zip(self.arrays, arrays, strict=True)), **self.static)

    def saved(self, adapter: ModuleType) -> Callable[..., Any]:
        """The `Residuals` of the op."""
        return lambda *arrays: self._fwd(adapter, arrays)[1]

    def plain(self, adapter: ModuleType) -> Callable[..., Any]:
        """The same maths without the op's rule: `fwd`, for the framework to differentiate."""
        return lambda *arrays: self._fwd(adapter, arrays)[0]

    def backward(self, adapter: ModuleType, residuals: Mapping[str, Any], g: Any) -> dict[str, Any]:
        """The op's `bwd` on these residuals: the gradient of each array that is there."""
        module = adapter.op(self.op.name)
        fields = module.Residuals(**{name: residuals.get(name) for name in module.Residuals._fields})
        gradients = module.bwd(*self.static.values(), fields, g)
        return {name: d for name, d in zip(self.op.arrays, gradients, strict=True) if name in self.arrays}

    def _fwd(self, adapter: ModuleType, arrays: tuple[Any, ...]) -> Any:
        given = dict(zip(self.arrays, arrays, strict=True))
        return adapter.op(self.op.name).fwd(*self._all(given), *self.static.values())

    def _all(self, given: Mapping[str, Any]) -> list[Any]:
        return [given.get(name) for name in self.op.arrays]


def samples(op_name: str, seed: int = 0) -> dict[str, Call]:
    """The op's sample calls, by name."""
    op = BY_NAME[op_name]
    module = importlib.import_module(f"residuals_numpy.ops.{op_name}")
    return {name: Call.of(op, call) for name, call in module.samples(np.random.default_rng(seed)).items()}


def round_to(adapter: ModuleType, a: np.ndarray, dtype: str) -> np.ndarray:
    """`a` rounded to `dtype`, in float64."""
    with adapter.precision(dtype):
        return adapter.to_numpy(adapter.array(a, dtype))

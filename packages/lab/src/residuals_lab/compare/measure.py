"""A function's results and its residuals, measured on one call in one framework; and the exchange."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from residuals_lab.frameworks.protocol import Framework
from residuals_lab.ops import footprint
from residuals_lab.ops.call import Call, round_to
from residuals_lab.ops.tolerance import error
from residuals_lab.trace import Trace

Make = Callable[[Call, Framework], Callable[..., Any]]  # makes a function of a call's arrays


@dataclass(frozen=True)
class Options:
    """What to compare on. Accuracy is measured in all `dtypes`, residuals in the last, the exchange in the first."""

    dtypes: tuple[str, ...] = ("float64", "float32")
    device: str = "cpu"
    size: int = 4096
    seed: int = 0
    inputs: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """A function's results in NumPy: value and gradients by dtype, and second derivatives in float64.

    `seconds` is None for a function that cannot be differentiated twice, or was not asked to be.
    """

    value: dict[str, np.ndarray]
    gradients: dict[str, list[np.ndarray]]
    seconds: list[np.ndarray] | None


class Errors(NamedTuple):
    """How far one result is from another, relative to that other's largest entry."""

    value: dict[str, float]  # by dtype
    gradient: dict[str, float]  # by dtype; the worst of the arrays
    second_derivative: float | None  # in float64; None where one of the two has none


class Kept(NamedTuple):
    """A function's residuals, in its trace, and the bytes that it adds to linear → op → linear."""

    trace: Trace
    chain_bytes: int

    @property
    def saved_bytes(self) -> int:
        return self.trace.saved_bytes

    @property
    def new_bytes(self) -> int:
        return self.trace.new_bytes


def result(call: Call, make: Make, adapter: Framework, options: Options, is_twice: bool = True) -> Result:
    """The results of a function of the call's arrays; second derivatives among them only if `is_twice`."""
    values, gradients = {}, {}
    for dtype in options.dtypes:
        with adapter.precision(dtype):
            args, g, _ = arrays(call, adapter, dtype, options)
            y, found = adapter.value_and_vjp(make(call.rounded(adapter, dtype), adapter), args, g)
            values[dtype], gradients[dtype] = adapter.to_numpy(y), [adapter.to_numpy(d) for d in found]
    return Result(values, gradients, _seconds(call, make, adapter, options) if is_twice else None)


def truth(call: Call, adapter: Framework, options: Options, is_twice: bool = True) -> Result:
    """The analytic values and gradients of each dtype, from arrays and cotangents rounded to that dtype; and second
    derivatives by plain autodiff in float64, unless `is_twice` says that nobody wants them.
    """
    values, gradients = {}, {}
    for dtype in options.dtypes:
        rounded = call.rounded(adapter, dtype)
        values[dtype] = rounded.forward()
        gradients[dtype] = list(rounded.vjp(round_to(adapter, _noise(call, options)[0], dtype)).values())
    return Result(values, gradients, _seconds(call, Call.plain, adapter, options) if is_twice else None)


def _seconds(call: Call, make: Make, adapter: Framework, options: Options) -> list[np.ndarray] | None:
    """Second derivatives, always in float64: whether a rule can be differentiated again is no matter of precision."""
    with adapter.precision("float64"):
        args, g, us = arrays(call, adapter, "float64", options)
        try:
            return [adapter.to_numpy(d) for d in adapter.second_vjp(make(call, adapter), args, g, us)]
        except Exception:  # of any kind: the verdict will say that there are none
            return None


def arrays(call: Call, adapter: Framework, dtype: str, options: Options) -> tuple[list[Any], Any, list[Any]]:
    """The call's arrays, a random cotangent, and random cotangents of the gradients."""
    made = [adapter.array(a, dtype, options.device) for a in (*call.arrays.values(), *_noise(call, options))]
    n = len(call.arrays)
    return made[:n], made[n], made[n + 1 :]


def _noise(call: Call, options: Options) -> list[np.ndarray]:
    rng = np.random.default_rng(options.seed + 1)
    shapes = [np.shape(call.forward()), *(a.shape for a in call.arrays.values())]
    return [rng.standard_normal(shape) for shape in shapes]


def errors(found: Result, true: Result) -> Errors:
    """How far a result is from the truth."""
    return Errors(
        value={dtype: error(a, true.value[dtype]) for dtype, a in found.value.items()},
        gradient={dtype: _worst(a, true.gradients[dtype]) for dtype, a in found.gradients.items()},
        second_derivative=_worst(found.seconds, true.seconds) if found.seconds and true.seconds else None,
    )


def _worst(found: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
    return max(error(a, b) for a, b in zip(found, truths, strict=True))


def kept(call: Call, make: Make, adapter: Framework, options: Options) -> Kept:
    """The residuals of a function of the call's arrays, in the last dtype."""
    dtype = options.dtypes[-1]
    with adapter.precision(dtype):
        args, _, _ = arrays(call, adapter, dtype, options)
        call = call.rounded(adapter, dtype)
        fn = make(call, adapter)
        chain_bytes = footprint.chain_trace(call, adapter, fn, dtype).new_bytes
        return Kept(call.trace(adapter, fn, args), chain_bytes)


def exchange(call: Call, adapters: Sequence[Framework], options: Options) -> dict[tuple[str, str], float]:
    """Residuals made in NumPy and in every framework, fed to every framework's backward: the largest gradient error.

    The keys are where the residuals are from, and whose backward reads them.
    """
    dtype = options.dtypes[0]
    made: dict[str, dict[str, np.ndarray]] = {}
    for adapter in adapters:
        with adapter.precision(dtype):
            args, _, _ = arrays(call, adapter, dtype, options)
            fields = call.rounded(adapter, dtype).saved(adapter)(*args)._asdict()
            made[adapter.NAME] = {name: adapter.to_numpy(a) for name, a in fields.items() if a is not None}
    worst = {}
    for adapter in adapters:
        rounded = call.rounded(adapter, dtype)
        with adapter.precision(dtype):
            args, g, _ = arrays(call, adapter, dtype, options)
            truths = list(rounded.vjp(adapter.to_numpy(g)).values())
            own = rounded.saved(adapter)(*args)._asdict()
            for source, values in {"numpy": rounded.residuals(), **made}.items():
                fed = {
                    name: adapter.array(a, adapter.dtype_of(own[name]), options.device) for name, a in values.items()
                }
                found = rounded.backward(adapter, fed, g, args).values()
                worst[source, adapter.NAME] = _worst([adapter.to_numpy(d) for d in found], truths)
    return worst

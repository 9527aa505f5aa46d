"""Measure ops, or anyone's function beside one: errors, residuals, bytes held, recomputation, the exchange.

Everything measured goes into one document, which `--json` prints as it is and `compare_view` lays out as tables.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np

from residuals_lab.call import Call, round_to
from residuals_lab.errors import UsageError
from residuals_lab.ops import Axes, Op
from residuals_lab.tolerance import error, limit

Record = dict[str, Any]
Make = Callable[[Call, ModuleType], Callable[..., Any]]  # a function of a call's arrays, made in a framework


@dataclass(frozen=True)
class Options:
    """What to compare on. Accuracy is measured in all `dtypes`, residuals in the last, the exchange in the first."""

    dtypes: tuple[str, ...] = ("float64", "float32")
    device: str = "cpu"
    size: int = 4096
    seed: int = 0
    inputs: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """Somebody's own function, to be compared with an op of the same arguments."""

    name: str
    fn: Callable[..., Any]
    framework: str


def compare(
    ops: Sequence[Op], adapters: Sequence[ModuleType], options: Options, target: Target | None = None
) -> Record:
    """The whole document: one entry an op, and what failed."""
    known = {name for op in ops for name in op.arrays}
    for name in options.inputs:
        if name not in known:
            raise UsageError(f"input: expected one of {', '.join(sorted(known))}, got {name!r}")
    calls = [make_call(op, options) for op in ops]
    entries = [_compare_op(call, adapters, options, target) for call in calls]
    return {
        "schema_version": 1,
        "device": options.device,
        "seed": options.seed,
        "dtypes": list(options.dtypes),
        "ops": entries,
        "failures": [failure for entry in entries for failure in entry["failures"]],
    }


def make_call(op: Op, options: Options) -> Call:
    """A call with the arrays given, and random ones of shapes that fit them."""
    axes: Axes = {}
    for name, a in options.inputs.items():
        if name in op.arrays:
            for letter, sizes in op.axes(name, a.shape).items():
                if axes.setdefault(letter, sizes) != sizes:
                    raise UsageError(f"{name}: expected axis {letter} of size {axes[letter]}, got shape {a.shape}")
    axes = op.default_axes(options.size) | axes
    random = op.draw(np.random.default_rng(options.seed), axes)
    call = Call.of(op, random | {name: a for name, a in options.inputs.items() if name in op.arrays})
    return replace(call, device=options.device)


def _compare_op(call: Call, adapters: Sequence[ModuleType], options: Options, target: Target | None) -> Record:
    results = {a.NAME: _run(call, Call.ours, a, options) for a in adapters}
    truths = {a.NAME: _truth(call, a, options) for a in adapters}
    entry: Record = {
        "op": call.op.name,
        "shapes": {name: list(a.shape) for name, a in call.arrays.items()},
        "frameworks": {a.NAME: _record(call, a, options, results[a.NAME], truths[a.NAME]) for a in adapters},
        "difference": _difference(results),
        "exchange": exchange(call, adapters, options),
    }
    if target is not None:
        adapter = next(a for a in adapters if target.framework == a.NAME)

        def theirs(call: Call, adapter: ModuleType) -> Callable[..., Any]:
            return call.bind(adapter, target.fn)

        result = _run(call, theirs, adapter, options)
        entry["target"] = {
            "name": target.name,
            "framework": target.framework,
            **_errors(result, truths[adapter.NAME]),
            **_held(call, theirs, adapter, options),
        }
    entry["failures"] = _failures(entry, call, adapters, options)
    return entry


@dataclass(frozen=True)
class _Result:
    """What a function gives, in NumPy: by dtype, its value and gradients; in float64, its second derivatives."""

    value: dict[str, np.ndarray]
    gradients: dict[str, list[np.ndarray]]
    seconds: list[np.ndarray]


def _run(call: Call, make: Make, adapter: ModuleType, options: Options) -> _Result:
    values, gradients = {}, {}
    for dtype in options.dtypes:
        with adapter.precision(dtype):
            args, g, _ = _arrays(call, adapter, dtype, options)
            y, found = adapter.value_and_vjp(make(call.rounded(adapter, dtype), adapter), args, g)
            values[dtype], gradients[dtype] = adapter.to_numpy(y), [adapter.to_numpy(d) for d in found]
    return _Result(values, gradients, _seconds(call, make, adapter, options))


def _truth(call: Call, adapter: ModuleType, options: Options) -> _Result:
    """The analytic values and gradients, and second derivatives by plain autodiff in float64, each at the arrays and
    cotangents as its dtype has them.
    """
    values, gradients = {}, {}
    for dtype in options.dtypes:
        rounded = call.rounded(adapter, dtype)
        values[dtype] = rounded.forward()
        gradients[dtype] = list(rounded.vjp(round_to(adapter, _noise(call, options)[0], dtype)).values())
    return _Result(values, gradients, _seconds(call, Call.plain, adapter, options))


def _seconds(call: Call, make: Make, adapter: ModuleType, options: Options) -> list[np.ndarray]:
    """Second derivatives, always in float64: whether a rule can be differentiated again is no matter of precision."""
    with adapter.precision("float64"):
        args, g, us = _arrays(call, adapter, "float64", options)
        return [adapter.to_numpy(d) for d in adapter.second_vjp(make(call, adapter), args, g, us)]


def _arrays(call: Call, adapter: ModuleType, dtype: str, options: Options) -> tuple[list[Any], Any, list[Any]]:
    """The call's arrays, a random cotangent, and random cotangents of the gradients."""
    arrays = [adapter.array(a, dtype, options.device) for a in (*call.arrays.values(), *_noise(call, options))]
    n = len(call.arrays)
    return arrays[:n], arrays[n], arrays[n + 1 :]


def _noise(call: Call, options: Options) -> list[np.ndarray]:
    rng = np.random.default_rng(options.seed + 1)
    return [
        rng.standard_normal(np.shape(call.forward())),
        *(rng.standard_normal(a.shape) for a in call.arrays.values()),
    ]


def _errors(found: _Result, truth: _Result) -> Record:
    return {
        "value_error": {dtype: error(a, truth.value[dtype]) for dtype, a in found.value.items()},
        "gradient_error": {dtype: _worst(a, truth.gradients[dtype]) for dtype, a in found.gradients.items()},
        "second_derivative_error": _worst(found.seconds, truth.seconds),
    }


def _worst(found: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
    return max(error(a, b) for a, b in zip(found, truths, strict=True))


def _record(call: Call, adapter: ModuleType, options: Options, result: _Result, truth: _Result) -> Record:
    """The facts about our op in one framework, beside plain autodiff of the same maths and checkpointing."""
    autodiff = _errors(_run(call, Call.plain, adapter, options), truth) | _held(call, Call.plain, adapter, options)
    floor = _held(call, lambda call, adapter: adapter.checkpointed(call.plain(adapter)), adapter, options)
    del autodiff["residuals"], floor["residuals"]
    return {
        "version": adapter.TITLE,
        **_errors(result, truth),
        **_held(call, Call.ours, adapter, options),
        **{f"autodiff_{key}": fact for key, fact in autodiff.items()},
        **{f"checkpoint_{key}": fact for key, fact in floor.items()},
    }


def _held(call: Call, make: Make, adapter: ModuleType, options: Options) -> Record:
    """What a function keeps: by name from a trace, in total from what the framework really holds."""
    dtype = options.dtypes[-1]
    with adapter.precision(dtype):
        args, _, _ = _arrays(call, adapter, dtype, options)
        call = call.rounded(adapter, dtype)
        fn = make(call, adapter)
        trace = call.trace(adapter, fn, args)
        return {
            "residuals": [
                {
                    "name": r.name,
                    "shape": list(r.value.shape),
                    "dtype": r.value.dtype,
                    "bytes": r.nbytes,
                    "kind": r.kind,
                }
                for r in trace.crossing
            ],
            "saved_bytes": call.held_bytes(adapter, fn, args),
            "recomputed": trace.recomputed(),
        }


def _difference(results: dict[str, _Result]) -> Record | None:
    """How far the frameworks are from each other, where there are two."""
    if len(results) < 2:
        return None
    a, b = results.values()
    return {
        "value": {dtype: error(a.value[dtype], b.value[dtype]) for dtype in a.value},
        "gradient": {dtype: _worst(a.gradients[dtype], b.gradients[dtype]) for dtype in a.gradients},
        "second_derivative": _worst(a.seconds, b.seconds),
    }


def exchange(call: Call, adapters: Sequence[ModuleType], options: Options) -> Record:
    """Residuals made in NumPy and in every framework, fed to every framework's backward: the largest gradient error."""
    dtype = options.dtypes[0]
    made: dict[str, dict[str, np.ndarray]] = {}
    for adapter in adapters:
        with adapter.precision(dtype):
            args, _, _ = _arrays(call, adapter, dtype, options)
            fields = call.rounded(adapter, dtype).saved(adapter)(*args)._asdict()
            made[adapter.NAME] = {name: adapter.to_numpy(a) for name, a in fields.items() if a is not None}
    errors = {}
    for adapter in adapters:
        rounded = call.rounded(adapter, dtype)
        with adapter.precision(dtype):
            args, g, _ = _arrays(call, adapter, dtype, options)
            truths = list(rounded.vjp(adapter.to_numpy(g)).values())
            own = rounded.saved(adapter)(*args)._asdict()
            for source, values in {"numpy": rounded.residuals(), **made}.items():
                fed = {
                    name: adapter.array(a, adapter.dtype_of(own[name]), options.device) for name, a in values.items()
                }
                found = call.backward(adapter, fed, g).values()
                errors[f"{source}->{adapter.NAME}"] = _worst([adapter.to_numpy(d) for d in found], truths)
    return errors


def _failures(entry: Record, call: Call, adapters: Sequence[ModuleType], options: Options) -> list[str]:
    """What is wrong, one line each: nothing, for a right op."""
    found = []
    for adapter in adapters:
        record, module = entry["frameworks"][adapter.NAME], adapter.op(call.op.name)
        where = f"{call.op.name} in {adapter.TITLE}"
        found += _inaccuracies(where, record, record, options)
        names, expected = sorted(r["name"] for r in record["residuals"]), sorted(call.residuals())
        if names != expected:
            found.append(f"{where}: holds {', '.join(names)}; `Residuals` says {', '.join(expected)}")
        again, declared = record["recomputed"], sorted(module.RECOMPUTES)
        if again != declared:
            found.append(f"{where}: backward computes again {again or 'nothing'}; declared {declared or 'nothing'}")
        allowed = limit(options.dtypes[0], record["autodiff_gradient_error"][options.dtypes[0]])
        for pair, worst in entry["exchange"].items():
            if pair.endswith(f"->{adapter.NAME}") and not worst <= allowed:
                found.append(f"{call.op.name}: exchange {pair}: gradient error {worst:.1e}, allowed {allowed:.1e}")
    if "target" in entry:
        ours = entry["frameworks"][entry["target"]["framework"]]
        found += _inaccuracies(entry["target"]["name"], entry["target"], ours, options)
    return found


def _inaccuracies(where: str, record: Record, ours: Record, options: Options) -> list[str]:
    """Errors above what plain autodiff of our op's maths allows."""
    checks = [
        (f"{what} error", dtype, worst, ours[f"autodiff_{what}_error"][dtype])
        for what in ("value", "gradient")
        for dtype, worst in record[f"{what}_error"].items()
    ]
    second = "second_derivative_error"
    checks.append(("second derivative error", "float64", record[second], ours[f"autodiff_{second}"]))
    return [
        f"{where}: {what} {worst:.1e} in {dtype}, allowed {limit(dtype, autodiff):.1e}"
        for what, dtype, worst, autodiff in checks
        if not worst <= limit(dtype, autodiff)
    ]

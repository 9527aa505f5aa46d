"""Ops, or anyone's function beside one, in every framework: errors, residuals, bytes held, recomputation, the exchange.

All of it goes into one document, which `--json` prints as it is, and `compare_view` or `compare_summary` as tables.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from residuals_lab.compare import measure, verdict
from residuals_lab.compare.measure import Options, Record
from residuals_lab.errors import UsageError
from residuals_lab.ops import Axes, Op
from residuals_lab.ops.call import Call
from residuals_lab.trace import Trace


@dataclass(frozen=True)
class Target:
    """Somebody's own function, to be compared with an op of the same arguments."""

    name: str
    fn: Callable[..., Any]
    framework: str

    def make(self, call: Call, adapter: ModuleType) -> Callable[..., Any]:
        """The function of the call's arrays alone: it gets the constants as further arguments."""
        return call.bind(adapter, self.fn)


def compare(
    ops: Sequence[Op], adapters: Sequence[ModuleType], options: Options, target: Target | None = None
) -> Record:
    """The whole document: one entry an op, and what failed."""
    known = {name for op in ops for name in op.arrays}
    for name in options.inputs:
        if name not in known:
            raise UsageError(f"input: expected one of {', '.join(sorted(known))}, got {name!r}")
    calls = [make_call(op, options) for op in ops]
    for call in calls:
        _check_finite(call, adapters[0], options)
    entries = [_entry(call, adapters, options, target) for call in calls]
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
    rng = np.random.default_rng(options.seed)
    try:
        drawn = op.draw(rng, axes)
    except (ValueError, OverflowError) as problem:  # NumPy's, of more elements than there are addresses
        raise UsageError(f"--size: {options.size} is too large for {op.name}: {problem}") from problem
    call = Call.of(op, drawn | {name: a for name, a in options.inputs.items() if name in op.arrays})
    try:
        call.results()
    except ValueError as problem:  # such as one number a channel
        raise UsageError(f"{op.name}: {problem}") from problem
    return replace(call, device=options.device)


def traces(op: Op, adapters: Sequence[ModuleType], options: Options, target: Target | None = None) -> dict[str, Trace]:
    """What to draw of an op: in each framework our rule beside plain autodiff, or beside somebody's function."""
    call, dtype = make_call(op, options), options.dtypes[-1]
    found = {}
    for adapter in adapters:
        beside = (target.name, target.make) if target else ("plain autodiff", Call.plain)
        for name, make in ((f"residuals_{adapter.NAME}.{op.name}", Call.ours), beside):
            with adapter.precision(dtype):
                rounded = call.rounded(adapter, dtype)
                args, _, _ = measure.arrays(call, adapter, dtype, options)
                found[f"{name} ({adapter.TITLE})"] = rounded.trace(adapter, make(rounded, adapter), args)
    return found


def _check_finite(call: Call, adapter: ModuleType, options: Options) -> None:
    """A number that a dtype cannot hold would make all that follows NaN, and NaN agrees with NaN."""
    for dtype in options.dtypes:
        for name, a in call.rounded(adapter, dtype).arrays.items():
            wrong = np.argwhere(~np.isfinite(a))
            if len(wrong):
                first = ", ".join(map(str, wrong[0]))
                raise UsageError(f"{name}: {len(wrong)} of {a.size} numbers overflow {dtype}, the first at [{first}]")


def _entry(call: Call, adapters: Sequence[ModuleType], options: Options, target: Target | None) -> Record:
    if target is not None:
        (adapter,) = (a for a in adapters if target.framework == a.NAME)
        with _blamed_on(target):  # first, so that what cannot be compared is said at once
            _check_output(call, target, adapter, options)
            result = measure.result(call, target.make, adapter, options)
            held = measure.held(call, target.make, adapter, options)
    results = {a.NAME: measure.result(call, Call.ours, a, options) for a in adapters}
    truths = {a.NAME: measure.truth(call, a, options) for a in adapters}
    entry: Record = {
        "op": call.op.name,
        "shapes": {name: list(a.shape) for name, a in call.arrays.items()},
        "first_array_bytes": _first_array_bytes(call, adapters[0], options),
        "frameworks": {a.NAME: _record(call, a, options, results[a.NAME], truths[a.NAME]) for a in adapters},
        "difference": _difference(results),
        "exchange": measure.exchange(call, adapters, options),
    }
    if target is not None:
        entry["target"] = {"name": target.name, "framework": target.framework}
        entry["target"] |= measure.errors(result, truths[adapter.NAME]) | held
    entry["failures"] = verdict.failures(entry, call, adapters, options)
    return entry


def _record(call: Call, adapter: ModuleType, options: Options, result: measure.Result, truth: measure.Result) -> Record:
    """The facts about our op in one framework, beside plain autodiff of the same maths, the framework's own op where it
    has one, and checkpointing.
    """
    autodiff = measure.errors(measure.result(call, Call.plain, adapter, options), truth)
    autodiff |= measure.held(call, Call.plain, adapter, options)
    floor = measure.held(call, Call.checkpointed, adapter, options)
    name, _ = adapter.OWN.get(call.op.name, (None, None))
    try:
        own = measure.held(call, Call.own, adapter, options) if name else {}
    except (TypeError, ValueError, RuntimeError):  # it refuses this call, such as one number a group
        name, own = None, {}
    for beside in (autodiff, floor, own):
        beside.pop("residuals", None)
    return {
        "version": adapter.TITLE,
        **measure.errors(result, truth),
        **measure.held(call, Call.ours, adapter, options),
        **{f"autodiff_{key}": fact for key, fact in autodiff.items()},
        "own": name,
        **{f"own_{key}": fact for key, fact in own.items()},
        **{f"checkpoint_{key}": fact for key, fact in floor.items()},
    }


def _first_array_bytes(call: Call, adapter: ModuleType, options: Options) -> int:
    """Of the dtype in which bytes are measured: the unit to see them in."""
    dtype = options.dtypes[-1]
    with adapter.precision(dtype):
        return int(measure.arrays(call, adapter, dtype, options)[0][0].nbytes)


def _difference(results: dict[str, measure.Result]) -> Record | None:
    """How far the second framework is from the first, where there are two."""
    if len(results) < 2:
        return None
    first, second = results.values()
    return {name.removesuffix("_error"): found for name, found in measure.errors(first, second).items()}


@contextmanager
def _blamed_on(target: Target) -> Iterator[None]:
    """Whatever somebody's function raises becomes one line about that function."""
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as problem:
        first = next(iter(str(problem).strip().splitlines()), "")
        raise UsageError(f"{target.name} raised {type(problem).__name__}: {first}") from problem


def _check_output(call: Call, target: Target, adapter: ModuleType, options: Options) -> None:
    for dtype in options.dtypes:
        with adapter.precision(dtype):
            y = target.make(call, adapter)(*measure.arrays(call, adapter, dtype, options)[0])
            expected = f"{dtype}{list(np.shape(call.forward()))}"
            found = f"{adapter.dtype_of(y)}{list(y.shape)}" if adapter.is_floating(y) else type(y).__name__
            if found != expected:
                raise UsageError(f"{target.name}: expected one {expected}, as {call.op.name} returns, got {found}")

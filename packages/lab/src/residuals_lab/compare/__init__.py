"""Ops, or anyone's function beside one, in every framework: errors, residuals, bytes, repeats, the exchange."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from residuals_lab.compare import hypotheses, measure, verdict
from residuals_lab.compare.hypotheses import Case, Known
from residuals_lab.compare.measure import Errors, Kept, Options
from residuals_lab.errors import UsageError, guess
from residuals_lab.finding import Finding
from residuals_lab.frameworks.protocol import Framework
from residuals_lab.ops import Axes, Op
from residuals_lab.ops.call import Call
from residuals_lab.ops.tolerance import error, limit, rounding
from residuals_lab.trace import Trace


@dataclass(frozen=True)
class Target:
    """Somebody's own function, to be compared with an op that takes the same arguments."""

    name: str
    fn: Callable[..., Any]
    framework: str

    def make(self, call: Call, adapter: Framework) -> Callable[..., Any]:
        """The function of the call's arrays alone: it gets the constants as further arguments."""
        return call.bind(adapter, self.fn)


@dataclass(frozen=True)
class Implementation:
    """One function in one framework: how exact it is, and what it keeps."""

    name: str
    errors: Errors
    kept: Kept


@dataclass(frozen=True)
class Side:
    """An op in one framework: this rule, and what there is instead of it."""

    title: str  # of the framework, with its version
    rule: Implementation
    plain: Implementation  # the same maths, differentiated by the framework
    own: Kept | None  # by the framework's own op, where it has one that takes this call
    own_name: str | None
    checkpoint: Kept  # nothing but the inputs


@dataclass(frozen=True)
class Entry:
    """All that is known of one op."""

    call: Call
    first_array_bytes: int  # the unit in which bytes are shown
    sides: dict[str, Side]  # by framework
    difference: Errors | None  # of the first framework from the second
    exchange: dict[tuple[str, str], float]  # residuals of the one in the backward of the other: the gradient's error
    target: Implementation | None
    target_framework: str | None
    known: Known | None = None  # why the target differs from the op, where that is recognised
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """The result of `residuals compare`."""

    options: Options
    entries: tuple[Entry, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong with any of the ops."""
        return tuple(finding for entry in self.entries for finding in entry.findings)


def compare(
    ops: Sequence[Op],
    adapters: Sequence[Framework],
    options: Options,
    target: Target | None = None,
    tell: Callable[[str], None] = lambda what: None,
) -> Comparison:
    """Compare ops, or one op and somebody's function, in these frameworks; `tell` is told how far it is.

    Raises:
        UsageError: if an array that is given does not fit, or the function cannot be compared.
    """
    known = {name for op in ops for name in op.arrays}
    for name in options.inputs:
        if name not in known:
            raise UsageError(f"input: expected one of {', '.join(sorted(known))}, got {name!r}{guess(name, known)}")
    calls = [make_call(op, options) for op in ops]
    for call in calls:
        _check_finite(call, adapters[0], options)
    entries = []
    for i, call in enumerate(calls, 1):
        tell(f"comparing {f'{i} of {len(calls)}: ' if len(calls) > 1 else ''}{call.op.name}")
        entries.append(_entry(call, adapters, options, target))
    return Comparison(options, tuple(entries))


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
    except (ValueError, OverflowError) as problem:  # NumPy refuses more elements than there are addresses
        raise UsageError(f"--size: {options.size} is too large for {op.name}: {problem}") from problem
    call = Call.of(op, drawn | {name: a for name, a in options.inputs.items() if name in op.arrays})
    try:
        call.results()
    except ValueError as problem:  # the op refuses these shapes, such as one number a channel
        raise UsageError(f"{op.name}: {problem}") from problem
    return replace(call, device=options.device)


def traces(op: Op, adapters: Sequence[Framework], options: Options, target: Target | None = None) -> dict[str, Trace]:
    """The traces to draw of an op: in each framework our rule, and plain autodiff or somebody's function."""
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


def _check_finite(call: Call, adapter: Framework, options: Options) -> None:
    """Refuse a number that overflows a dtype: every result of it would be NaN, and NaN agrees with NaN."""
    for dtype in options.dtypes:
        for name, a in call.rounded(adapter, dtype).arrays.items():
            wrong = np.argwhere(~np.isfinite(a))
            if len(wrong):
                first = ", ".join(map(str, wrong[0]))
                raise UsageError(f"{name}: {len(wrong)} of {a.size} numbers overflow {dtype}, the first at [{first}]")


def _entry(call: Call, adapters: Sequence[Framework], options: Options, target: Target | None) -> Entry:
    theirs, known = None, None
    if target is not None:
        (adapter,) = (a for a in adapters if target.framework == a.NAME)
        with blamed_on(target.name):  # first: if it cannot be compared, that is said at once
            _check_output(call, target, adapter, options)
            result = measure.result(call, target.make, adapter, options)
            kept = measure.kept(call, target.make, adapter, options)
        truth = measure.truth(call, adapter, options)
        theirs = Implementation(target.name, measure.errors(result, truth), kept)
        known = _why(call, target, adapter, options, result, truth)
    results = {a.NAME: measure.result(call, Call.ours, a, options) for a in adapters}
    entry = Entry(
        call=call,
        first_array_bytes=_first_array_bytes(call, adapters[0], options),
        sides={a.NAME: _side(call, a, options, results[a.NAME]) for a in adapters},
        difference=measure.errors(*results.values()) if len(results) == 2 else None,
        exchange=measure.exchange(call, adapters, options),
        target=theirs,
        target_framework=target.framework if target else None,
        known=known,
    )
    return replace(entry, findings=tuple(verdict.findings(entry, adapters, options)))


def _why(
    call: Call, target: Target, adapter: Framework, options: Options, result: measure.Result, truth: measure.Result
) -> Known | None:
    """Why a function's value, or else its gradients, are not the op's, in the first dtype."""
    dtype = options.dtypes[0]
    how = replace(options, dtypes=(dtype,))

    def arrays(of: measure.Result) -> list[np.ndarray]:
        return [of.value[dtype], *of.gradients[dtype]]

    pairs = [*zip(arrays(truth), arrays(result), strict=True)]
    wrong = next((i for i, (a, b) in enumerate(pairs) if not error(b, a) <= limit(dtype, rounding(dtype))), None)
    if wrong is None:
        return None

    @cache
    def scaled(name: str, scale: float) -> tuple[np.ndarray, np.ndarray]:
        at = replace(call, arrays=call.arrays | {name: scale * call.arrays[name]})
        both = measure.truth(at, adapter, how, is_twice=False), measure.result(at, target.make, adapter, how, False)
        first, second = (arrays(of)[wrong] for of in both)
        return first, second

    with adapter.precision(dtype):
        args, g, _ = measure.arrays(call, adapter, dtype, options)
        ops = [
            {step.op for step in call.trace(adapter, make(call, adapter), args).steps if step.phase == "forward"}
            for make in (Call.plain, target.make)
        ]
        weights = [adapter.to_numpy(g)]
    return hypotheses.explained(Case(*pairs[wrong], call.arrays, weights, (ops[0], ops[1]), scaled, rounding(dtype)))


def _side(call: Call, adapter: Framework, options: Options, result: measure.Result) -> Side:
    """The facts about our op in one framework, beside plain autodiff of the same maths, the framework's own op where it
    has one, and checkpointing.
    """
    truth = measure.truth(call, adapter, options)
    plain = measure.result(call, Call.plain, adapter, options, is_twice=False)  # its second derivatives are the truth
    own_name, _ = adapter.OWN.get(call.op.name, (None, None))
    own = None
    if own_name:
        try:
            own = measure.kept(call, Call.own, adapter, options)
        except (TypeError, ValueError, RuntimeError):  # the op refuses this call, such as one number a group
            own_name = None
    return Side(
        title=adapter.TITLE,
        rule=Implementation(
            "this rule", measure.errors(result, truth), measure.kept(call, Call.ours, adapter, options)
        ),
        plain=Implementation(
            "plain autodiff", measure.errors(plain, truth), measure.kept(call, Call.plain, adapter, options)
        ),
        own=own,
        own_name=own_name,
        checkpoint=measure.kept(call, Call.checkpointed, adapter, options),
    )


def _first_array_bytes(call: Call, adapter: Framework, options: Options) -> int:
    """Bytes of the op's first array in the dtype in which bytes are measured."""
    dtype = options.dtypes[-1]
    with adapter.precision(dtype):
        return int(measure.arrays(call, adapter, dtype, options)[0][0].nbytes)


@contextmanager
def blamed_on(name: str) -> Iterator[None]:
    """Turn whatever somebody's function raises into one line about that function."""
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as problem:
        first = next(iter(str(problem).strip().splitlines()), "")
        raise UsageError(f"{name} raised {type(problem).__name__}: {first}") from problem


def _check_output(call: Call, target: Target, adapter: Framework, options: Options) -> None:
    for dtype in options.dtypes:
        with adapter.precision(dtype):
            y = target.make(call, adapter)(*measure.arrays(call, adapter, dtype, options)[0])
            expected = f"{dtype}{list(np.shape(call.forward()))}"
            found = f"{adapter.dtype_of(y)}{list(y.shape)}" if adapter.is_floating(y) else type(y).__name__
            if found != expected:
                raise UsageError(f"{target.name}: expected one {expected}, as {call.op.name} returns, got {found}")

"""Two people's functions of the same arguments, in one framework or in two: `residuals compare A --beside B`.

Both run on the same random numbers. Their results, gradients and second derivatives are compared, where they differ a
known reason is looked for, and the arrays that each keeps are matched by their values.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np

from residuals_lab.compare import hypotheses, ports
from residuals_lab.compare.hypotheses import Case, Known
from residuals_lab.compare.measure import Options
from residuals_lab.compare.ports import Port, Result
from residuals_lab.errors import UsageError
from residuals_lab.finding import Finding
from residuals_lab.ops.tolerance import ULP, error, limit, rounding
from residuals_lab.show import size
from residuals_lab.trace import Residual, Trace, lifetimes


class Difference(NamedTuple):
    """One array that both compute, in one dtype."""

    what: str  # "value", "gradient of x", "second derivative of x"
    dtype: str
    error: float | None  # of the second from the first, relative to the largest entry; None where one has none
    allowed: float
    known: Known | None  # why they differ, where that is recognised

    @property
    def is_wrong(self) -> bool:
        """Whether both compute it, and not the same; that one has no second derivative is no fault of what it has."""
        return self.error is not None and not self.error <= self.allowed


class Match(NamedTuple):
    """A residual of each port, equal in value, or of one alone."""

    first: Residual | None
    second: Residual | None


@dataclass(frozen=True)
class Beside:
    """The result of `residuals compare A --beside B`."""

    ports: tuple[Port, Port]
    options: Options
    differences: tuple[Difference, ...]
    traces: tuple[Trace, Trace]
    matches: tuple[Match, ...]
    at_zero: tuple[Difference, ...] = ()  # what differs only where arguments are 0

    @cached_property
    def peaks(self) -> tuple[int, int]:
        """The most bytes of residuals that are alive at one time, of each."""
        first, second = (lifetimes.peak(t) for t in self.traces)
        return first, second

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What both compute and is not the same; two right ports have none."""
        return tuple(_findings(self))

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What the two do not have in common, a sentence each, though nothing of it is wrong."""
        return tuple(_notes(self))


WORST = ", most "  # between the parameters and the one among them that differs most
Pairs = dict[str, tuple[np.ndarray, np.ndarray]]  # the arrays that both compute, by what they are


@dataclass(frozen=True)
class _Run:
    """The two ports on the numbers that they share."""

    ports: tuple[Port, Port]
    options: Options
    numbers: list[Any]
    differentiated: list[int]
    parameters: list[str]  # that both hold, and differentiate
    others: list[str]  # what both hold with other numbers

    @cached_property
    def ops(self) -> tuple[set[str], set[str]]:
        """The operations of each port's forward."""
        dtype, device = self.options.dtypes[0], self.options.device
        traces = [ports.trace(port, self.numbers, dtype, device) for port in self.ports]
        first, second = ({step.op for step in t.steps if step.phase == "forward"} for t in traces)
        return first, second

    def results(self, dtype: str, numbers: Sequence[Any], is_twice: bool = False) -> tuple[Result, Result]:
        how = self.options.device, self.options.seed, is_twice, self.parameters
        first, second = (ports.result(p, numbers, self.differentiated, dtype, *how) for p in self.ports)
        shapes = [[list(y.shape) for y in found.values] for found in (first, second)]
        if shapes[0] != shapes[1]:
            names = self.ports[1].name, self.ports[0].name
            raise UsageError(f"{names[0]}: expected results {shapes[0]}, as {names[1]} returns, got {shapes[1]}")
        return first, second

    def names(self) -> list[str]:
        """The names of what is differentiated, in the order of its gradients."""
        return [*(self.ports[0].inputs[i].name for i in self.differentiated), *self.parameters]

    def labels(self, kind: str, pairs: "Pairs") -> dict[str, str]:
        """What is told of gradients, or second derivatives: each array, and what it stands for. The parameters that the
        ports hold are told as one, the one that differs most.
        """
        some = self.names()[: len(self.differentiated)]
        found = {f"{kind} of {name}": f"{kind} of {name}" for name in some}
        if self.parameters:
            noise = _noise_of(pairs, self.options.dtypes[0])
            errors = {name: _error(b, a, noise) for name in self.parameters for a, b in [pairs[f"{kind} of {name}"]]}
            worst = max(errors, key=lambda name: (not np.isfinite(errors[name]), errors[name]))
            many = f"{len(errors)} parameters" if len(errors) > 1 else worst
            found[f"{kind} of {worst}"] = f"{kind} of {many}"
        return found

    def floating(self) -> dict[str, int]:
        """The places of the inputs of floating numbers, by name."""
        first = self.ports[0]
        return {a.name: i for i, a in enumerate(first.inputs) if ports.is_inexact(first.adapter, a.array)}


def beside(first: Port, second: Port, options: Options, tell: Callable[[str], None] = lambda what: None) -> Beside:
    """Compare two ports.

    Raises:
        UsageError: if the two do not take the same arrays or return others, or one of them cannot be run.
    """
    first, second = both = ports.with_carried(first), ports.with_carried(ports.aligned(first, second))
    differentiated = [
        i
        for i, (a, b) in enumerate(zip(first.inputs, second.inputs, strict=True))
        if "frozen" not in (a.role, b.role) and ports.is_inexact(first.adapter, a.array)
    ]
    parameters, others = ports.carried_by_both(first, second)
    if not differentiated and not parameters:
        raise UsageError(
            f"{first.name}: expected an argument of floating numbers to differentiate, or a parameter that modules of "
            "both have by one name, got none; --arg and --param of floating numbers are differentiated, --frozen is not"
        )
    run = _Run(both, options, ports.numbers_of(first, options.seed), differentiated, parameters, others)
    tell("comparing values and gradients")
    differences = [d for dtype in options.dtypes for d in _differences(run, dtype)]
    at_zero = _at_zero(run, differences)
    tell("comparing what they keep")
    dtype = options.dtypes[-1]
    traces = tuple(ports.trace(p, run.numbers, dtype, options.device) for p in both)
    matches = _matches(both, (traces[0], traces[1]), dtype)
    return Beside(both, options, tuple(differences), (traces[0], traces[1]), tuple(matches), tuple(at_zero))


def _differences(run: _Run, dtype: str) -> Iterator[Difference]:
    """Values and gradients in one dtype, and in the first dtype second derivatives too."""
    is_first = dtype == run.options.dtypes[0]
    first, second = run.results(dtype, run.numbers, is_twice=is_first)
    if not any(np.isfinite(y).any() for r in (first, second) for y in r.values):
        raise UsageError(f"{run.ports[0].name}: expected a result of finite numbers, got none; give some with --input")
    allowed = _allowed(run, dtype, first, second)
    pairs = _pairs(run, first, second)
    wrong = dict[str, Known | None]()  # what differs, and why
    scaled = _scaled(run)
    values = {what: what for what in pairs if what.startswith("value")}
    for what, label in (values | run.labels("gradient", pairs)).items():
        a, b = pairs[what]
        found, known = _error(b, a, _noise_of(pairs, dtype)), None
        if is_first and not found <= allowed:
            case = _case(run, a, b, first.weights, lambda *how, what=what: scaled(*how)[what])
            known = wrong[label] = _why(run, case, wrong)
        yield Difference(_told(what, label, found > allowed), dtype, found, allowed, known)
    if is_first:
        yield from _second_derivatives(run, dtype, first, second, wrong)


def _why(run: _Run, case: Case, wrong: dict[str, Known | None]) -> Known | None:
    """Why two arrays differ; `wrong` is what differs before them, and why.

    Where the values differ for no known reason, the gradients are of two functions, and no reason is looked for.
    """
    if run.others:
        return _other_numbers(run.others)
    if None in (known for what, known in wrong.items() if what.startswith("value")):
        return _follows(wrong)
    known = hypotheses.explained(case)
    return known or (_follows(wrong) if any(wrong.values()) else None)


def _other_numbers(names: Sequence[str]) -> Known:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    listed = f"{', '.join(names[:3])}{more}"
    return Known("other-parameters", f"parameters have other numbers: {listed}; give both the same, then compare")


def _follows(wrong: dict[str, Known | None]) -> Known | None:
    """The reason that the first of what differs is a reason for all that is made of it."""
    first = next((what for what, known in wrong.items() if known), next(iter(wrong), ""))
    return Known("follows", f"follows from the {first}") if first else None


def _pairs(run: _Run, first: Result, second: Result) -> Pairs:
    several = len(first.values) > 1
    values = {
        f"value {i}" if several else "value": y for i, y in enumerate(zip(first.values, second.values, strict=True))
    }
    gradients = zip(run.names(), zip(first.gradients, second.gradients, strict=True), strict=True)
    return values | {f"gradient of {name}": pair for name, pair in gradients}


def _second_derivatives(
    run: _Run, dtype: str, first: Result, second: Result, wrong: dict[str, Known | None]
) -> Iterator[Difference]:
    if first.seconds is None or second.seconds is None:
        without = [i for i, r in enumerate((first, second)) if r.seconds is None]
        which = "neither has one" if len(without) == 2 else f"the {('first', 'second')[without[0]]} has none"
        refusal = (first, second)[without[0]].refusal
        yield Difference("second derivative", dtype, None, 0.0, Known("none", f"{which}: {refusal}"))
        return
    arrays = zip(run.names(), zip(first.seconds, second.seconds, strict=True), strict=True)
    pairs = {f"second derivative of {name}": pair for name, pair in arrays}
    for what, label in run.labels("second derivative", pairs).items():
        a, b = pairs[what]
        allowed = limit(dtype, rounding(dtype))
        found = _error(b, a, _noise_of(pairs, dtype))
        why: Known | None = None
        if not found <= allowed:
            constant = "may be of a rule whose backward takes what it saved for a constant"
            why = _other_numbers(run.others) if run.others else _follows(wrong) or Known("second-derivative", constant)
        yield Difference(_told(what, label, found > allowed), dtype, found, allowed, why)


def _told(what: str, label: str, is_wrong: bool) -> str:
    """What an array stands for; if it is wrong, with its own name."""
    return label if what == label or not is_wrong else f"{label}{WORST}{what.partition(' of ')[2]}"


def _allowed(run: _Run, dtype: str, first: Result, second: Result) -> float:
    """How far the two may be apart: 1e-9 in float64; below, twice the error of the more exact one, and its rounding."""
    if dtype == run.options.dtypes[0]:
        return limit(dtype, rounding(dtype))
    wide = run.options.dtypes[0]
    floating = {*run.floating().values()}
    rounded = [_rounded(run.ports[0], a, dtype) if i in floating else a for i, a in enumerate(run.numbers)]
    truths = run.results(wide, rounded)
    errors = []
    for found, true in zip((first, second), truths, strict=True):
        pairs = _pairs(run, true, found)
        errors.append(max(_error(b, a, _noise_of(pairs, dtype)) for a, b in pairs.values()))
    return limit(dtype, min(*errors, ULP[dtype] ** 0.5))  # more is no rounding, but other random bits


def _rounded(port: Port, a: np.ndarray, dtype: str) -> np.ndarray:
    with port.adapter.precision(dtype):
        return port.adapter.to_numpy(port.adapter.array(a, ports.of_kind(dtype, a)))


def _error(found: np.ndarray, true: np.ndarray, noise: float) -> float:
    """The largest difference relative to the largest entry of the truth; 0 if both are the noise of a sum that is 0."""
    found, true = _real(found), _real(true)
    if max(np.abs(found).max(initial=0.0), np.abs(true).max(initial=0.0)) <= noise:
        return 0.0
    return error(found, true)


def _noise_of(pairs: dict[str, tuple[np.ndarray, np.ndarray]], dtype: str) -> float:
    """What is nothing beside the largest number that is computed."""
    arrays = [_real(a) for pair in pairs.values() for a in pair]
    return 64 * ULP[dtype] * max(np.abs(a[np.isfinite(a)]).max(initial=0.0) for a in arrays)


def _real(a: np.ndarray) -> np.ndarray:
    return np.stack([a.real, a.imag]) if np.iscomplexobj(a) else a


def _scaled(run: _Run) -> Callable[[str, float], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """What both compute with an input so many times as large, each only once."""

    @cache
    def scaled(name: str, scale: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        place, numbers = run.floating()[name], list(run.numbers)
        numbers[place] = scale * numbers[place]
        return _pairs(run, *run.results(run.options.dtypes[0], numbers))

    return scaled


def _case(run: _Run, a: np.ndarray, b: np.ndarray, weights: Sequence[np.ndarray], scaled: Any) -> Case:
    """What the hypotheses are tried on."""
    inputs = {name: run.numbers[i] for name, i in run.floating().items()}
    return Case(a, b, inputs, weights, run.ops, scaled, rounding(run.options.dtypes[0]))


def _at_zero(run: _Run, differences: Sequence[Difference]) -> Iterator[Difference]:
    """What differs where the first rows of the arguments are 0, or all of them, and nowhere else."""
    dtype = run.options.dtypes[0]
    wrong = {d.what for d in differences if d.is_wrong}
    drawn = [i for i in run.differentiated if run.ports[0].drawn[i]]
    for place in (np.s_[:1], np.s_[:]) if drawn and not run.others else ():
        numbers = list(run.numbers)
        for i in drawn:
            numbers[i] = np.array(numbers[i])
            numbers[i][place if numbers[i].ndim else ()] = 0
        pairs = _pairs(run, *run.results(dtype, numbers))
        for what, (a, b) in pairs.items():
            found = _error(b, a, _noise_of(pairs, dtype))
            allowed = limit(dtype, rounding(dtype))
            if what in wrong or found <= allowed:
                continue
            wrong.add(what)
            finite = [bool(np.isfinite(y).all()) for y in (a, b)]
            yield Difference(what, dtype, found, allowed, _AT_ZERO[finite[0], finite[1]])


_AT_ZERO = {  # whether the first's is finite, and the second's
    (True, False): Known("nan-at-zero", "is NaN or infinite where arguments are 0, the first's is finite"),
    (False, True): Known("nan-at-zero", "is finite where arguments are 0, the first's is NaN or infinite"),
    (True, True): Known("differs-at-zero", "is another where arguments are 0"),
    (False, False): Known("differs-at-zero", "is another where arguments are 0"),
}


def _matches(both: tuple[Port, Port], traces: tuple[Trace, Trace], dtype: str) -> Iterator[Match]:
    """The residuals of the two, those that are equal in value as one; each storage once, the largest first."""
    kept = [_kept(port, trace) for port, trace in zip(both, traces, strict=True)]
    rest = list(kept[1])
    found = []
    for r, a in kept[0]:
        equal = [pair for pair in rest if _is_same(a, pair[1], 8 * rounding(dtype))]
        other = min(equal, key=lambda pair: (pair[0].name != r.name, pair[0].is_new != r.is_new), default=None)
        rest = [pair for pair in rest if pair is not other]
        found.append(Match(r, other[0] if other else None))
    found += [Match(None, r) for r, _ in rest]
    return iter(sorted(found, key=lambda m: -max(r.storage_bytes for r in m if r)))


def _kept(port: Port, trace: Trace) -> list[tuple[Residual, list[np.ndarray]]]:
    """The residuals, each storage once, and the arrays that are known to be in it."""
    found = dict[Any, tuple[Residual, list[np.ndarray]]]()
    for r in trace.residuals:
        _, arrays = found.setdefault(r.storage, (r, []))
        if r.value.number in trace.contents and "key" not in r.value.dtype:
            arrays.append(port.adapter.to_numpy(trace.contents[r.value.number]))
    return [*found.values()]


def _is_same(some: Sequence[np.ndarray], others: Sequence[np.ndarray], tolerance: float) -> bool:
    """Whether two storages have the same numbers in them, in another shape maybe, or transposed."""
    ways = [way for b in others for way in ([b, b.swapaxes(-1, -2)] if b.ndim > 1 else [b])]
    pairs = [(_real(a.ravel()), _real(way.ravel())) for a in some for way in ways if a.size == way.size]
    return any(a.shape == b.shape and error(b, a) <= tolerance for a, b in pairs)


def _findings(found: Beside) -> Iterator[Finding]:
    """One for each cause of differences."""
    first, second = (port.name for port in found.ports)
    for d, *others in _by_cause((*found.differences, *found.at_zero)):
        kind = d.what.split()[0]
        what = ", ".join([d.what, *(other.what for other in others[:3])])
        rest = f" and {len(others) - 3} more" if len(others) > 3 else ""
        less_exact = ": one of the two is less exact" if d.dtype != found.options.dtypes[0] else ""
        known = f": the second's {d.known.text}" if d.known else less_exact
        yield Finding(
            f"{'second-derivative' if kind == 'second' else kind}-differs",
            f"{second} beside {first}: {what}{rest} differ{'' if others else 's'} in {d.dtype}{known}",
            f"a difference of at most {d.allowed:.1e}",
            f"{d.error:.1e}",
            "two ports of one function give the same numbers",
            "change the one that is wrong, or give the two different names",
        )


def _by_cause(differences: Sequence[Difference]) -> list[list[Difference]]:
    """What is wrong, with that which is wrong for the same reason; in float32 it is so for the reason of float64."""
    causes: list[list[Difference]] = []
    told = set[str]()
    for d in differences:
        what = d.what.partition(WORST)[0]
        if not d.is_wrong or what in told:
            continue
        told.add(what)
        follows = d.known is not None and d.known.rule == "follows"
        same = [c for c in causes if d.known and c[0].known and (c[0].known == d.known or follows)]
        same = same or (causes[:1] if follows else [])
        if same:
            same[0].append(d)
        else:
            causes.append([d])
    return causes


def _notes(found: Beside) -> Iterator[str]:
    """That one has no second derivative, and that one keeps more: to be told, not to be judged."""
    for d in found.differences:
        if d.error is None and d.known:
            yield f"No second derivative is compared: {d.known.text}."
    yield from _keeps_more(found)


def _keeps_more(found: Beside) -> Iterator[str]:
    """Whether one keeps more new memory than the other; a mere number, such as an eps, is no array here."""
    extra = [[m[i] for m in found.matches if m[1 - i] is None and _is_counted(m[i])] for i in (0, 1)]
    new = [sum(r.storage_bytes for m in found.matches if (r := m[i]) and _is_counted(r)) for i in (0, 1)]
    if new[0] == new[1]:
        return
    more = int(new[1] > new[0])
    names = [found.ports[i].name for i in (more, 1 - more)]
    arrays = [f"{r.name}, {size(r.storage_bytes)}{', never read' if r.is_unused else ''}" for r in extra[more] if r]
    rest = f"; and {len(arrays) - 4} more" if len(arrays) > 4 else ""
    yield (
        f"{names[0]} keeps {size(new[more])} of new memory, {names[1]} {size(new[1 - more])}. "
        f"Only the former keeps: {'; '.join(arrays[:4]) or 'arrays that the latter has anyway'}{rest}."
    )


def _is_counted(r: Residual | None) -> bool:
    return r is not None and r.is_new and r.value.elements > 1

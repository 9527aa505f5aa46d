"""How long an op takes, and how much memory, beside what else one would pick: paired ratios, measured in one run.

Machines that are shared are noisy: a time by itself says little. So all ways to compute an op run in turn, in an order
that is drawn anew in each round; a ratio is taken within a round; and of the ratios of all rounds the median is given,
with the interval that has it with 95 % confidence. In each round our op runs twice: how far it is from itself is the
noise, and where that is too much there is no verdict.
"""

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from residuals_lab.errors import UsageError
from residuals_lab.frameworks.program import Program
from residuals_lab.frameworks.protocol import Framework
from residuals_lab.ops import Op
from residuals_lab.ops.call import Call
from residuals_lab.targets.arguments import Argument
from residuals_lab.targets.calls import flattened, loaded
from residuals_lab.trace import Input

PHASES = ("forward", "both")
AGAIN = "again"  # our op once more
NOISE = 1.1  # how far ours may be from itself
LEAST_SECONDS = 0.004  # a shorter run is repeated until it takes that long, so that the clock's own cost is nothing
SIDE = 1024  # of the matrix that is multiplied by itself


@dataclass(frozen=True)
class Options:
    """How to measure."""

    dtype: str = "float32"
    size: int = 2**20  # about how many elements the first array has
    is_compiled: bool = False
    is_fused: bool = False  # in PyTorch: `residuals_torch.fuse()`
    device: str = "cpu"
    rounds: int = 30
    seed: int = 0


class Interval(NamedTuple):
    """A median, and the interval that has the true one in it with 95 % confidence."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Way:
    """One way to compute an op."""

    name: str
    seconds: dict[str, float]  # by phase, the median
    ratio: dict[str, Interval] | None  # by phase: how much longer the first way takes; None for the first itself
    peak_bytes: int
    saved_bytes: int
    new_bytes: int


@dataclass(frozen=True)
class Entry:
    """All ways to compute one op in one framework; the first is the one that is judged."""

    name: str
    framework: str
    title: str  # of the framework, with its version
    shapes: dict[str, tuple[int, ...]]
    first_array_bytes: int
    ways: tuple[Way, ...]
    noise: dict[str, Interval]  # by phase: the first way against itself
    floor_seconds: float  # of both: what the memory or the matrix unit needs at least
    floor_is: str  # which of the two: "memory" or "products"

    @property
    def is_quiet(self) -> bool:
        """Whether the machine was quiet enough to say how fast this is."""
        return all(i.low > 1 / NOISE and i.high < NOISE for i in self.noise.values())


@dataclass(frozen=True)
class Bench:
    """The result of `residuals bench`."""

    options: Options
    threads: int
    entries: tuple[Entry, ...]
    not_run: tuple[str, ...] = ()  # for which there was no time left


class Subject(NamedTuple):
    """What is to be timed: functions of the same arrays, the one that is judged first."""

    name: str
    adapter: Framework
    ways: Mapping[str, Callable[..., Any]]
    args: Sequence[Any]
    names: Sequence[str]
    differentiated: Sequence[int]


def subject_of(op: Op, adapter: Framework, options: Options) -> Subject:
    """Our op, the same maths by plain autodiff, the framework's own op if it has one, and a checkpoint."""
    call = Call.of(op, op.draw(np.random.default_rng(options.seed), op.typical_axes(options.size))).rounded(
        adapter, options.dtype
    )
    ways = {"ours": call.ours(adapter), "plain": call.plain(adapter), "checkpoint": call.checkpointed(adapter)}
    arrays = [adapter.array(a, options.dtype, options.device) for a in call.arrays.values()]
    args = [*arrays, *call.constants_in(adapter)]
    if op.name in adapter.OWN:
        own = call.own(adapter)
        try:
            adapter.outline(own, *args)
            ways[adapter.OWN[op.name][0]] = own
        except (TypeError, ValueError, RuntimeError):  # it refuses this call
            pass
    return Subject(op.name, adapter, ways, args, [*call.arrays, *call.constants], range(len(arrays)))


def subject_of_targets(
    targets: Sequence[str], given: Sequence[Argument], adapter: Framework, device: str, ran: dict[Path, ModuleType]
) -> Subject:
    """Functions that a command line names, at the same arguments, which are those of the first."""
    flats = list[Callable[..., Any]]()
    chosen = list[Input]()
    with adapter.placed(device):
        for target in targets:
            fn, args, kwargs = loaded(target, given, adapter, True, ran)
            flat, inputs = flattened(adapter, fn, args, kwargs)
            if chosen and [a.name for a in inputs] != [a.name for a in chosen]:
                raise UsageError(
                    f"--beside: expected the arrays of {targets[0]}, {_listed(chosen)}; {target} has {_listed(inputs)}"
                )
            flats.append(flat)
            chosen = chosen or inputs
    if not chosen:
        raise UsageError(f"{targets[0]}: expected arrays to run it on, as --arg 'f32[512,1024]', got none")
    arrays = [a.array for a in chosen]
    differentiated = [i for i, a in enumerate(chosen) if a.role != "frozen" and adapter.is_floating(a.array)]
    ways = dict(zip(targets, flats, strict=True))
    return Subject(targets[0], adapter, ways, arrays, [a.name for a in chosen], differentiated)


def _listed(inputs: Sequence[Input]) -> str:
    return ", ".join(f"{a.name}{list(a.array.shape)}" for a in inputs)


def bench(
    subjects: Mapping[str, Callable[[], Subject]],
    options: Options,
    tell: Callable[[str], None] = lambda what: None,
    minutes: float = math.inf,
) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """Time each subject, which is made when its turn comes, and name those for which `minutes` were too few.

    `tell` is told how far it is and how long it will take.
    """
    entries, not_run, started = list[Entry](), list[str](), time.perf_counter()
    for i, (name, make) in enumerate(subjects.items()):
        each = (time.perf_counter() - started) / max(i, 1)
        if i and 60 * minutes < (i + 1) * each:
            not_run.append(name)
            continue
        ahead = f", about {_duration(each * (len(subjects) - i))} left" if i else ""

        def told(what: str, i: int = i, ahead: str = ahead) -> None:
            tell(f"{i + 1} of {len(subjects)}: {what}{ahead}")

        entries.append(measure(make, options, told))
    return tuple(entries), tuple(not_run)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def measure(make: Callable[[], Subject], options: Options, tell: Callable[[str], None]) -> Entry:
    """Time one subject."""
    subject = make()
    adapter = subject.adapter
    label = f"{subject.name} in {adapter.TITLE}"
    with adapter.precision(options.dtype), adapter.fused() if options.is_fused else nullcontext():
        tell(f"{label}, preparing")
        programs = {
            name: adapter.program(fn, subject.args, subject.differentiated, options.is_compiled)
            for name, fn in subject.ways.items()
        }
        first = next(iter(programs))
        runs: dict[tuple[str, str], Callable[[], None]] = {
            (name, phase): getattr(program, phase)
            for name, program in {**programs, AGAIN: programs[first]}.items()
            for phase in PHASES
        }
        largest = max(subject.args, key=lambda a: a.nbytes)
        runs["copy", ""] = adapter.copier(largest)
        square = adapter.array(np.random.default_rng(0).standard_normal((SIDE, SIDE)), options.dtype, options.device)
        flops = programs[first].flops()
        if flops:
            runs["products", ""] = adapter.multiplier(square)
        found = _timed(runs, options, lambda i: tell(f"{label}, round {i} of {options.rounds}"))
        ways = [_way(name, fn, programs[name], found, first, subject) for name, fn in subject.ways.items()]
        noise = {phase: _interval(found[first, phase], found[AGAIN, phase]) for phase in PHASES}
        floor = {"memory": _floor(programs[first], ways[0]) * _median(found["copy", ""]) / (2 * largest.nbytes)}
        if flops:
            floor["products"] = flops * _median(found["products", ""]) / (2 * SIDE**3)
        shapes = {name: tuple(a.shape) for name, a in zip(subject.names, subject.args, strict=True)}
        floor_is = max(floor, key=lambda name: floor[name])
        unit = subject.args[0].nbytes
        return Entry(
            subject.name, adapter.NAME, adapter.TITLE, shapes, unit, tuple(ways), noise, floor[floor_is], floor_is
        )


def _way(
    name: str,
    fn: Callable[..., Any],
    program: Program,
    found: Mapping[tuple[str, str], list[float]],
    first: str,
    subject: Subject,
) -> Way:
    trace = subject.adapter.trace(fn, subject.args, subject.names)
    ratio = {phase: _interval(found[first, phase], found[name, phase]) for phase in PHASES} if name != first else None
    seconds = {phase: _median(found[name, phase]) for phase in PHASES}
    return Way(name, seconds, ratio, program.peak_bytes(), trace.saved_bytes, trace.new_bytes)


def _floor(program: Program, way: Way) -> int:
    """The bytes that have to be moved at least: what goes in and what comes out, and what is kept between, which is
    read again and, if it is new, written before.
    """
    return program.moved_bytes + way.saved_bytes + way.new_bytes


def _timed(
    runs: Mapping[tuple[str, str], Callable[[], None]], options: Options, tell: Callable[[int], None]
) -> dict[tuple[str, str], list[float]]:
    """The seconds of each run in each round."""
    repeats = {}
    for name, run in runs.items():
        run()  # compiles
        repeats[name] = max(1, round(LEAST_SECONDS / max(min(_clock(run, 1) for _ in range(3)), 1e-7)))
    found: dict[tuple[str, str], list[float]] = {name: [] for name in runs}
    shuffle = random.Random(options.seed).shuffle
    for i in range(options.rounds):
        tell(i + 1)
        order = [*runs]
        shuffle(order)
        for name in order:
            found[name].append(_clock(runs[name], repeats[name]))
    return found


def _clock(run: Callable[[], None], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) / times


def _median(seconds: Sequence[float]) -> float:
    return statistics.median(seconds)


def _interval(seconds: Sequence[float], others: Sequence[float]) -> Interval:
    """The median of the ratios, and its 95 % confidence interval: two of the ratios themselves, as far from the middle
    as the binomial distribution says, whatever that of the ratios is.
    """
    ratios = sorted(a / b for a, b in zip(seconds, others, strict=True))
    n = len(ratios)
    out = max(0, int((n - 1.96 * n**0.5) / 2))
    return Interval(statistics.median(ratios), ratios[out], ratios[n - 1 - out])

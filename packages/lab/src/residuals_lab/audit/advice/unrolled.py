"""A loop that a trace has iteration by iteration, as PyTorch runs it, where a checkpoint of its body keeps only what
goes from one iteration to the next.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from residuals_lab.audit.advice.forward import Forward
from residuals_lab.audit.advice.ours import Found, Saved, found_advice
from residuals_lab.frameworks.sites import Loop
from residuals_lab.trace import Trace

CHECKPOINT = "torch.utils.checkpoint.checkpoint"
_FEWEST = 8  # iterations of what is called a loop: layers that are called twice are none
_PERIODS = 6  # how many lengths of an iteration are tried


class _Run(NamedTuple):
    """Steps that repeat, by their places among those on the way to a result."""

    begin: int
    end: int
    period: int  # steps of an iteration


def find(forward: Forward, trace: Trace) -> Found:
    """A checkpoint of the body of each loop, instead of the arrays that its iterations make."""
    places = [*forward.primal]
    ids = dict[Hashable, int]()
    keys = [ids.setdefault((s.op, s.line, s.module), len(ids)) for s in forward.primal.values()]
    for run in _runs(keys, 0, len(keys)):
        begin = run.begin + _phase(forward, places, run)
        # The last iterations may be cut short, by what follows on the loop; and the rest of the last one belongs to it.
        bounds = [places[i] for i in range(begin, run.end - run.period + 1, run.period)]
        bounds.append(
            places[min(begin + len(bounds) * run.period, run.end)] if run.end < len(places) else len(forward.all)
        )
        inside = range(bounds[0], bounds[-1])
        saved: Saved = {
            r.storage: r
            for r in trace.residuals
            if r.is_new and r.value.shape and forward.place_of(forward.array_of(r)) in inside
        }
        if saved and len(bounds) > _FEWEST:
            kept = _kept(forward, trace, bounds, saved)
            line = _line(forward, bounds)
            yield found_advice("a loop", line, CHECKPOINT, saved, kept, places=[partial(Loop, tuple(bounds))])


def _runs(keys: Sequence[int], begin: int, end: int) -> Iterator[_Run]:
    """The longest run of steps that repeat, and then those before and behind it."""
    best = None
    for period in _periods(keys[begin:end]):
        start = begin
        for i in range(begin, end - period + 1):
            if i + period == end or keys[i] != keys[i + period]:
                run = _Run(start, i + period, period)
                is_loop = run.end - run.begin >= _FEWEST * period
                if is_loop and (best is None or run.end - run.begin > best.end - best.begin + period):
                    best = run
                start = i + 1
    if best:
        yield from _runs(keys, begin, best.begin)
        yield best
        yield from _runs(keys, best.end, end)


def _periods(keys: Sequence[int]) -> list[int]:
    """The commonest distances from a step to the next one that is alike, the least first."""
    last, distances = dict[int, int](), Counter[int]()
    for i, key in enumerate(keys):
        if key in last:
            distances[i - last[key]] += 1
        last[key] = i
    common = [n for n, count in distances.most_common(_PERIODS) if count >= _FEWEST - 1]
    # A line that occurs several times in an iteration hides the whole: all distances of one that occurs once tell it.
    return sorted(common)


def _phase(forward: Forward, places: Sequence[int], run: _Run) -> int:
    """Where an iteration begins: so that the fewest bytes go from one to the next."""
    middle = run.begin + (run.end - run.begin) // run.period // 2 * run.period
    last = defaultdict[int, int](int)  # array → the place of the last step that reads it
    for i in range(max(middle - run.period, 0), min(middle + 3 * run.period, len(places))):
        for n in forward.all[places[i]].ins:
            last[forward.array(n, places[i])] = places[i]

    def bytes_between(phase: int) -> int:
        at = middle + phase
        if at >= len(places):
            return 2**62
        first = places[max(at - run.period, 0)]
        made = (a for a in last if first <= forward.place_of(a) < places[at] <= last[a])
        return sum(forward.nbytes(a) for a in made)

    return min(range(run.period), key=bytes_between)


def _kept(forward: Forward, trace: Trace, bounds: Sequence[int], saved: Saved) -> int:
    """The bytes that the checkpoints keep: of what each iteration reads that was made before it, unless it is kept
    anyway.
    """
    kept = {forward.array(n, len(forward.all)) for n in forward.alive}
    kept |= {forward.array_of(r) for r in trace.residuals if r.storage not in saved}
    nbytes = 0
    for begin, end in pairwise(bounds):
        for place in range(begin, end):
            for n in forward.all[place].ins if place in forward.primal else ():
                array = forward.array(n, place)
                if 0 <= forward.place_of(array) < begin and array not in kept:
                    kept.add(array)
                    nbytes += forward.nbytes(array)
    return nbytes


def _line(forward: Forward, bounds: Sequence[int]) -> str:
    """The first line of an iteration."""
    return next((forward.all[p].line for p in range(bounds[0], bounds[-1]) if forward.all[p].line), "")

"""The advice taken: the forward traced again with the ops in place of the steps that they replace."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from residuals_lab.audit.advice import Advice
from residuals_lab.frameworks.protocol import Framework
from residuals_lab.frameworks.sites import Loop, Record, Site, Unplaced
from residuals_lab.show import size
from residuals_lab.trace import Role, Trace

EXACT = 0.05  # what is freed is what was said, up to this part of it
_NEARLY = 0.001  # of all bytes: in JAX a number that is spelled out may be an array once more


class Given(NamedTuple):
    """A function and its arguments, as an adapter traces them."""

    fn: Callable[..., Any]
    arrays: Sequence[Any]
    names: Sequence[str]
    roles: Sequence[Role]
    is_abstract: bool


@dataclass(frozen=True)
class Taken:
    """One piece of advice, taken by itself."""

    advice: Advice
    freed: int | None  # new bytes that are gone; None if it could not be taken
    why: str = ""  # it could not

    @property
    def is_true(self) -> bool:
        """Whether it frees what was said."""
        return self.freed is not None and abs(self.freed - self.advice.freed) <= EXACT * self.advice.freed


@dataclass(frozen=True)
class Proof:
    """What the advice frees when it is taken."""

    taken: tuple[Taken, ...]
    said: int  # the sum of what was said, of the pieces that could be taken
    freed: int | None  # with all of these in place at once; None if none could
    why: str = ""  # nothing could be taken
    error: float | None = None  # the largest of a result or a gradient, relative to it; None without numbers
    allowed: float = 0.0

    @property
    def is_true(self) -> bool:
        return all(one.is_true for one in self.taken if one.freed is not None) and (
            self.error is None or self.error <= self.allowed
        )


def prove(advice: Sequence[Advice], trace: Trace, adapter: Framework, given: Given) -> Proof:
    """Take each piece of advice by itself, and then all of them."""
    if not advice:
        return Proof((), 0, None, "there is no advice")
    fn, arrays, names, roles, is_abstract = given
    how: dict[str, Any] = {"roles": roles, "is_abstract": is_abstract}

    def kept(sites: Sequence[Site | Loop]) -> int:
        return adapter.trace(record.instead(trace, sites), arrays, names, **how).new_bytes

    try:
        record = adapter.record(fn, arrays, **how)
        now = kept(())
        if abs(now - trace.new_bytes) > _NEARLY * trace.new_bytes:
            raise Unplaced(
                f"its operations, run again one by one, keep {size(now)}, where the program keeps "
                f"{size(trace.new_bytes)}, as with a checkpoint or a hook"
            )
    except Exception as problem:  # of any kind: the function is not ours
        return Proof(tuple(Taken(one, None, _why(problem)) for one in advice), 0, None, _why(problem))
    taken, placed = list[Taken](), list[Site | Loop]()
    for one in advice:
        try:
            sites = [_settled(place(), record, trace) for place in one.places]
            if not sites:
                raise Unplaced(f"{one.op} is not put in place by itself")
            taken.append(Taken(one, now - kept(sites)))
            if not _is_inside(one, advice):
                placed += sites
        except Exception as problem:  # of any kind: somebody else's shapes meet our ops
            taken.append(Taken(one, None, _why(problem)))
    said = sum(one.advice.freed for one in taken if one.freed is not None and not _is_inside(one.advice, advice))
    if not placed:
        return Proof(tuple(taken), 0, None, "none of it could be taken")
    try:
        freed = now - kept(placed)
    except Exception as problem:
        return Proof(tuple(taken), said, None, f"not together: {_why(problem)}")
    is_drawn = any(isinstance(site, Site) and site.is_drawn for site in placed)
    error = None if is_drawn or not record.has_numbers(arrays) else _error(record, trace, placed, arrays)
    return Proof(tuple(taken), said, freed, "", error, _allowed(trace))


def _is_inside(one: Advice, advice: Sequence[Advice]) -> bool:
    """Whether a checkpoint of a loop takes the place of this piece of advice."""
    loops = [other.storages for other in advice if "." in other.op and other is not one]
    return any(2 * len(one.storages & loop) >= len(one.storages) for loop in loops)


def _settled(site: Site | Loop, record: Record, trace: Trace) -> Site | Loop:
    if isinstance(site, Loop) or site.settled is None:
        return site
    return site.settled(lambda read: record.numbers(trace, read))


def _error(record: Record, trace: Trace, sites: Sequence[Site | Loop], arrays: Sequence[Any]) -> float:
    """The largest error of a result or of a gradient, relative to the largest number in it."""
    before, after = (record.outcome(record.instead(trace, of), arrays) for of in ((), sites))
    sizes = [np.max(np.abs(a), initial=0.0) for a in before]
    # A gradient may be nothing but rounding, such as that of a bias of keys.
    least = _allowed(trace) * max(sizes, default=0.0)
    pairs = zip(before, after, sizes, strict=True)
    return max((np.max(np.abs(b - a), initial=0.0) / max(n, least, 1e-300) for a, b, n in pairs), default=0.0)


def _allowed(trace: Trace) -> float:
    """The root of the precision of the narrowest floating numbers: gradients add up many roundings."""
    narrow = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float64": 2.0**-52}
    found = [narrow.get(v.dtype, 2.0**-23) for v in trace.values.values() if "float" in v.dtype]
    return float(max(found, default=2.0**-23) ** 0.5)


def _why(problem: BaseException) -> str:
    """Why something could not be taken, in one line."""
    if isinstance(problem, Unplaced):
        return str(problem)
    text = next((line for line in str(problem).splitlines() if line.strip()), "")
    return f"{type(problem).__name__}: {text}"[:200]

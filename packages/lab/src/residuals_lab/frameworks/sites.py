"""Where in a forward an op can stand: what it reads there, and what it gives in place of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from residuals_lab.trace import Trace


class Read(NamedTuple):
    """An array as the step at a place reads it."""

    place: int
    number: int


Numbers = Callable[[Read], Any]  # an array in NumPy that is made of nothing given, as a causal mask is; else None


@dataclass(frozen=True)
class Site:
    """One call of an op in place of steps of a forward: of `reads` it makes the value `number` of the step at `place`.

    The steps that nothing else needs are left out then.
    """

    op: str
    reads: tuple[Read, ...]
    place: int
    number: int
    make: Callable[..., Any]  # the value, of the op as its users call it, and of the arrays
    is_drawn: bool = False  # the op draws other random numbers than the steps
    settled: "Callable[[Numbers], Site] | None" = None  # this call, once the numbers are known that depend on nothing


@dataclass(frozen=True)
class Loop:
    """A checkpoint of each iteration of a loop: an iteration is the steps from one of these places to the next."""

    bounds: tuple[int, ...]


class Unplaced(Exception):
    """Why an op cannot be put in place, in words that end a sentence."""


class Record(Protocol):
    """A forward that can be run again with ops in place of some of its steps."""

    def instead(self, trace: Trace, sites: Sequence[Site | Loop]) -> Callable[..., Any]:
        """The function of the same arrays with the ops in place, by the places of a trace of it. Raises `Unplaced`."""

    def numbers(self, trace: Trace, read: Read) -> Any:
        """An array in NumPy that is made of nothing given; None for any other, and for one that is not small."""

    def has_numbers(self, args: Sequence[Any]) -> bool:
        """Whether it can run on numbers, those of these arguments."""

    def outcome(self, fn: Callable[..., Any], args: Sequence[Any]) -> list[Any]:
        """What such a function gives, and all its gradients, in NumPy; nothing of it is random."""

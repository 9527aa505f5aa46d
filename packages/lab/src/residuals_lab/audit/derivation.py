"""How a value follows, by a few cheap steps, from arrays that are kept anyway."""

from collections.abc import Callable
from typing import NamedTuple

from residuals_lab.trace import Step, Trace
from residuals_lab.trace.costs import CHEAP, GATHERING

PASSES = 5  # the most elements that the steps may make, counted in sizes of the array that they give
_DEEPEST = 64  # the most steps, however small
_NOT_AGAIN = ("carry", "empty", "new_empty", "empty_like")  # a loop from its beginning; numbers that nobody wrote


class Derivation(NamedTuple):
    """The steps that give a value again."""

    steps: tuple[Step, ...]  # those that compute, in order; views are left out
    views: tuple[Step, ...]
    sources: frozenset[int]  # the values that they begin with

    @property
    def ops(self) -> list[str]:
        """The operations by name, each once; views only where there is nothing else."""
        return [*dict.fromkeys(step.op for step in self.steps or self.views)]


class Derivations:
    """Finds the derivations of values of one trace."""

    def __init__(self, trace: Trace) -> None:
        self.trace, self._steps = trace, trace.steps[: trace.boundary]

    def of(self, number: int, is_there: Callable[[int], bool]) -> Derivation | None:
        """How a value follows from values that are there; None if it does not, or not by a few cheap steps.

        To gather a sharded array is such a step. Transcendental operations may be among the steps, but not the last:
        to save exp(x) rather than x is a choice between two arrays, whereas x·σ(x) beside x is one array more. A value
        that no step makes is there: it is an argument or a constant, unless it was written over.
        """
        whole, number = self.trace.values[number].elements, self.trace.slices(number)[-1]
        if is_there(number) or not self._ends_cheaply(number, is_there):
            return None
        todo, places, sources, elements = [number], set[int](), set[int](), 0
        while todo:
            n = todo.pop()
            place = self.trace.makers.get(n)
            if is_there(n) or (place is None and n not in self.trace.gone):
                sources.add(n)
            elif place is None or not self._is_cheap(self._steps[place]) or len(places) == _DEEPEST:
                return None
            elif place not in places:
                step = self._steps[place]
                places.add(place)
                if step.cost != "view":
                    elements += step.times * sum(self.trace.values[out].elements for out in step.outs)
                todo += step.ins[-1:] if step.op == "copy" else step.ins  # PyTorch's also reads what it writes over
            if elements > PASSES * whole:
                return None
        steps = [self._steps[place] for place in sorted(places)]
        computing, views = ([s for s in steps if (s.cost == "view") is is_view] for is_view in (False, True))
        return Derivation(tuple(computing), tuple(views), frozenset(sources))

    def _ends_cheaply(self, number: int, is_there: Callable[[int], bool]) -> bool:
        """Whether the step that makes a value, or the array that it is a view of, is cheap and no constant."""
        first = number
        while not is_there(number) and (place := self.trace.makers.get(number)) is not None:
            step = self._steps[place]
            if step.cost != "view" or step.op == "carry":
                return (step.cost in CHEAP or step.op in GATHERING) and step.op not in ("carry", "constant")
            number = step.ins[0]
        return number != first  # a view of what is there, not what no step is seen to make

    def _is_cheap(self, step: Step) -> bool:
        if step.op in _NOT_AGAIN:
            return False
        return step.cost in (*CHEAP, "transcendental") or step.op in GATHERING

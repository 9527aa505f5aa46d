"""A framework-neutral record of one forward and one backward, with value numbering.

Equal numbers mean equal values: an operation with the same name, attributes and input numbers gives the same output
numbers, whenever it runs. So a backward step whose outputs have numbers that the forward made is a repeat, and a saved
array is known by its number wherever it turns up. Adapters write a trace through a `Recorder`; everyone else reads it.
"""

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from residuals_lab.trace.costs import CHEAP, cost_of

Phase = Literal["forward", "backward", "naming"]
Kind = Literal["input", "parameter", "output", "new", "view", "hidden"]
Role = Literal["input", "parameter", "frozen"]


class Input(NamedTuple):
    """An array that a traced function is given."""

    name: str  # with its path in a tree, "params['w']"
    array: Any  # of a framework
    role: Role  # what is frozen is not differentiated; a parameter is somebody else's to keep


@dataclass(frozen=True)
class Value:
    """An array as far as a trace knows it."""

    number: int
    shape: tuple[int, ...]
    dtype: str  # the framework's name for it
    itemsize: int  # bytes of an element, as the framework stores it

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * self.itemsize

    def __str__(self) -> str:
        """`float32[4, 8]`."""
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Step:
    """One operation: the numbers it reads and the numbers it makes."""

    op: str
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    phase: Phase
    times: int = 1  # how often it runs, as a part of a loop
    line: str = ""  # of the user's code, "model.py:41"; a backward step has that of the forward step behind it
    module: str = ""  # the modules or functions around it, "decoder/layer_3/mlp"
    axes: tuple[int, ...] = ()  # of a reduction, counted from the last axis, which is -1
    branches: tuple[tuple[int, int], ...] = ()  # the conditionals around it, each with the one of its branches

    @property
    def cost(self) -> str:
        return cost_of(self.op)


@dataclass(frozen=True)
class Residual:
    """An array saved by the forward for the backward."""

    name: str
    value: Value
    kind: Kind
    storage: Hashable
    storage_bytes: int  # which views of it share
    nbytes: int  # its own; fewer than `storage_bytes` if it is a part of a larger array
    is_new: bool  # nobody else keeps its storage alive
    op: str  # the operation that makes it; "" if none does
    line: str  # of that operation, as are the module and
    module: str
    saved: int  # the place after it: as many steps have run when the array can be saved
    reads: tuple[int, ...]  # the places of the backward's steps that read it, or a view of it
    is_needed: bool  # one of these steps is on the way to a gradient that somebody asked for

    @property
    def is_unused(self) -> bool:
        return not self.is_needed


@dataclass(frozen=True)
class Trace:
    steps: tuple[Step, ...]
    residuals: tuple[Residual, ...]
    alive: Mapping[int, Kind] = field(default_factory=dict)  # number of an input, a parameter or an output → which
    values: Mapping[int, Value] = field(default_factory=dict)  # by number
    parts: Mapping[int, int] = field(default_factory=dict)  # array that a loop stacks → slice of one iteration
    classes: Mapping[str, str] = field(default_factory=dict)  # module → its class, "Linear"
    unsure: Mapping[str, str] = field(default_factory=dict)  # operation that saves what only a run shows → its line
    device: str = ""  # the kind of device that chose the kernels, "cpu"; "" if the record is the same for all
    elsewhere: Mapping[str, str] = field(default_factory=dict)  # operation that keeps something else on a GPU → source
    notes: Sequence[str] = ()  # sentences about what the record does not show, or shows only in part
    gone: Collection[int] = ()  # the numbers of values that were written over before the backward
    views_share: bool = False  # a view is no array of its own
    names: Mapping[int, str] = field(default_factory=dict)  # by number; only of values that somebody named
    keys: Mapping[int, Any] = field(default_factory=dict)  # first output's number → operation, attributes, operands
    contents: Mapping[int, Any] = field(default_factory=dict)  # a residual's number → the array itself, if asked for

    @property
    def saved_bytes(self) -> int:
        """Bytes saved for the backward, each storage once."""
        return sum({r.storage: r.storage_bytes for r in self.residuals}.values())

    @property
    def new_bytes(self) -> int:
        """Bytes saved beyond arrays that are alive anyway, each storage once."""
        return sum({r.storage: r.storage_bytes for r in self.residuals if r.is_new}.values())

    @cached_property
    def boundary(self) -> int:
        """Where the forward ends: the place of the first step of the backward."""
        return sum(step.phase == "forward" for step in self.steps)

    def computed(self) -> list[str]:
        """The costly operations of the forward, by name, each once."""
        return sorted({s.op for s in self.steps if s.phase == "forward" and s.cost not in CHEAP})

    def repeating(self, cheap: bool = False) -> list[Step]:
        """The steps of the backward that make values that the forward made; the cheap ones only if asked for."""
        made = {n for step in self.steps if step.phase == "forward" for n in step.outs}
        again = [s for s in self.steps if s.phase == "backward" and s.outs and made.issuperset(s.outs)]
        return [step for step in again if cheap or step.cost not in CHEAP]

    def repeats(self, cheap: bool = False) -> list[str]:
        """The operations that the backward repeats, by name, each once; the cheap ones only if asked for."""
        return sorted({step.op for step in self.repeating(cheap)})

    def readers(self, residual: Residual) -> list[str]:
        """The operations of the backward that read a residual, or a view of it, by name, each once."""
        return [*dict.fromkeys(self.steps[i].op for i in residual.reads)]

    def part(self, number: int) -> int:
        """The number of the slice of one iteration, if a loop stacks up this array; else the array's own number."""
        return self.parts.get(number, number)

    def slices(self, number: int) -> list[int]:
        """A value, the slice of it that an iteration gives if a loop stacks it up, the slice of that, and so on."""
        numbers = [number]
        while numbers[-1] in self.parts:
            numbers.append(self.parts[numbers[-1]])
        return numbers

    @cached_property
    def makers(self) -> Mapping[int, int]:
        """Value → the place of the step of the forward that makes it first."""
        found: dict[int, int] = {}
        for place, step in enumerate(self.steps[: self.boundary]):
            for n in step.outs:
                if n not in step.ins:
                    found.setdefault(n, place)
        return found

    def viewed(self, number: int) -> int:
        """The value that a view shows all of, such as the matrix of its transpose; any other value itself."""
        while (place := self.makers.get(number)) is not None:
            step = self.steps[place]
            if step.cost != "view" or step.op == "carry" or not step.ins:
                break
            if self.values[step.ins[0]].elements > self.values[number].elements:
                break
            number = step.ins[0]
        return number

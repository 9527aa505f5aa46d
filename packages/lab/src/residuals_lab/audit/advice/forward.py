"""The forward of a trace as a graph to walk, and a softmax in it, whoever wrote that."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from residuals_lab.trace import Residual, Step, Trace
from residuals_lab.trace.costs import COSTS

_OF_ROWS = frozenset(  # operations that may follow on the one number that a softmax or a loss has of each row
    [
        "abs",
        "add",
        "convert",
        "div",
        "eq",
        "exp",
        "is_finite",
        "log",
        "max",
        "maximum",
        "neg",
        "reciprocal",
        "sub",
        "where",
    ]
)
_OF_LOGITS = frozenset(  # and on logits: our op has no scale and no mask, and its labels number the columns as they are
    ["convert", "exp", "log_softmax", "matmul", "sub", *COSTS["view"].split()]
) - {"permute", "rev", "transpose"}


class Node(NamedTuple):
    """A value as one step made it: a program that makes a value twice has two."""

    place: int  # of that step; less than 0 if no step makes it
    number: int


class Forward:
    """The forward of a trace, to walk in both directions."""

    def __init__(self, trace: Trace) -> None:
        self.values, self.alive, self.views_share = trace.values, trace.alive, trace.views_share
        self.keys, self.steps_of_trace = trace.keys, trace.steps
        self.all = trace.steps[: trace.boundary]
        self.steps = [step for step in self.all if step.op != "carry"]
        self.makers = {n: step for step in self.steps for n in step.outs}
        self.order = {n: i for i, step in enumerate(self.steps) for n in step.outs}
        self.made_in: dict[tuple[str, str], set[int]] = defaultdict(set)
        self.readers: dict[int, list[Step]] = defaultdict(list)
        for step in self.steps:
            self.made_in[step.module, step.line].update(step.outs)
            for n in step.ins:
                self.readers[n].append(step)
        self.made_at: dict[int, list[int]] = defaultdict(list)  # the places of the steps that make a value
        for place, step in enumerate(self.all):
            for n in step.outs:
                self.made_at[n].append(place)
        results = set(self.alive)
        self.given_on: dict[int, list[Step]] = defaultdict(list)  # value → its readers on the way to a result
        self.primal: dict[int, Step] = {}  # the steps on the way there, by place, without those for the backward
        for place, step in reversed([*enumerate(self.all)]):
            if not results.isdisjoint(step.outs):
                results.update(step.ins)
                self.primal[place] = step
                for n in step.ins:
                    self.given_on[n].append(step)
        self.primal = dict(reversed(self.primal.items()))
        self.saved: dict[int, list[Residual]] = defaultdict(list)
        self.unread: dict[tuple[str, int], list[Residual]] = defaultdict(list)  # by line and size
        for r in trace.residuals:
            if r.is_new:
                self.saved[trace.part(r.value.number)].append(r)
            if r.is_new and not r.reads:
                self.unread[r.line, trace.values[trace.part(r.value.number)].elements].append(r)

    def back_to_product(self, operand: int) -> tuple[set[int], Step | None]:
        """The values of one size from a product up to this one, and the product.

        The size is larger than either factor's: a number for each pair of a query and a key, or of a token and a word.
        """
        size, seen, product, todo = self.values[operand].elements, set[int](), None, [operand]
        while todo:
            n = todo.pop()
            maker = self.makers.get(n)
            if n in seen or maker is None or self.values[n].elements != size:
                continue
            seen.add(n)
            if maker.op != "matmul":
                todo += maker.ins
            elif all(self.values[factor].elements < size for factor in maker.ins):
                product = maker
        # An op makes a causal mask by itself; a mask that is made of arguments has to be kept by any op.
        masks = {n for n in seen if self.values[n].dtype == "bool" and not self.made_from([n]).isdisjoint(self.alive)}
        return seen - masks, product

    def array(self, n: int, place: int) -> int:
        """The array of this value that a step at this place reads, as the place where the array is made: a program that
        makes a value twice has two arrays. Less than 0 if no step makes it.
        """
        before = bisect_left(self.made_at[n], place) - 1
        if before < 0:
            return ~n
        made = self.made_at[n][before]
        maker = self.all[made]
        return self.array(maker.ins[0], made) if self.views_share and maker.cost == "view" else made

    def node(self, n: int, place: int) -> Node:
        """This value as a step at this place reads it."""
        before = bisect_left(self.made_at[n], place) - 1
        return Node(self.made_at[n][before] if before >= 0 else -1, n)

    def primal_before(self, place: int) -> int:
        """The last place before this one of a step on the way to a result; -1 if there is none."""
        places = self.primal_places
        i = bisect_left(places, place)
        return places[i - 1] if i else -1

    def primal_after(self, place: int) -> int:
        """The next one after it."""
        places = self.primal_places
        i = bisect_left(places, place)
        return places[i] if i < len(places) else -1

    @cached_property
    def primal_places(self) -> Sequence[int]:
        return [*self.primal]

    @cached_property
    def consumers(self) -> Mapping[Node, Sequence[int]]:
        """The places on the way to a result that read a value as one step made it."""
        found: dict[Node, list[int]] = defaultdict(list)
        for place, step in self.primal.items():
            for n in dict.fromkeys(step.ins):
                found[self.node(n, place)].append(place)
        return found

    def array_of(self, r: Residual) -> int:
        """The array of a residual, by the place where it is made."""
        return r.saved - 1 if r.op else ~r.value.number

    def nbytes(self, array: int) -> int:
        """The bytes of an array that a step makes: all of them, though a value may be a view of a part."""
        return max(self.values[n].nbytes for n in self.all[array].outs)

    def is_read_once(self, n: int) -> bool:
        """Whether each array of this value is read by one step: a program that makes a value twice has two."""
        return len(self.given_on[n]) <= len(self.made_at[n])

    def made_from(self, values: Sequence[int]) -> set[int]:
        """These values and all values that they are made from."""
        todo, found = [*values], {*values}
        while todo:
            if maker := self.makers.get(todo.pop()):
                todo += {*maker.ins} - found
                found.update(maker.ins)
        return found

    def made_of(self, values: set[int]) -> set[int]:
        """These values and all values of their size that are made from them."""
        size, found, todo = self.values[next(iter(values))].elements, set(values), [*values]
        while todo:
            outs = {n for step in self.readers[todo.pop()] for n in step.outs if self.values[n].elements == size}
            todo += outs - found
            found |= outs
        return found

    def is_softmax(self, product: Step, end: Step, operand: int) -> bool:
        """Whether a product goes through a softmax along the last axis to this step's operand, and nowhere else; or, if
        the step takes from each row what its label says, through a log-softmax or beside a log-sum-exp.
        """
        made = self.made_of({*product.outs}) & {*self.given_on}
        stages = self.stages(made, product)
        if end.op == "matmul":
            is_one = stages.get(operand) == "weights"
        else:
            along = {step.op for n in made for step in self.given_on[n] if step.axes == (-1,)}
            is_one = "logsumexp" in along or stages.get(operand) == "weights"
            is_one = is_one or "exp" in stages.values()
            is_one = is_one and {self.makers[n].op for n in stages} <= _OF_LOGITS and self.takes_labels(end)
        return is_one and None not in stages.values() and self.ends_in(end, made)

    def takes_labels(self, step: Step) -> bool:
        """Whether a step takes from each row the number of one class."""
        if step.op == "nll_loss":
            return True
        logits = self.values[step.ins[0]]
        if self.values[step.outs[0]].elements * logits.shape[-1] != logits.elements:
            return False
        by = self.made_from(step.ins[1:])  # the indices: of rows, which are 0, 1, 2 and so on, and of classes
        return step.axes == (-1,) or any(n in self.makers and self.makers[n].op == "iota" for n in by)

    def stages(self, made: set[int], product: Step) -> dict[int, str | None]:
        """The stage of each of these values on the way from a product through a softmax: "scores", their "exp",
        "weights", or None for anything else.
        """
        found: dict[int, str | None] = dict.fromkeys(product.outs, "scores")
        for n in sorted(made - {*product.outs}, key=self.order.__getitem__):
            step = self.makers[n]
            of = [found[i] for i in step.ins if i in found]
            others = [self.values[i] for i in step.ins if i not in found]
            found[n] = None
            if len(of) != 1 or (step.op in ("div", "sub") and step.ins[0] not in found):
                continue
            is_row = all(value.elements < self.values[n].elements for value in others)
            is_sum = all(self.is_sum(value.number) for value in others)
            if step.cost == "view" or step.op == "convert":
                found[n] = of[0]
            elif of[0] == "scores" and step.op == "exp":
                found[n] = "exp" if self.sums(n) == {(-1,)} else None
            elif (of[0] == "scores" and step.op in ("softmax", "log_softmax") and step.axes == (-1,)) or (
                of[0] == "exp" and step.op in ("div", "mul") and is_row and is_sum
            ):
                found[n] = "weights"
            elif of[0] == "scores" and (
                step.op in ("where", "masked_fill")
                or (step.op == "sub" and is_row)
                or (step.op == "add" and all(v.number in self.alive or v.number not in self.makers for v in others))
                or (step.op in ("mul", "div") and all(value.elements == 1 for value in others))
            ):
                found[n] = "scores"
        return found

    def sums(self, n: int) -> set[tuple[int, ...]]:
        """The axes of each sum of this array, also of the array in another precision."""
        steps = self.given_on[n]
        found = {step.axes for step in steps if step.op == "sum"}
        return found.union(*(self.sums(step.outs[0]) for step in steps if step.op == "convert"))

    def is_sum(self, n: int) -> bool:
        """Whether a value is a sum, or its reciprocal; it may be replaced where it is 0."""
        maker = self.makers.get(n)
        if maker is None:
            return False
        if maker.cost == "view" or maker.op in ("convert", "reciprocal", "where", "maximum", "masked_fill"):
            return any(map(self.is_sum, maker.ins))
        return maker.op == "sum"

    def ends_in(self, end: Step, values: set[int]) -> bool:
        """Whether nothing but this step, and the softmax itself, reads these values, and none of them is a result."""
        rows, size = set[int](), self.values[next(iter(values))].elements
        todo = [*end.outs]
        while todo:  # values made from the number that a label takes from each row
            for step in self.given_on[todo.pop()]:
                if step.cost == "view" or step.op in _OF_ROWS:
                    todo += {*step.outs} - rows
                    rows.update(step.outs)

        def ends(n: int) -> bool:
            for step in self.given_on[n]:
                if step.outs == end.outs or not rows.isdisjoint(step.outs):
                    continue
                is_reduction = step.op in ("logsumexp", "max", "sum") and self.values[n].elements == size
                for out in {*step.outs} - values:
                    small = self.values[out].elements < size and (
                        is_reduction or step.cost == "view" or step.op in _OF_ROWS
                    )
                    if out in self.alive or not small or not ends(out):
                        return False
            return True

        return all(ends(n) and n not in self.alive for n in values)

    def residuals_of(self, values: set[int], place: int | None = None) -> dict[Hashable, Residual]:
        """The new residuals that are arrays of these values, by storage; at a `place`, only arrays that the step there
        reads or makes. Arrays that JAX saves beside them and nobody reads are included, such as the filling of a
        `where`.
        """
        found = [r for n in values for r in self.saved[n] if place is None or self.is_at(place, n, r)]
        sizes = {(self.makers[n].line, self.values[n].elements) for n in values if n in self.makers and found}
        return {r.storage: r for r in (*found, *(r for size in sizes for r in self.unread[size]))}

    def is_at(self, place: int, n: int, r: Residual) -> bool:
        """Whether a residual is the array of this value that a step at this place reads or makes."""
        return self.array(n, place + 1) == self.array_of(r)

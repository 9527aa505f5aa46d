"""The forward of a trace as a graph to walk, and a softmax in it, whoever wrote that."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from residuals_lab.audit.advice.literals import numbers
from residuals_lab.trace import Residual, Step, Trace, Value
from residuals_lab.trace.costs import COSTS

_OF_ROWS = frozenset(  # operations that may follow on the one number that a softmax or a loss has of each row
    [
        "abs",
        "add",
        "clamp",
        "clamp_min",
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
        self.makers = {n: step for step in self.steps for n in step.outs if n not in step.ins}  # a clone makes none
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
        """The array of this value that a step at this place reads, as a number: a program that makes a value twice has
        two arrays, and a step may make several. Less than 0 if no step makes it.
        """
        before = bisect_left(self.made_at[n], place) - 1
        if before < 0:
            return ~n
        made = self.made_at[n][before]
        maker = self.all[made]
        is_view = self.views_share and maker.cost == "view"
        return self.array(maker.ins[0], made) if is_view else self._numbered(made, n)

    def _numbered(self, place: int, n: int) -> int:
        """The array of a value that the step at this place makes."""
        if self.all[place].op == "carry":  # what is carried is one array at the begin of an iteration and at its end
            place = self.made_at[n][0]
        return place + self.all[place].outs.index(n) * len(self.all)

    def place_of(self, array: int) -> int:
        """The place of the step that makes an array; less than 0 if none does."""
        return array % len(self.all) if array >= 0 else array

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
        """The array of a residual."""
        if not r.op:
            return ~r.value.number
        place, n = r.saved - 1, r.value.number
        while n not in self.all[place].outs and (maker := self.makers.get(n)) and maker.ins:  # a view of the array
            n = maker.ins[0]
        return self._numbered(place, n) if n in self.all[place].outs else place

    def is_beside(self, r: Residual) -> bool:
        """Whether a residual is no array that its step is there for, but what that makes beside it: a norm's mean."""
        if not r.op or r.value.number not in (outs := self.all[r.saved - 1].outs)[1:]:
            return False
        first = self.values[outs[0]]
        return (r.value.shape, r.value.dtype) != (first.shape, first.dtype)

    def nbytes(self, array: int) -> int:
        """The bytes of an array that a step makes: all of them, though a value may be a view of a part."""
        index, place = divmod(array, len(self.all))
        return self.values[self.all[place].outs[index]].nbytes

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

    def made_on_the_way(self, scores: int, end: Step) -> set[int]:
        """Scores, and the values of their size that are made of them for a loss that this step takes of each row."""
        return {scores} | (self.made_of({scores}) & self._before_loss(end))

    def made_for_loss(self, scores: int, end: Step) -> set[int]:
        """The values of the scores' size that are made of them for the loss that this step takes of each row, or for
        its backward: those by lines that read the scores for nothing else.
        """
        before, readers = self._before_loss(end), self.given_on[scores]
        for_loss = {(s.line, s.module) for s in readers if s.outs == end.outs or not before.isdisjoint(s.outs)}
        lines = for_loss - {(s.line, s.module) for s in readers if s.outs != end.outs and before.isdisjoint(s.outs)}
        made = self.made_of(self.made_on_the_way(scores, end) - {scores})
        beside = self.made_of({scores}) - {scores} - {n for step in self.primal.values() for n in step.outs}
        return made | {n for n in beside if (self.makers[n].line, self.makers[n].module) in lines}

    def _before_loss(self, end: Step) -> set[int]:
        """The values that the loss of each row is made of."""
        rows = self._rows_of(end)
        return self.made_from([*end.ins, *rows, *(n for m in rows for step in self.given_on[m] for n in step.ins)])

    @cached_property
    def kept_anyway(self) -> set[int]:
        """The arrays that are results, or residuals now."""
        results = {self.array(n, len(self.all)) for n in self.alive}
        return results | {
            self.array_of(r) for residuals in self.saved.values() for r in residuals if not self.is_beside(r)
        }

    def unkept(self, values: Sequence[int]) -> int:
        """The bytes of the arrays of these values, if they are not kept now: as where a weight is frozen."""
        arrays = {self.array(n, len(self.all)) for n in values} - self.kept_anyway
        return sum(self.nbytes(array) for array in arrays if array >= 0)

    def is_spread(self, n: int) -> bool:
        """Whether a value is one of fewer numbers, spread over more places."""
        maker = self.makers.get(n)
        if maker is None or maker.cost != "view" or not maker.ins:
            return False
        return self.values[maker.ins[0]].elements < self.values[n].elements

    def is_softmax(
        self, scores: int, end: Step, operand: int, is_given: bool = False, dropped: Collection[int] = ()
    ) -> bool:
        """Whether scores go through a softmax along the last axis to this step's operand, and nowhere else; or, if the
        step takes from each row what its label says, through a log-softmax or beside a log-sum-exp. Scores that are
        given, or a result, may go elsewhere too. If dropout makes `dropped` on the way, it has to be of the weights.
        """
        read = {n for n in self.given_on if self.given_on[n]}
        made = (self.made_of({scores}) if not is_given else self.made_on_the_way(scores, end)) & read
        stages = self.stages(made, scores, dropped)
        if end.op == "matmul":
            is_one = stages.get(operand) == ("dropped" if dropped else "weights")
        else:
            along = {step.op for n in made for step in self.given_on[n] if step.axes == (-1,)}
            is_one = "logsumexp" in along or stages.get(operand) == "weights"
            is_one = is_one or "exp" in stages.values()
            is_one = (
                is_one and {self.makers[n].op for n in stages if n != scores} <= _OF_LOGITS and self.takes_labels(end)
            )
        return is_one and None not in stages.values() and self.ends_in(end, made - ({scores} if is_given else set()))

    def takes_labels(self, step: Step) -> bool:
        """Whether a step takes from each row the number of one class."""
        if step.op == "nll_loss":
            return True
        logits = self.values[step.ins[0]]
        if self.values[step.outs[0]].elements * logits.shape[-1] != logits.elements:
            return False
        by = self.made_from(step.ins[1:])  # the indices: of rows, which are 0, 1, 2 and so on, and of classes
        return step.axes == (-1,) or any(n in self.makers and self.makers[n].op == "iota" for n in by)

    def stages(self, made: set[int], scores: int, dropped: Collection[int] = ()) -> dict[int, str | None]:
        """The stage of each of these values on the way from scores through a softmax: "scores", their "exp",
        "weights", those "scaled" by a number, those "dropped" by a step that makes one of `dropped`, or None for
        anything else. Behind a star is the mask that scores or weights were multiplied with: weights that are
        multiplied with a mask, and divided by their sum then, are those of a softmax under that mask.
        """
        found: dict[int, str | None] = {scores: "scores"}
        for n in sorted(made - {scores}, key=self.order.__getitem__):
            step = self.makers[n]
            of = [i for i in step.ins if i in found]
            others = [self.values[i] for i in step.ins if i not in found]
            stage = found[of[0]] if len(of) == 1 else None
            found[n] = None
            if n in dropped:
                found[n] = "dropped" if stage in ("weights", "scaled") else None
            elif stage and not (step.op in ("div", "sub") and step.ins[0] not in found):
                found[n] = stage if step.cost == "view" or step.op == "convert" else self._after(stage, step, n, others)
        return found

    def _after(self, stage: str, step: Step, n: int, others: Sequence[Value]) -> str | None:
        """The stage of what a step makes of a value at a stage, and of others."""
        name, _, mask = stage.partition("*")
        is_row = all(value.elements < self.values[n].elements for value in others)
        if name == "scores" and step.op == "exp":
            return stage.replace(name, "exp") if self.sums(n) == {(-1,)} else None
        if name == "scores" and step.op == "sub" and is_row:
            return stage
        if name == "scores" and step.op in ("softmax", "log_softmax") and step.axes == (-1,):
            return stage.replace(name, "weights")
        if name == "exp" and step.op in ("div", "mul") and is_row and all(self.is_sum(v.number) for v in others):
            return stage.replace(name, "weights")
        if name == "masked" and step.op == "div" and is_row and all(self.is_sum(v.number, True) for v in others):
            return "weights"
        if (
            name in ("weights", "scaled", "dropped")
            and step.op in ("div", "mul")
            and all(v.elements == 1 for v in others)
        ):
            return "dropped" if name == "dropped" else "scaled"
        by = self.mask(others[0].number) if step.op == "mul" and len(others) == 1 else None
        if by is not None and name in ("scores", "weights") and mask in ("", str(by)):
            return f"scores*{by}" if name == "scores" else f"masked*{by}"
        if stage == "scores" and (
            step.op in ("where", "masked_fill")
            or (step.op == "add" and all(self.is_bias(value.number, n) for value in others))
            or (step.op in ("mul", "div") and all(value.elements == 1 for value in others))
        ):
            return "scores"
        return None

    def added_to(self, n: int) -> Sequence[int]:
        """What is added to scores to make these ones."""
        maker = self.makers.get(n)
        return [i for i in maker.ins if self.is_bias(i, n)] if maker and maker.op == "add" else []

    def mask(self, n: int) -> int | None:
        """The mask of True and False that these 0 and 1 are."""
        while self.values[n].dtype != "bool":
            maker = self.makers.get(n)
            if maker is None or not maker.ins:
                return None
            is_times_one = maker.op == "mul" and numbers(maker, self.keys) == [1]
            if not (maker.cost == "view" or maker.op == "convert" or is_times_one):
                return None
            n = maker.ins[0]
        return n

    def is_bias(self, n: int, scores: int) -> bool:
        """Whether a value can be added to scores as the bias of our op: it is given, or nothing differentiates it; or
        it is smaller, as a bias is that all examples share.
        """
        if self.values[n].elements < self.values[scores].elements:
            return True
        while (maker := self.makers.get(n)) and maker.cost == "view" and maker.ins and n not in self.alive:
            n = maker.ins[0]
        return n in self.alive or n not in self.makers or not self.is_differentiated(n)

    def is_differentiated(self, n: int) -> bool:
        """Whether a value may be made of something given by operations that have a derivative."""
        todo, seen = [n], set[int]()
        while todo:
            n = todo.pop()
            if n not in seen and "float" in self.values[n].dtype:
                seen.add(n)
                if n in self.alive:
                    return True
                todo += self.makers[n].ins if n in self.makers else ()
        return False

    def sums(self, n: int) -> set[tuple[int, ...]]:
        """The axes of each sum of this array, also of the array in another precision."""
        steps = self.given_on[n]
        found = {step.axes for step in steps if step.op == "sum"}
        return found.union(*(self.sums(step.outs[0]) for step in steps if step.op == "convert"))

    def is_sum(self, n: int, is_nearly: bool = False) -> bool:
        """Whether a value is a sum, or its reciprocal; it may be replaced where it is 0, or a tiny number be added."""
        maker = self.makers.get(n)
        if maker is None:
            return False
        if is_nearly and maker.op in ("add", "clamp_min", "clamp", "maximum"):
            tiny = [*numbers(maker, self.keys), *(a for i in maker.ins for a in self._spread_number(i))]
            return any(0 < a < 1e-3 for a in tiny) and any(self.is_sum(i) for i in maker.ins)
        if maker.cost == "view" or maker.op in ("convert", "reciprocal", "where", "maximum", "masked_fill"):
            return any(self.is_sum(i, is_nearly) for i in maker.ins)
        return maker.op == "sum"

    def _spread_number(self, n: int) -> Sequence[float]:
        """The number that a value is, in another precision or all over an array."""
        maker = self.makers.get(n)
        return numbers(maker, self.keys) if maker and maker.op in ("broadcast", "convert") else []

    def ends_in(self, end: Step, values: set[int]) -> bool:
        """Whether nothing but this step, and the softmax itself, reads these values, and none of them is a result."""
        if not values:
            return False
        rows, size = self._rows_of(end), self.values[next(iter(values))].elements

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

    def _rows_of(self, end: Step) -> set[int]:
        """The values made from the number that a label takes from each row."""
        rows, todo = set[int](), [*end.outs]
        while todo:
            for step in self.given_on[n := todo.pop()]:
                is_all = step.op == "gather" and self.values[step.outs[0]].elements == self.values[n].elements
                if step.cost == "view" or step.op in _OF_ROWS or is_all:
                    todo += {*step.outs} - rows
                    rows.update(step.outs)
        return rows

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

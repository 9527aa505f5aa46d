"""How an op of a loss is called in place of the steps that somebody's own code takes."""

from typing import Any

from residuals_lab.audit.advice.forward import Forward
from residuals_lab.audit.advice.literals import operands
from residuals_lab.audit.advice.products import factors
from residuals_lab.frameworks.sites import Read, Site, Unplaced
from residuals_lab.trace import Step

_REDUCTIONS = ("none", "mean", "sum")  # as PyTorch numbers them


def site(forward: Forward, op: str, end: Step, logits: int, layer: Step | None) -> Site:
    """An op of the loss, or of the last layer and the loss, for what the step `end` takes of each row of logits."""
    place = forward.made_at[end.outs[0]][-1]
    options: dict[str, Any] = {"reduction": "none"}
    number, sign, labels = end.outs[0], 1, end.ins[1]
    if end.op == "nll_loss":
        args, _ = operands(end, forward.keys) or ((), {})
        if len(args) != 5 or len(forward.values[end.ins[0]].shape) != 2:
            raise Unplaced("its loss has other arguments than rows and labels")
        options = {"reduction": _REDUCTIONS[args[3]], "ignore_index": args[4]}
    else:
        place, number, sign = _loss_of_rows(forward, end, logits)
    reads = [Read(forward.made_at[end.outs[0]][-1], labels)]
    if layer is None:
        reads.insert(0, _read(forward, logits))
    else:
        if forward.values[layer.outs[0]].elements != forward.values[logits].elements:
            raise Unplaced("the loss leaves out rows of the logits")
        at = forward.made_at[layer.outs[0]][-1]
        reads = [*bias(forward, logits, layer), *(Read(at, n) for n in layer.ins), *reads]
    classes = forward.values[logits].shape[-1]
    rows = forward.values[logits].elements // classes
    between = factors(forward, layer) if layer else None

    def make(loss: Any, *arrays: Any) -> Any:
        *given, labels = arrays
        labels = labels.reshape(rows, -1)[:, -1]  # behind the numbers of rows, where there are such
        if between is None:
            made = loss(given[0].reshape(rows, classes), labels, **options)
        else:
            x, w = (factor.matrix(a) for factor, a in zip(between, given[-2:], strict=True))
            more = {"bias": given[0].reshape(-1)[:classes]} if len(given) == 3 else {}  # it may be spread over rows
            made = loss(x, w.mT, labels, **more, **options)
        return made if sign > 0 else -made

    return Site(op, tuple(reads), place, number, make)


def _loss_of_rows(forward: Forward, end: Step, logits: int) -> tuple[int, int, int]:
    """The step that has made the loss of each row, its result, and whether that is the loss or its negative."""
    n, place = end.outs[0], forward.made_at[end.outs[0]][-1]
    if forward.values[end.ins[0]].elements != forward.values[logits].elements:
        raise Unplaced("the loss leaves out rows of the logits")
    since = forward.made_from([end.ins[0]]) - forward.made_from([logits])
    if any(forward.makers[i].op in ("log", "log_softmax", "logsumexp") for i in since if i in forward.makers):
        return place, n, -1
    while len(readers := forward.given_on[n]) == 1:
        step = readers[0]
        place = forward.made_at[step.outs[0]][-1]
        if step.op == "sub":
            return place, step.outs[0], 1 if step.ins[1] == n else -1
        is_all = step.op == "gather" and forward.values[step.outs[0]].elements == forward.values[n].elements
        if step.cost != "view" and step.op not in ("convert", "where") and not is_all:  # a label may be out of bounds
            break
        n = step.outs[0]
    raise Unplaced("it is not seen where the loss of each row is made")


def bias(forward: Forward, logits: int, layer: Step) -> list[Read]:
    """A bias that is added to the output of a layer by a step of its own."""
    n = logits
    while n not in layer.outs:
        step = forward.makers[n]
        if step.op == "add":
            others = [i for i in step.ins if layer.outs[0] not in forward.made_from([i])]
            return [Read(forward.made_at[step.outs[0]][-1], i) for i in others]
        n = step.ins[0]
    return []


def _read(forward: Forward, number: int) -> Read:
    """A step on the way to a result that reads a value."""
    place = next((p for p, step in forward.primal.items() if number in step.ins), None)
    if place is None:
        raise Unplaced("no step there reads the logits")
    return Read(place, number)

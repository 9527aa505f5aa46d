"""A loss that saves an array of the logits' size: one op of the last layer and the loss keeps none, one of the loss
alone keeps the logits themselves.
"""

import math
from collections import Counter, defaultdict
from functools import partial

from residuals_lab.audit.advice import losses
from residuals_lab.audit.advice.forward import Forward
from residuals_lab.audit.advice.ours import Found, Ours, Place, Saved, beside_inputs, found_advice, iterations
from residuals_lab.trace import Step
from residuals_lab.trace.costs import COSTS

_TO_LOSS = frozenset(["clone", "convert", "copy", "div", "exp", "log", "log_softmax", "sub", *COSTS["view"].split()])
_TURNS = frozenset(["permute", "transpose"])
_OF_ROWS = frozenset(["alias", "detach", "reshape", "select", "slice", "squeeze", "unsqueeze", "view"])


def find(forward: Forward, ours: Ours) -> Found:
    """Losses that take from each row of logits the one of its label, by the line and the op to take instead."""
    found: dict[tuple[str, str], Saved] = defaultdict(dict)
    instead: Counter[tuple[str, str]] = Counter()
    options = dict[tuple[str, str], str]()
    places = defaultdict[tuple[str, str], list[Place]](list)
    for step in forward.steps:
        if step.op not in ("nll_loss", "gather") or not step.ins or (step.op == "nll_loss" and len(step.ins) != 2):
            continue  # our ops have no weights of classes
        logits = _logits(forward, step.ins[0])
        product, between = _product(forward, logits)
        if product and forward.is_softmax(logits, step, step.ins[0]):
            op, kept = "linear_cross_entropy", _kept_by_both(forward, ours, logits, product)
            values = forward.made_of({logits}) | between
            if turned := _turned(forward, logits, product):
                kept += turned
                options[step.line, op] = "weight.T, …"
            if len(product.ins) == 3 or losses.bias(forward, logits, product):
                given = options.get((step.line, op), "").removesuffix("…")
                options[step.line, op] = f"{given}bias=bias"
        elif forward.is_softmax(logits, step, step.ins[0], is_given=True):
            op, kept = "cross_entropy", _kept_by_loss(forward, ours, logits)
            values = forward.made_for_loss(logits, step)
        else:
            continue
        if saved := forward.residuals_of(values):
            found[step.line, op] |= saved
            instead[step.line, op] += iterations(saved, forward.values[logits]) * kept
            layer = product if op == "linear_cross_entropy" else None
            places[step.line, op].append(partial(losses.site, forward, op, step, logits, layer))
    for (line, op), these in found.items():
        key = line, op
        yield found_advice("cross entropy", line, op, these, instead[key], options.get(key, ""), places=places[key])


def _logits(forward: Forward, operand: int) -> int:
    """The logits of which a loss takes one a row, from what it takes them: the log of their softmax, say."""
    size = forward.values[operand].elements
    while (maker := forward.makers.get(operand)) and maker.op in _TO_LOSS:
        wide = [n for n in maker.ins if forward.values[n].elements == size and not forward.is_spread(n)]
        if len(wide) != 1 or _is_turned_product(forward, maker):
            break
        operand = wide[0]
    return operand


def _is_turned_product(forward: Forward, maker: Step) -> bool:
    """Whether a step turns a product round: that of a weight and a row has its classes first, under `vmap`."""
    product = forward.makers.get(maker.ins[0]) if maker.op in _TURNS else None
    return product is not None and product.op == "matmul"


def _product(forward: Forward, logits: int) -> tuple[Step | None, set[int]]:
    """The last layer whose output are these logits, or more rows, and the values from there that nobody else reads."""
    between = {logits}
    while (maker := forward.makers.get(logits)) and forward.is_read_once(logits) | (len(between) == 1):
        if logits in forward.alive:
            break
        if maker.op == "matmul":
            size = forward.values[logits].elements
            is_layer = len(maker.ins) in (2, 3) and all(forward.values[n].elements < size for n in maker.ins)
            return (maker, between) if is_layer else (None, between)
        layer = maker.ins[0] if _is_turned_product(forward, maker) else _without_bias(forward, maker)
        if layer is not None:
            logits = layer
            between.add(logits)
            continue
        if maker.op not in _OF_ROWS or forward.values[maker.ins[0]].shape[-1:] != forward.values[logits].shape[-1:]:
            break
        logits = maker.ins[0]
        between.add(logits)
    return None, between


def _without_bias(forward: Forward, step: Step) -> int | None:
    """The output of a layer, if a step adds a bias to it, of one number a class."""
    if step.op != "add" or len(step.ins) != 2:
        return None
    shape = forward.values[step.outs[0]].shape
    for n, bias in (step.ins, step.ins[::-1]):
        maker = forward.makers.get(bias)
        spread = [bias, *(maker.ins if maker and maker.cost == "view" else ())]
        is_bias = any(forward.values[i].shape == shape[-1:] for i in spread)
        if is_bias and n in forward.makers and forward.values[n].shape == shape and len(shape) > 1:
            return n
    return None


def _kept_by_both(forward: Forward, ours: Ours, logits: int, product: Step) -> int:
    """The bytes that an op of layer and loss keeps: a few numbers a row, and the rows that are not all of x."""
    value, whole = forward.values[logits], forward.values[product.outs[0]]
    left, right = (forward.values[n] for n in product.ins[-2:])
    classes = value.shape[-1]
    features, rows = math.isqrt(left.elements * right.elements // whole.elements), value.elements // classes
    trace = ours.trace("linear_cross_entropy", left.dtype, (rows, features), (classes, features))
    x = rows * features * left.itemsize if value.elements < whole.elements else forward.unkept(product.ins[-2:-1])
    return beside_inputs(trace) + x


def _turned(forward: Forward, logits: int, product: Step) -> int:
    """The bytes of the weight if it has its classes last: the op has them first, and keeps a copy that is transposed,
    where a view is an array of its own.
    """
    classes, weight = forward.values[logits].shape[-1], forward.values[product.ins[-1]]
    maker = forward.makers.get(weight.number)
    is_last = weight.shape[1:] == (classes,) and not (maker and maker.op in _TURNS)
    return weight.nbytes if is_last and not forward.views_share else 0


def _kept_by_loss(forward: Forward, ours: Ours, logits: int) -> int:
    """The bytes that an op of the loss keeps: a few numbers a row, and the logits if nobody else does."""
    value, array = forward.values[logits], forward.array(logits, len(forward.all))
    trace = ours.trace("cross_entropy", value.dtype, (value.elements // value.shape[-1], value.shape[-1]))
    return beside_inputs(trace) + (0 if array < 0 or array in forward.kept_anyway else value.nbytes)

"""Dropout whose mask is saved in bytes or floating numbers, where a bit an element is enough."""

from collections import Counter, defaultdict
from functools import partial
from typing import Any

from residuals_lab.audit.advice.forward import Forward
from residuals_lab.audit.advice.ours import Found, Ours, Place, Saved, beside_inputs, found_advice, iterations
from residuals_lab.frameworks.sites import Read, Site
from residuals_lab.trace import Step
from residuals_lab.trace.costs import COSTS, MAKING

_COMPARISONS = frozenset(["ge", "gt", "le", "lt"])
_FROM_BITS = frozenset(["add", "bitcast_convert_type", "div", "maximum", "mul", "or", "shift_right_logical", "sub"])
_DRAWING = frozenset(["random", "random_fold_in", "random_number", "random_seed", "random_split"])
# The operations from random numbers to a mask.
_OF_DRAWS = _COMPARISONS | _FROM_BITS | MAKING | _DRAWING | {*COSTS["view"].split()}


def find(forward: Forward, ours: Ours) -> Found:
    """Dropout that keeps a bit an element, where the mask is saved in bytes or in floating numbers."""
    found: dict[tuple[str, str, str], Saved] = defaultdict(dict)
    instead: Counter[tuple[str, str, str]] = Counter()
    places = defaultdict[tuple[str, str, str], list[Place]](list)
    has_none = not ours.has_option("flash_attention", "dropout")
    for place, step in forward.primal.items():
        mask = drops(forward, step)
        if mask is not None and (saved := forward.residuals_of({mask}, place)):
            out = forward.values[step.outs[0]]
            is_of_weights = has_none and _is_of_weights(forward, step)
            what = "dropout of weights, which flash_attention has not," if is_of_weights else ""
            key = what or "dropout", step.line, out.dtype
            found[key] |= saved
            nbytes = beside_inputs(ours.trace("dropout", out.dtype, out.shape))
            instead[key] += iterations(saved, out) * nbytes
            places[key].append(partial(_site, place, step, mask))
    for key, these in found.items():
        yield found_advice(key[0], key[1], "dropout", these, instead[key], places=places[key])


def _site(place: int, step: Step, mask: int) -> Site:
    """A dropout of half of the elements in place of a step: what it keeps is the same at any rate."""
    x = next(n for n in step.ins if n != mask)

    return Site("dropout", (Read(place, x),), place, step.outs[0], _half_dropped, is_drawn=True)


def _half_dropped(dropout: Any, x: Any) -> Any:
    return dropout(x, 0.5)


def _is_of_weights(forward: Forward, step: Step) -> bool:
    """Whether a step drops weights of an attention."""
    scaled = [n for n in step.ins if n in forward.makers and forward.makers[n].op in ("div", "mul")]
    for n in (*step.ins, *(n for m in scaled for n in forward.makers[m].ins)):
        _, product = forward.back_to_product(n)
        if product and forward.stages(forward.made_of({*product.outs}), product.outs[0]).get(n) == "weights":
            return True
    return False


def drops(forward: Forward, step: Step) -> int | None:
    """The mask with which a step drops elements of an array, each by a draw of its own, if it does that."""
    if step.op == "random" and len(step.outs) == 2:  # its outputs are the array and the mask
        return step.outs[1]
    if step.op not in ("masked_fill", "mul", "where") or len(step.ins) < 2:
        return None
    size = forward.values[step.outs[0]].elements
    for mask in step.ins:
        by = _by_draws(forward, mask) if forward.values[mask].elements == size > 1 else {}
        is_only_for_it = all(forward.is_read_once(n) for n in by if forward.values[n].elements == size)
        ops = {*by.values()}
        # A draw of numbers that are compared is a mask, and so is one that gives 0 and 1; bits alone are not.
        draws = {op for n, op in by.items() if not forward.values[n].dtype.startswith("uint")} & {"random"}
        draws = draws or ({"random", "random_number"} & ops if ops & _COMPARISONS else set())
        if draws and is_only_for_it:
            return mask
    return None


def _by_draws(forward: Forward, mask: int) -> dict[int, str]:
    """What a mask is made from, with the operation that makes it; nothing if one of them makes no mask of draws."""
    found, todo = dict[int, str](), [mask]
    while todo:
        maker = forward.makers.get(n := todo.pop())
        if maker and maker.op not in _OF_DRAWS:
            return {}
        if maker and n not in found:
            found[n] = maker.op
            todo += maker.ins
    return found

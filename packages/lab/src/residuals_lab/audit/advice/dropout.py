"""Dropout whose mask is saved in bytes or floating numbers, where a bit an element is enough."""

from collections import Counter, defaultdict

from residuals_lab.audit.advice.forward import Forward
from residuals_lab.audit.advice.ours import Found, Ours, Saved, beside_inputs, found_advice, iterations
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
    has_none = not ours.has_option("flash_attention", "dropout")
    for place, step in forward.primal.items():
        mask = drops(forward, step)
        if mask is not None and (saved := forward.residuals_of({mask}, place)):
            out = forward.values[step.outs[0]]
            what = (
                "dropout of weights, which no attention here has," if has_none and _is_of_weights(forward, step) else ""
            )
            key = what or "dropout", step.line, out.dtype
            found[key] |= saved
            nbytes = beside_inputs(ours.trace("dropout", out.dtype, out.shape))
            instead[key] += iterations(saved, out) * nbytes
    for key, these in found.items():
        yield found_advice(key[0], key[1], "dropout", these, instead[key])


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
    for mask in step.ins:
        size, made_from = forward.values[mask].elements, forward.made_from([mask])
        by = [(forward.makers[n].op, n) for n in made_from if n in forward.makers]
        is_only_for_it = all(forward.is_read_once(n) for _, n in by if forward.values[n].elements == size)
        ops = {op for op, _ in by}
        # A draw of numbers that are compared is a mask, and so is one that gives 0 and 1; bits alone are not.
        draws = {op for op, n in by if not forward.values[n].dtype.startswith("uint")} & {"random"}
        draws = draws or ({"random", "random_number"} & ops if ops & _COMPARISONS else set())
        if draws and is_only_for_it and ops <= _OF_DRAWS and size == forward.values[step.outs[0]].elements > 1:
            return mask
    return None

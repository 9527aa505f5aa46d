"""A loss whose logits are saved, where one op of the last layer and the loss keeps none."""

import math
from collections import Counter, defaultdict

from residuals_lab.audit.advice.forward import Forward
from residuals_lab.audit.advice.ours import Found, Held, Ours, beside_inputs, found_advice, iterations


def find(forward: Forward, ours: Ours) -> Found:
    """A loss that holds no logits, where those of a product are held to take from each row what its label says."""
    found: dict[str, Held] = defaultdict(dict)
    instead: Counter[str] = Counter()
    for step in forward.steps:
        if step.op not in ("nll_loss", "gather") or not step.ins:
            continue
        values, product = forward.back_to_product(step.ins[0])
        if product is None or len(product.ins) != 2 or (step.op == "nll_loss" and len(step.ins) != 2):
            continue  # a bias, or weights of classes
        values = forward.made_of(values)
        held, logits = forward.held(values), forward.values[step.ins[0]]
        if held and forward.is_softmax(product, step, step.ins[0]):
            classes = logits.shape[-1]
            left, right = (forward.values[n] for n in product.ins[-2:])
            features = math.isqrt(left.elements * right.elements // logits.elements)
            shapes = [(logits.elements // classes, features), (classes, features)]
            trace = ours.trace("linear_cross_entropy", left.dtype, *shapes)
            found[step.line] |= held
            instead[step.line] += iterations(held, logits) * beside_inputs(trace)
    for line, these in found.items():
        yield found_advice("cross entropy", line, "linear_cross_entropy", these, instead[line])

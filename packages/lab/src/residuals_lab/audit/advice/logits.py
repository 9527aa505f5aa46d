"""A loss whose logits are saved, where one op of the last layer and the loss keeps none."""

import math
from collections import Counter, defaultdict

from residuals_lab.audit.advice.forward import Forward
from residuals_lab.audit.advice.ours import Found, Ours, Saved, beside_inputs, found_advice, iterations


def find(forward: Forward, ours: Ours) -> Found:
    """A loss that saves no logits, where logits of a product are saved to take from each row the one of its label."""
    found: dict[str, Saved] = defaultdict(dict)
    instead: Counter[str] = Counter()
    for step in forward.steps:
        if step.op not in ("nll_loss", "gather") or not step.ins:
            continue
        values, product = forward.back_to_product(step.ins[0])
        if product is None or len(product.ins) != 2 or (step.op == "nll_loss" and len(step.ins) != 2):
            continue  # our op has no bias and no weights of classes
        values = forward.made_of(values)
        saved, logits = forward.residuals_of(values), forward.values[step.ins[0]]
        if saved and forward.is_softmax(product, step, step.ins[0]):
            classes = logits.shape[-1]
            left, right = (forward.values[n] for n in product.ins[-2:])
            features = math.isqrt(left.elements * right.elements // logits.elements)
            shapes = [(logits.elements // classes, features), (classes, features)]
            trace = ours.trace("linear_cross_entropy", left.dtype, *shapes)
            found[step.line] |= saved
            instead[step.line] += iterations(saved, logits) * beside_inputs(trace)
    for line, these in found.items():
        yield found_advice("cross entropy", line, "linear_cross_entropy", these, instead[line])

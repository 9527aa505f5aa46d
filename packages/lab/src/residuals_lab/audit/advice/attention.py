"""Attention whose weights are saved, where flash attention keeps one number a row."""

import math
from collections import Counter, defaultdict

from residuals_lab.audit.advice.forward import Forward
from residuals_lab.audit.advice.ours import Found, Ours, Saved, beside_inputs, found_advice, iterations
from residuals_lab.trace import Value


def find(forward: Forward, ours: Ours) -> Found:
    """Flash attention where scores, and values made of them, are saved between one product and the next."""
    values = forward.values
    found: dict[str, Saved] = defaultdict(dict)
    instead: Counter[str] = Counter()
    for step in forward.steps:
        for operand in step.ins if step.op == "matmul" else ():
            scores, product = forward.back_to_product(operand)
            saved = forward.residuals_of(scores)
            if product and saved and forward.is_softmax(product, step, operand):
                found[step.line] |= saved
                instead[step.line] += iterations(saved, values[operand]) * _flash_bytes(
                    ours, values[operand], values[step.outs[0]]
                )
    for line, these in found.items():
        yield found_advice("attention", line, "flash_attention", these, instead[line])


def _flash_bytes(ours: Ours, scores: Value, out: Value) -> int:
    """The bytes that flash attention saves beside q, k and v, for scores and an output of these shapes."""
    *lead, queries, keys = scores.shape
    heads = math.prod(lead)
    features = max(out.elements // (heads * queries), 1)
    shapes = [(heads, tokens, features) for tokens in (queries, keys, keys)]
    return beside_inputs(ours.trace("flash_attention", out.dtype, *shapes))

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
    own: dict[str, str] = {}
    biases = set[int]()  # that are made of something given, each an array to keep once
    for step in forward.steps:
        for operand in step.ins if step.op == "matmul" else ():
            scores, product = forward.back_to_product(operand)
            saved = forward.residuals_of(scores)
            if product and saved and forward.is_softmax(product.outs[0], step, operand):
                found[step.line] |= saved
                instead[step.line] += iterations(saved, values[operand]) * _flash_bytes(
                    ours, values[operand], values[step.outs[0]]
                )
                shapes = _shapes(values[operand], values[step.outs[0]])
                own[step.line] = ours.own("flash_attention", values[step.outs[0]].dtype, *shapes)
                for bias in _biases(forward, scores, product.outs[0]) - forward.kept_anyway - biases:
                    biases.add(bias)
                    instead[step.line] += forward.nbytes(bias)
    for line, these in found.items():
        yield found_advice("attention", line, "flash_attention", these, instead[line], own=own[line])


def _flash_bytes(ours: Ours, scores: Value, out: Value) -> int:
    """The bytes that flash attention saves beside q, k and v, for scores and an output of these shapes."""
    return beside_inputs(ours.trace("flash_attention", out.dtype, *_shapes(scores, out)))


def _shapes(scores: Value, out: Value) -> list[tuple[int, ...]]:
    """The shapes of q, k and v, in a batch of one."""
    *lead, queries, keys = scores.shape
    heads = math.prod(lead)
    features = max(out.elements // (heads * queries), 1)
    return [(1, heads, tokens, features) for tokens in (queries, keys, keys)]


def _biases(forward: Forward, scores: set[int], product: int) -> set[int]:
    """The arrays that are added to scores, but for one made of nothing given: a causal mask, say, which an op makes."""
    added = {n for s in forward.made_of({product}) & scores for n in forward.added_to(s)}
    given = {n for n in added if not forward.made_from([n]).isdisjoint(forward.alive)}
    return {array for n in given if (array := forward.array(n, len(forward.all))) >= 0}

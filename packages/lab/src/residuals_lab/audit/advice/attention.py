"""Attention whose weights are saved, where flash attention keeps one number a row; and one whose weights are dropped,
where ours keeps them once.
"""

import math
from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial
from typing import Any

from residuals_lab.audit.advice import attended
from residuals_lab.audit.advice.dropout import drops
from residuals_lab.audit.advice.forward import Forward
from residuals_lab.audit.advice.ours import Found, Ours, Place, Saved, beside_inputs, found_advice, iterations
from residuals_lab.trace import Value


def find(forward: Forward, ours: Ours) -> Found:
    """Flash attention where scores, and values made of them, are saved between one product and the next; attention with
    dropout where weights are dropped in between.
    """
    values = forward.values
    found: dict[tuple[str, str], Saved] = defaultdict(dict)  # by line and op
    instead: Counter[tuple[str, str]] = Counter()
    own: dict[tuple[str, str], tuple[Any, ...]] = {}  # the call of the framework's own op, as `Ours` takes it
    places = defaultdict[tuple[str, str], list[Place]](list)
    biases = set[int]()  # that are made of something given, each an array to keep once
    for place, step in enumerate(forward.all):
        for operand in step.ins if step.op == "matmul" else ():
            scores, product = forward.back_to_product(operand)
            if not product or not forward.residuals_of(scores):
                continue
            masks = _masks(forward, scores)
            if not forward.is_softmax(product.outs[0], step, operand, dropped=masks):
                continue
            key = step.line, "attention" if masks else "flash_attention"
            saved = forward.residuals_of(scores | {*masks.values()})
            found[key] |= saved
            shapes = _shapes(values[operand], values[step.outs[0]])
            dtype = values[step.outs[0]].dtype
            instead[key] += iterations(saved, values[operand]) * beside_inputs(ours.trace(key[1], dtype, *shapes))
            places[key].append(partial(attended.site, forward, product, step, operand, key[1]))
            given = [*product.ins[-2:], *(n for n in step.ins if n != operand)]
            instead[key] += forward.unkept([_unscaled(forward, n) for n in given])
            if masks:
                continue
            is_kept = forward.array(step.outs[0], place + 1) in forward.kept_anyway
            if is_kept and forward.views_share:  # else the op's output, in its own shape, is an array besides
                instead[key] -= _output_bytes(ours, values[operand], values[step.outs[0]])
            rank = max(len(values[n].shape) for n in scores)  # a product may be of a view in three dimensions
            own[key] = "flash_attention", dtype, *_shapes(values[operand], values[step.outs[0]], rank)
            for bias in _biases(forward, scores, product.outs[0]) - forward.kept_anyway - biases:
                biases.add(bias)
                instead[key] += forward.nbytes(bias)
    for (line, op), these in found.items():
        what, options = ("attention with dropout", "dropout=rate, key=key") if op == "attention" else ("attention", "")
        call = own.get((line, op))
        name, key = ours.own(*call) if call else "", (line, op)
        saved, advice = found_advice(what, line, op, these, instead[key], options, name, places[key])
        yield saved, replace(advice, is_own_once=ours.is_own_once(*call) if call and name else False)


def _masks(forward: Forward, scores: set[int]) -> dict[int, int]:
    """What dropout makes of one of these values, with its mask."""
    makers = [forward.makers[n] for n in scores]
    return {step.outs[0]: mask for step in makers if (mask := drops(forward, step)) is not None}


def _unscaled(forward: Forward, n: int) -> int:
    """The first array that is kept among this value and those of which it is a view, or a multiple by a number: the op
    takes that as it is. If none is kept, the one that all are made of.
    """
    while forward.unkept([n]) and (maker := forward.makers.get(n)) is not None:
        arrays = [i for i in maker.ins if forward.values[i].elements > 1]
        if len(arrays) != 1 or not (maker.cost == "view" or maker.op in ("mul", "div")):
            break
        n = arrays[0]
    return n


def _output_bytes(ours: Ours, scores: Value, out: Value) -> int:
    """The bytes of the output, if flash attention keeps it: none more where somebody else keeps it anyway."""
    trace = ours.trace("flash_attention", out.dtype, *_shapes(scores, out))
    return sum(r.storage_bytes for r in trace.residuals if r.kind == "output")


def _shapes(scores: Value, out: Value, rank: int = 4) -> list[tuple[int, ...]]:
    """The shapes of q, k and v in as many dimensions as they have, of four or more in a batch of one."""
    *lead, queries, keys = scores.shape
    heads = math.prod(lead)
    features = max(out.elements // (heads * queries), 1)
    batch = ((), (heads,), (1, heads))[min(max(rank, 2), 4) - 2]
    return [(*batch, tokens, features) for tokens in (queries, keys, keys)]


def _biases(forward: Forward, scores: set[int], product: int) -> set[int]:
    """The arrays that are added to scores, but for one made of nothing given: a causal mask, say, which an op makes."""
    added = {(n, forward.made_at[s][0]) for s in forward.made_of({product}) & scores for n in forward.added_to(s)}
    given = {(n, place) for n, place in added if not forward.made_from([n]).isdisjoint(forward.alive)}
    return {array for n, place in given if (array := forward.array(n, place)) >= 0}  # each call may have a copy

"""How attention is called in place of the steps that somebody's own code takes: two products and a softmax."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from residuals_lab.audit.advice.forward import Forward
from residuals_lab.audit.advice.literals import numbers, operands
from residuals_lab.audit.advice.products import Factor, factors
from residuals_lab.frameworks.sites import Numbers, Read, Site, Unplaced
from residuals_lab.trace import Step


class _Axes(NamedTuple):
    """Where rows and columns of a product are among the axes of scores, counted from the first."""

    rows: int
    columns: int

    def are_last(self, shape: Sequence[int]) -> bool:
        return {*self} == {len(shape) - 2, len(shape) - 1}


class _Part(NamedTuple):
    """A bias, a mask, or a factor of the scores, as an array."""

    what: str  # "bias", "mask", "hides" for a mask of what is hidden, "scale", "divisor"
    read: Read


def site(forward: Forward, product: Step, end: Step, operand: int, op: str) -> Site:
    """Attention for what the step `end` makes of the weights, its operand, that come of a product; "attention" is the
    one whose weights are dropped, half of them: what it keeps is the same at any rate.
    """
    path = _path(forward, product, operand)
    value = forward.values[product.outs[0]]
    axes, scale, parts, lead = _Axes(len(value.shape) - 2, len(value.shape) - 1), 1.0, list[_Part](), None
    at = forward.made_at[product.outs[0]][-1]
    reads = [Read(at, n) for n in product.ins[-2:]]
    if len(product.ins) == 3:
        _, options = operands(product, forward.keys) or ((), {})
        if options.get("beta", 1) != 1:
            raise Unplaced("a bias has a factor")
        parts.append(_Part("bias", Read(at, product.ins[0])))
        scale, lead = options.get("alpha", 1), value.shape
    between = factors(forward, product)
    if any(len(factor.free) != 1 for factor in between):
        raise Unplaced("a factor of its scores has several axes of rows")
    is_turned: bool | None = None  # whether the product is of keys and queries; the softmax tells
    for place, n in path:
        step = forward.all[place]
        before, after = forward.values[n].shape, forward.values[step.outs[0]].shape
        if step.op in ("softmax", "log_softmax", "exp"):
            if not axes.are_last(before):
                raise Unplaced("its softmax is not along the keys")
            is_turned, lead = axes.rows > axes.columns, lead or before
        elif step.cost == "view" or step.op == "convert":
            axes = _Axes(*(_moved(forward, step, axis, before, after) for axis in axes))
        elif is_turned is None and step.op != "sub":
            factor, part = _part(forward, step, place, n)
            if part and part.what in ("bias", "mask", "hides"):
                if not axes.are_last(before):
                    raise Unplaced("a mask or a bias is added to scores whose axes are moved")
                lead = before if lead is None or len(before) > len(lead) else lead
            elif any(p.what == "bias" for p in parts):
                raise Unplaced("scores have a factor behind a bias")
            scale *= factor
            parts += [part] if part else []
    weights_first = end.ins[-2] == operand
    weights, values = factors(forward, end)[:: 1 if weights_first else -1]
    keys = axes.rows if is_turned else axes.columns
    if weights.summed != keys or weights.batch != tuple(range(len(weights.batch))) or len(values.free) != 1:
        raise Unplaced("its weights meet the values along another axis")
    place = forward.made_at[end.outs[0]][-1]
    reads += [Read(place, end.ins[-1] if weights_first else end.ins[-2]), *(part.read for part in parts)]
    make = _Make(scale, tuple(parts), lead or (), bool(is_turned), (*between, values))
    is_drawn = op == "attention"
    make = replace(make, options={"dropout": 0.5} if is_drawn else {})
    made = Site(op, tuple(reads), place, end.outs[0], make, is_drawn)
    return replace(made, settled=partial(_settled, made, make))


def _settled(site: Site, make: "_Make", numbers: Numbers) -> Site:
    """The call with the op's own causal mask or window, where the mask or the bias is one."""
    reads, parts, options = [*site.reads[:3]], list[_Part](), {**make.options}
    for part in make.parts:
        known = numbers(part.read)
        if known is not None and part.what in ("scale", "divisor"):
            make = replace(make, scale=make.scale * float(known) ** (1 if part.what == "scale" else -1))
            continue
        known = known if part.what in ("bias", "mask", "hides") and "is_causal" not in options else None
        found = None if known is None else _band(known, part.what)
        if found is None:
            reads.append(part.read)
            parts.append(part)
        options |= found or {}
    return replace(site, reads=tuple(reads), make=replace(make, parts=tuple(parts), options=options))


def _band(a: Any, what: str) -> dict[str, Any] | None:
    """The options of the op that hide what a mask hides, or a bias that is 0 elsewhere; None if there are none."""
    kept = a == 0 if what == "bias" else ~a if what == "hides" else a
    if a.ndim < 2 or (what == "bias" and np.any(a[~kept] > -1e4)):
        return None
    rows, columns = a.shape[-2:]
    kept = kept.reshape(-1, rows, columns)
    if not np.all(kept == kept[:1]):
        return None
    if kept.all():
        return {}
    back = np.arange(rows)[:, None] - np.arange(columns)
    window = int(back[kept[0]].max(initial=0)) + 1
    if not np.array_equal(kept[0], (back >= 0) & (back < window)):
        return None
    return {"is_causal": True, **({"window": window} if window < min(rows, columns) else {})}


@dataclass(frozen=True)
class _Make:
    """The call of attention on the operands of both products and on what is added to the scores."""

    scale: float
    parts: Sequence[_Part]
    scores: tuple[int, ...]  # their shape, with which a bias and a mask are broadcast
    is_turned: bool  # the product is of keys and queries
    factors: tuple[Factor, Factor, Factor]  # of the scores two, and the values
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, attention: Any, left: Any, right: Any, v: Any, *arrays: Any) -> Any:
        left, right, v = (factor.matrix(a) for factor, a in zip(self.factors, (left, right, v), strict=True))
        q, k = (right.mT, left) if self.is_turned else (left, right.mT)
        lead, is_right = self.scores[:-2] or (1,), not self.factors[2].is_left
        q, k, v = (a.reshape(*lead, *a.shape[-2:]) for a in (q, k, v if is_right else v.mT))
        options: dict[str, Any] = {"scale": self.scale, **self.options}
        for (what, _), a in zip(self.parts, arrays, strict=True):
            if what in ("scale", "divisor"):
                options["scale"] = options["scale"] * a if what == "scale" else options["scale"] / a
                continue
            a = _broadcast(a, lead)
            if what == "bias":
                options["bias"] = options["bias"] + a if "bias" in options else a
            else:
                mask = ~a if what == "hides" else a
                options["mask"] = options["mask"] & mask if "mask" in options else mask
        out = attention(q, k, v, **options)
        return out if is_right else out.mT


def _broadcast(a: Any, lead: tuple[int, ...]) -> Any:
    """A bias or a mask in a shape that is broadcast with scores of these leading axes."""
    its = tuple(a.shape[:-2])
    if len(its) <= len(lead) and all(n in (1, m) for n, m in zip(its[::-1], lead[::-1], strict=False)):
        return a
    if math.prod(its) == math.prod(lead):
        return a.reshape(*lead, *a.shape[-2:])
    if math.prod(its) == 1:
        return a.reshape(*a.shape[-2:])
    raise Unplaced("a mask or a bias has other axes than the scores")


def _path(forward: Forward, product: Step, operand: int) -> list[tuple[int, int]]:
    """The steps from a product to an operand, each with the value of the scores' size that it reads."""
    made, n = forward.made_of({product.outs[0]}), operand
    path = list[tuple[int, int]]()
    while n != product.outs[0]:
        place = forward.made_at[n][-1]
        ins = [i for i in forward.all[place].ins if i in made]
        if len(ins) != 1 or len(path) > 64:
            raise Unplaced("its scores are not followed from one product to the next")
        n = ins[0]
        path.append((place, n))
    return path[::-1]


def _part(forward: Forward, step: Step, place: int, n: int) -> tuple[float, _Part | None]:
    """The factor that a step gives scores, or the array that it adds, multiplies or hides them with."""
    others = [i for i in step.ins if i != n]
    if step.op in ("mul", "div"):
        found = numbers(step, forward.keys)
        if not others and found:
            return (found[0] if step.op == "mul" else 1 / found[0]), None
        if len(others) == 1 and forward.values[others[0]].elements == 1:
            return 1.0, _Part("scale" if step.op == "mul" else "divisor", Read(place, others[0]))
        raise Unplaced("scores are multiplied with an array")
    if step.op == "add" and len(others) == 1:
        return 1.0, _Part("bias", Read(place, others[0]))
    if step.op in ("where", "masked_fill"):
        mask = next(i for i in step.ins if forward.values[i].dtype == "bool")
        first = 2 if str(forward.keys[step.outs[0]][1]).startswith("{") else 1  # JAX gives the one for False first
        is_kept = step.op == "where" and step.ins[first] == n
        return 1.0, _Part("mask" if is_kept else "hides", Read(place, mask))
    raise Unplaced(f"{step.op} of the scores is no part of the op")


def _moved(forward: Forward, step: Step, axis: int, before: Sequence[int], after: Sequence[int]) -> int:
    """Where an axis of an array is after a view of it."""
    args, _ = operands(step, forward.keys) or ((), {})
    text = str(forward.keys.get(step.outs[0], ("", ""))[1])
    if step.op in ("permute", "transpose") and len(before) == len(after):
        found = re.search(r"'permutation': \(([\d, ]*)\)", text)
        if found:
            return [int(i) for i in found[1].replace(",", " ").split()].index(axis)
        if step.op == "permute":
            return [i % len(before) for i in args[1]].index(axis)
        pair = [i % len(before) for i in args[1:3]] or [0, 1]
        return pair[1 - pair.index(axis)] if axis in pair else axis
    if before == after:
        return axis
    size, first = before[axis], math.prod(before[:axis])
    same = [i for i, n in enumerate(after) if n == size and math.prod(after[:i]) == first]
    if not same:
        raise Unplaced("an axis of its scores is split or joined")
    return same[-1]

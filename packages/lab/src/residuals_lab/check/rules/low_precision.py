"""In bfloat16 or float16 the gradient is less exact than plain autodiff's.

Gradients of parameters are summed in the low precision itself, statistics are kept in it, or something overflows. The
error against float64 is compared with that of plain autodiff in the same dtype: at most twice, and one rounding.

Where no reference in the framework is given there is no plain autodiff of the same function. The error is then that
against the function itself in float64, and may be several times what rounding the arguments alone makes: only gross
faults are seen.

Accumulate in float32, keep statistics in float32, and cast at the end.
"""

from collections.abc import Sequence

import numpy as np

from residuals_lab.check.subject import PLAIN, NotRun, Raised, Subject
from residuals_lab.finding import Finding
from residuals_lab.ops.tolerance import error, limit

ROWS, ELEMENTS = 2048, 1 << 17  # as many as these, of which a sum in bfloat16 is far off
MARGIN = 3.0  # what rounding inside may be worse than rounding of the arguments
EXAMPLES = {
    "torch": """
import torch

class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        dweight = torch.zeros_like(weight)
        for row in (g * x).flatten(0, -2):  # wrong
        # right: for row in [(g * x).sum_to_size(weight.shape)]:
            dweight = dweight + row
        return g * weight, dweight

def fn(x, weight):
    return Scale.apply(x, weight)
""",
    "jax": """
import math

import jax
import jax.numpy as jnp

@jax.custom_vjp
def fn(x, weight):
    return x * weight

def bwd(kept, g):
    x, weight = kept
    rows = (g * x).reshape(math.prod(g.shape[:-1]), len(weight))
    total, _ = jax.lax.scan(lambda total, row: (total + row, None), jnp.zeros_like(weight), rows)  # wrong
    # right: total = rows.sum(0)
    return g * weight, total

fn.defvjp(lambda x, weight: (x * weight, (x, weight)), bwd)
""",
}
ARGUMENTS = ("f64[4,6]", "f64[6]")


def find(subject: Subject) -> Finding | None:
    reference = subject.reference.fn
    if reference is None:
        return _beside_float64(subject)
    for dtype in ("bfloat16",) if subject.is_quick else ("float32", "bfloat16", "float16"):
        low = subject.at(subject.numbers, dtype)
        try:
            with low.guarded():
                rounded = [low.calls.to_numpy(a) for a in low.fresh()]
                gs = [low.calls.to_numpy(g) for g in low.cotangents(low.calls.forward(low.fn, low.fresh()), subject.gs)]
            found, plain = low.run(gs).grads, low.with_fn(reference).run(gs).grads
            truth = subject.at(rounded).with_fn(reference).run(gs).grads
        except Raised:
            continue  # one of the two does not take this dtype
        for place, (d, p, t) in enumerate(zip(found, plain, truth, strict=True)):
            if d is None or p is None or t is None or not np.isfinite(p).all():
                continue
            worst, allowed = error(d, t), limit(dtype, error(p, t))
            if not worst <= allowed:
                return _finding(subject.name(place), dtype, "plain autodiff's", allowed, worst)
    return None


def _finding(name: str, dtype: str, others: str, allowed: float, worst: float) -> Finding:
    return Finding(
        "low-precision",
        f"in {dtype} the gradient of {name} is less exact than {others}",
        f"an error of at most {allowed:.1e}, relative to the largest number",
        f"{worst:.1e}",
        "parameters with such gradients stop learning early, or not at all",
        "accumulate and keep statistics in float32, and cast the result",
    )


def _beside_float64(subject: Subject) -> Finding | None:
    """The gradient in bfloat16 beside that of the function itself in float64, with many rows where it takes them."""
    if not subject.has_rule:
        raise NotRun(PLAIN)
    if subject.dtype != "float64" or subject.is_random:
        raise NotRun("there is no gradient in float64 beside it")
    if any(np.iscomplexobj(a) for a in (*subject.numbers, *subject.outs)):
        raise NotRun("complex numbers have no dtype that is less exact than float32")
    low = subject.at(_with_rows(subject), "bfloat16")
    try:
        with low.guarded():
            rounded = [low.calls.to_numpy(a) for a in low.fresh()]
            outs = low.calls.forward(low.fn, low.fresh())
            gs = [
                low.calls.to_numpy(g) for g in low.cotangents(outs, low.noise([low.calls.to_numpy(y) for y in outs], 1))
            ]
        found, high = low.run(gs).grads, subject.at(rounded)
        truth, moved = high.run(gs).grads, [subject.at(n).run(gs).grads for n in _moved(subject, rounded)]
    except Raised:
        return None  # it does not take bfloat16
    for place, (d, t) in enumerate(zip(found, truth, strict=True)):
        if d is None or t is None or not np.isfinite(t).all():
            continue
        by_rounding = max(_error(m[place], t) for m in moved)
        worst, allowed = _error(d, t), limit("bfloat16", MARGIN * by_rounding)
        if not worst <= allowed:
            return _finding(subject.name(place), "bfloat16", "rounding of its arguments explains", allowed, worst)
    return None


def _error(d: np.ndarray | None, t: np.ndarray) -> float:
    return 0.0 if d is None else error(d, t)


def _moved(subject: Subject, numbers: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """The numbers moved by a rounding in bfloat16, three times."""
    rng, wrt = subject.rng(8), {*subject.wrt}
    return [
        [n * (1 + 2.0**-8 * rng.uniform(-1, 1, n.shape)) if i in wrt else n for i, n in enumerate(numbers)]
        for _ in range(3)
    ]


def _with_rows(subject: Subject) -> list[np.ndarray]:
    """The numbers with many rows in the arrays of the highest rank, where the function takes that and its results grow
    no faster than these.
    """
    rank = max(n.ndim for n in subject.numbers)
    rows = [n for n in subject.numbers if rank and n.ndim == rank and n.size and n.dtype.kind == "f"]
    if not rows:
        return subject.numbers
    times = 1 + min(min(ROWS // len(n), ELEMENTS // n.size) for n in rows)
    try:
        twice = subject.at(_repeated(subject, rank, 2)).outs
        is_linear = all(y.size <= 2 * one.size for y, one in zip(twice, subject.outs, strict=True))
        tall = _repeated(subject, rank, times if is_linear else 1)
        return tall if [y.ndim for y in subject.at(tall).outs] == [y.ndim for y in subject.outs] else subject.numbers
    except (Raised, ValueError):
        return subject.numbers


def _repeated(subject: Subject, rank: int, times: int) -> list[np.ndarray]:
    """The numbers with so many times the rows in the arrays of this rank, and others in each."""
    rng, made = subject.rng(9), []
    for n in subject.numbers:
        if n.ndim == rank and n.size and n.dtype.kind == "f":
            n = np.concatenate([n] * times)
            n = np.where(np.isfinite(n), n * rng.uniform(0.5, 1.5, n.shape), n)
        made.append(n)
    return made

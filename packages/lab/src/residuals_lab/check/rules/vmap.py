"""Under `vmap` the gradient is another one than in a loop.

A rule for vmap that somebody wrote by hand puts the batch axis in the wrong place, or handles one `in_axes` only; or
the backward counts axes from the left, reduces over all of them, or asks for a size.

A rule that says nothing about vmap refuses, which is worth knowing and no fault.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from residuals_lab.check.subject import NotRun, Raised, Subject, Wrong
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch

class Triple(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return 3 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return 3 * g

    @staticmethod
    def vmap(info, in_dims, x):
        return Triple.apply(x), 0  # wrong
        # right: return Triple.apply(x), in_dims[0]

def fn(x):
    return Triple.apply(x)
""",
    "jax": """
import jax
import jax.numpy as jnp

@jax.custom_batching.custom_vmap
def triple(g):
    return 3 * g

@triple.def_vmap
def _(size, is_batched, g):
    return 3 * g[::-1], True  # wrong
    # right: return 3 * g, True

@jax.custom_vjp
def fn(x):
    return 3 * x

fn.defvjp(lambda x: (3 * x, None), lambda _, g: (triple(g),))
""",
}
BATCH = 3


def find(subject: Subject) -> Finding | None:
    if subject.is_random:
        raise NotRun("the function draws random numbers")
    right, refused = list[str](), dict[str, Raised]()
    for axes in _in_axes(subject):
        batch = _batched(subject, axes)
        try:
            wrong = _wrong(subject, batch, axes)
        except Raised as problem:
            refused[_shown(axes)] = problem
            continue
        right.append(_shown(axes))
        if wrong:
            return _finding(_shown(axes), "the gradient or the value is another one", wrong.is_expected, wrong.is_got)
    for shown, raised in refused.items():
        if right and not subject.calls.refuses(raised.problem):
            return _finding(shown, "it raises", f"a gradient, as with {right[0]}", str(raised))
    if refused:
        subject.refused("vmap", next(iter(refused.values())))
    return None


def _finding(axes: str, what: str, expected: str, got: str) -> Finding:
    return Finding(
        "vmap",
        f"under vmap with in_axes {axes} {what}",
        f"{expected}, as in a loop",
        got,
        "gradients for single samples, ensembles and Jacobians go through vmap",
        "put the batch axis where the rule says it is, and count axes from the right",
    )


def _in_axes(subject: Subject) -> Iterator[list[int | None]]:
    """For each argument the axis of the batch: all first, all last, and one of them alone."""
    wrt, count = subject.wrt, len(subject.inputs)
    yield [0 if i in wrt else None for i in range(count)]
    yield [subject.numbers[i].ndim if i in wrt else None for i in range(count)]
    for alone in wrt if len(wrt) > 1 and not subject.is_quick else ():
        yield [0 if i == alone else None for i in range(count)]


def _batched(subject: Subject, axes: Sequence[int | None]) -> list[list[np.ndarray]]:
    """The numbers of each sample of a batch."""
    rng = subject.rng(7)
    scales = 1 + 0.1 * rng.standard_normal(BATCH)
    return [
        [
            n if axis is None else np.where(np.isfinite(n), n * s, n)
            for n, axis in zip(subject.numbers, axes, strict=True)
        ]
        for s in scales
    ]


def _wrong(subject: Subject, batch: list[list[np.ndarray]], axes: Sequence[int | None]) -> Wrong | None:
    gs = [np.stack([np.roll(g, k) for k in range(BATCH)]) for g in subject.gs]
    stacked = [
        samples[0] if axis is None else np.stack(samples, axis)
        for samples, axis in zip(zip(*batch, strict=True), axes, strict=True)
    ]
    with subject.guarded():
        outs = subject.calls.forward(subject.fn, subject.fresh())
        made = [None if g is None else subject.calls.like(y, g) for y, g in zip(outs, gs, strict=True)]
        found = subject.ran(*subject.calls.batched_vjp(subject.fn, subject.fresh(stacked), subject.wrt, made, axes))
    loop = [subject.at(numbers).run([g[k] for g in gs]) for k, numbers in enumerate(batch)]
    outs_in_loop = [np.stack(ys) for ys in zip(*(ran.outs for ran in loop), strict=True)]
    names = [f"output {i}" for i in range(len(outs_in_loop))]
    expected = [
        None if any(d is None for d in ds) else np.stack([d for d in ds if d is not None])
        for ds in zip(*(ran.grads for ran in loop), strict=True)
    ]
    return subject.first_apart(found.outs, outs_in_loop, names) or subject.first_apart(found.grads, expected)


def _shown(axes: Sequence[int | None]) -> str:
    return f"({', '.join(map(str, axes))}{',' if len(axes) == 1 else ''})"

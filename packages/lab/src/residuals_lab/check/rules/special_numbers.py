"""The gradient is wrong at special numbers: ties, zeros, a large mean, a row that is masked.

The derivative is right in general and wrong where a branch is taken: at 0, between equal numbers, for rows of −inf that
the forward handles, far from 0. Random numbers never get there; padding, dead units and masks always do.

Treat in the backward each case that the forward treats, in the same way.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from residuals_lab.check.subject import Raised, Subject
from residuals_lab.check.truth import Differences, directions
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch

class Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        live = (x > -torch.inf).any(-1, keepdim=True)
        ctx.save_for_backward(x, live)
        return torch.where(live, x.exp().sum(-1, keepdim=True), 0)

    @staticmethod
    def backward(ctx, g):
        x, live = ctx.saved_tensors
        return g * x.exp() + 0 * x  # wrong
        # right: return g * x.exp() * live

def fn(x):
    return Mean.apply(x)
""",
    "jax": """
import jax
import jax.numpy as jnp

@jax.custom_vjp
def fn(x):
    return jnp.where(x > 40, x, jnp.log1p(jnp.exp(jnp.minimum(x, 40))))

def bwd(x, g):
    return (g * jnp.where(x > 20, 2, jax.nn.sigmoid(x)),)  # wrong
    # right: return (g * jax.nn.sigmoid(x),)

fn.defvjp(lambda x: (fn(x), x), bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    for what, place, numbers in _special(subject):
        at = subject.at(numbers)
        try:
            if not all(np.isfinite(y).all() for y in at.outs) or not at.has_truth:
                continue
            if isinstance(at.truth, Differences) and at.truth.eps > 1e-12:
                continue  # differences are too coarse beside a jump of the second derivative
            gs = [np.where(ok, g, 0) for ok, g in zip(_is_linear(at), at.gs, strict=True)]
            grads = at.run(gs).grads
        except Raised:
            continue  # not a number that the function takes
        if any(d is not None and not np.isfinite(d).all() for p, d in enumerate(grads) if p != place):
            continue  # 0·∞ in plain code too, as in the gradient of a weight of what is −inf
        own = grads[place]
        if own is not None and not np.isfinite(own).all():
            return _finding(at.name(place), what, "finite numbers, as those of the value", "NaN or infinity")
        if wrong := at.first_wrong(grads, gs):
            return _finding(wrong.name, what, wrong.is_expected, wrong.is_got)
    return None


def _is_linear(at: Subject) -> list[np.ndarray]:
    """Where the change along the sum of two directions is the sum of the changes: not between ties of a sort, though
    the middle one of three moves as much to one side as to the other.
    """
    found = [np.ones(np.shape(y), bool) for y in at.outs]
    if isinstance(at.truth, Differences):
        for place, vs in enumerate(at.directions):
            # More than one pair: in all directions of a pair the middle one may be the same by chance.
            for one, two in pairwise([*vs, *directions(at.rng(10), at.numbers[at.wrt[place]], 3)]):
                a, b, both = (at.truth.change(place, v) for v in (one, two, one + two))
                parts = zip(a.outs, b.outs, both.outs, a.errors, b.errors, both.errors, strict=True)
                near = [np.abs(x + y - z) <= e + f + h + 1e-6 * np.abs(z) for x, y, z, e, f, h in parts]
                found = [ok & n & s for ok, n, s in zip(found, near, both.is_smooth, strict=True)]
    return found


def _finding(name: str, what: str, expected: str, got: str) -> Finding:
    return Finding(
        "special-numbers",
        f"the gradient of {name} is wrong at {what}",
        expected,
        got,
        "random numbers never get there; padding, dead units and masks do",
        "treat in the backward each case that the forward treats, in the same way",
    )


def _special(subject: Subject) -> Iterator[tuple[str, int, list[np.ndarray]]]:
    """What is special, in which differentiated argument, and the numbers: it is the first one of the highest rank."""
    i = max(subject.wrt, key=lambda i: subject.numbers[i].ndim)
    x = subject.numbers[i]
    if not x.ndim or not x.size or np.iscomplexobj(x):
        return
    made = {"zeros and ties": x.copy(), "numbers around 30 and −30": x + 30, "a row of −inf": x.copy()}
    made["zeros and ties"][..., : (x.shape[-1] + 1) // 2] = 0
    made["zeros and ties"][-1:] = x.flat[0]
    made["numbers around 30 and −30"][1::2] -= 60
    made["a row of −inf"][:1] = -np.inf
    for what, special in made.items():
        numbers = list(subject.numbers)
        numbers[i] = special
        yield what, subject.wrt.index(i), numbers

"""The gradient is NaN or infinite where the value is finite and smooth.

At 0 a quotient is 0/0 or a root has an infinite slope; far out an exponential overflows in the backward though the
forward guards against it. One such number makes every parameter NaN.

Use the guarded form in the backward too; replace what is not used by `where` before it is computed, not after.
"""

from collections.abc import Iterator

import numpy as np

from residuals_lab.check.subject import Raised, Subject
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch

class Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sigmoid(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * torch.exp(-x) / (1 + torch.exp(-x)) ** 2  # wrong
        # right: return g * torch.sigmoid(x) * torch.sigmoid(-x)

def fn(x):
    return Sigmoid.apply(x)
""",
    "jax": """
import jax
import jax.numpy as jnp

@jax.custom_vjp
def fn(x):
    return jnp.sinc(x)

def bwd(x, g):
    return (g * (jnp.cos(jnp.pi * x) - jnp.sinc(x)) / x,)  # wrong
    # right: return (g * jnp.where(x == 0, 0, (jnp.cos(jnp.pi * x) - jnp.sinc(x)) / jnp.where(x == 0, 1, x)),)

fn.defvjp(lambda x: (jnp.sinc(x), x), bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    for what, numbers in _extremes(subject):
        at = subject.at(numbers)
        try:
            outs = at.outs
            if not all(np.isfinite(y).all() for y in outs):
                continue
            grads = at.run(at.noise(outs, 1)).grads
            if all(d is None or np.isfinite(d).all() for d in grads) or not all(np.all(ok) for ok in at.is_smooth):
                continue  # whether the value is smooth takes many runs, so it is asked last
            reference = at.reference.fn and at.with_fn(at.reference.fn).run(at.noise(outs, 1)).grads
        except Raised:
            continue
        for place, d in enumerate(grads):
            r = reference[place] if reference else None
            if d is not None and not np.isfinite(d).all() and (r is None or np.isfinite(r).all()):
                first = np.argwhere(~np.isfinite(d))[0]
                name = subject.name(place)
                where = f"{name}[{', '.join(map(str, first))}]" if d.ndim else name
                return Finding(
                    "not-finite",
                    f"the gradient of {name} is not finite at {what}, where the value is",
                    f"a finite number for {where}",
                    str(d[tuple(first)]),
                    "one NaN makes every parameter NaN",
                    "guard the backward as the forward is guarded: no division by 0, no exp of a large number",
                )
    return None


def _extremes(subject: Subject) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Numbers that are large, of either sign, and zeros, in all differentiated arguments or in one of them."""
    wrt = subject.wrt
    for what, scale in (("zeros", 0.0), ("numbers of 1e3", 1e3), ("numbers of −1e3", -1e3)):
        for chosen in dict.fromkeys((tuple(wrt), *((i,) for i in wrt))):
            yield (
                what,
                [
                    np.where(np.isfinite(n), np.full_like(n, scale) if n.ndim else n * 0 + scale, n)
                    if i in chosen
                    else n
                    for i, n in enumerate(subject.numbers)
                ],
            )

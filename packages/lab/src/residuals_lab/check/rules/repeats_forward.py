"""The backward computes what was saved already.

The value is among the residuals, and a costly operation of the forward makes it once more: bytes and time are paid for
the same thing. Either may be right, not both. (A repetition of what was not saved is a choice, and a note.)
"""

from residuals_lab.check.subject import PLAIN, NotRun, Subject
from residuals_lab.finding import Finding
from residuals_lab.show import size

EXAMPLES = {
    "torch": """
import torch

class SineSquared(torch.autograd.Function):
    @staticmethod
    def forward(x):
        sin = x.sin()
        return sin * sin, sin

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0], output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, g, g_sin):
        x, sin = ctx.saved_tensors
        dx = 0 * x if g is None else 2 * g * (sin + x.sin()) / 2 * x.cos()  # wrong
        # right: dx = 0 * x if g is None else 2 * g * sin * x.cos()
        return dx if g_sin is None else dx + g_sin * x.cos()

def fn(x):
    return SineSquared.apply(x)[0]
""",
    "jax": """
import jax
import jax.numpy as jnp

@jax.custom_vjp
def fn(x):
    return jnp.sin(x) ** 2

def fwd(x):
    sin = jnp.sin(x)
    return sin ** 2, (x, sin)

def bwd(saved, g):
    x, sin = saved
    return (g * (sin + jnp.sin(x)) * jnp.cos(x),)  # wrong
    # right: return (2 * g * sin * jnp.cos(x),)

fn.defvjp(fwd, bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    trace = subject.audited.trace
    saved = {r.value.number: r for r in trace.residuals}
    again = {step.op: saved[n] for step in trace.repeating() for n in step.outs if n in saved}
    others = [r for r in subject.audited.repeats if r.op not in again]
    if not subject.has_rule:
        raise NotRun(PLAIN)
    for r in others:
        subject.notes.append(f"the backward repeats {r.op}; to save its result instead takes {size(r.nbytes)}")
    for op, kept in again.items():
        return Finding(
            "repeats-forward",
            f"the backward repeats {op}, whose result {kept.name} is saved",
            f"{kept.name} read from what was saved",
            f"{op} computed in the backward, and {size(kept.storage_bytes)} kept",
            "both the bytes and the time are paid for one value",
            f"use the saved {kept.name}, or do not save it",
        )
    return None

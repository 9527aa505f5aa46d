"""The second derivative is wrong, without an error.

In PyTorch an intermediate that the forward saved is a constant to autograd, unless it is an output of the rule: what
depends on x through it is missing from the second derivative. The first derivative is right. In JAX, whose `fwd` is
differentiated itself, only a `stop_gradient` or another custom rule does that.

Recompute the intermediate in the backward from what is an input; or return it as an output of `forward` and take its
cotangent; or refuse with `@once_differentiable`.
"""

from residuals_lab.check.subject import Raised, Subject
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch

class SineSquared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        sin = x.sin()
        ctx.save_for_backward(x, sin)  # wrong
        # right: ctx.save_for_backward(x)
        return sin * sin

    @staticmethod
    def backward(ctx, g):
        x, *saved = ctx.saved_tensors
        sin = saved[0] if saved else x.sin()
        return 2 * g * sin * x.cos()

def fn(x):
    return SineSquared.apply(x)
""",
    "jax": """
import jax
import jax.numpy as jnp

@jax.custom_vjp
def fn(x):
    return jnp.sin(x) ** 2

def bwd(x, g):
    return (2 * g * jax.lax.stop_gradient(jnp.sin(x)) * jnp.cos(x),)  # wrong
    # right: return (2 * g * jnp.sin(x) * jnp.cos(x),)

fn.defvjp(lambda x: (jnp.sin(x) ** 2, x), bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    try:
        second = subject.second
    except Raised as problem:
        return Finding(
            "second-derivative-wrong",
            "the second derivative raises, and does not refuse",
            "a number, or a refusal by @once_differentiable",
            str(problem),
            "a saved output may have a cotangent where the result has none: it is None then",
            "take None for a cotangent as zeros",
        )
    for place, got, true in second.along():
        if abs(got - true.value) <= true.allowed:
            continue
        saved = _saved(subject)
        through = f": it misses what goes through the saved {saved}, which is neither input nor output" if saved else ""
        return Finding(
            "second-derivative-wrong",
            f"the second derivative with respect to {subject.name(place)} is wrong{through}",
            f"{true.value:.6g} along a random direction, by differences of the first derivative",
            f"{got:.6g}",
            "a saved intermediate is a constant to PyTorch: a gradient penalty goes wrong, without an error"
            if saved
            else "a gradient penalty or a Hessian-vector product goes wrong, without an error",
            "make it in the backward, from inputs; or return it as an output and take its cotangent; or refuse "
            "with @once_differentiable"
            if saved
            else "look for a stop_gradient, a detach or another custom rule in the backward",
        )
    for k, got, true in second.by_cotangents:
        if abs(got - true.value) > true.allowed:
            which = "the cotangent" if len(subject.outs) == 1 else f"the cotangent of output {k}"
            return Finding(
                "second-derivative-wrong",
                f"the second derivative with respect to {which} is wrong",
                f"{true.value:.6g} along a random direction, by the first derivative, which is linear in it",
                f"{got:.6g}",
                "a gradient penalty or a Hessian-vector product goes wrong, without an error",
                "look for a stop_gradient or a detach of the incoming gradient, in part of the backward",
            )
    return None


def _saved(subject: Subject) -> str:
    """The new arrays that the rule saves, where they are constants to the framework."""
    if not subject.calls.CONSTANT_RESIDUALS:
        return ""
    try:
        return " and ".join(dict.fromkeys(r.name for r in subject.audited.residuals if r.is_new and r.value.shape))
    except Raised:
        return ""

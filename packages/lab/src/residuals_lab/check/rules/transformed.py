"""Under a transformation of the framework the gradient is another one, or raises.

`jax.jit`, `jax.checkpoint` with and without a policy, `jax.lax.scan`, `jax.shard_map` on all devices, of which the
command makes eight; `torch.utils.checkpoint`, reentrant and not, and `torch.compile`. Where the function itself runs
under it, so does its gradient, and it is the same. What breaks this is a decision by numbers or by `is`, state in
Python, NumPy in the middle, an array from the outside, and under `shard_map` a gradient that was not summed over the
mesh.
"""

from residuals_lab.check.subject import NotRun, Raised, Subject
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch

class Triple(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 3 * x

    @staticmethod
    def backward(ctx, g):
        return (2 if torch.compiler.is_compiling() else 3) * g  # wrong
        # right: return 3 * g

def fn(x):
    return Triple.apply(x)
""",
    "jax": """
import jax

@jax.custom_vjp
def fn(x):
    return 3 * x

def bwd(_, g):
    return ((2 if isinstance(g, jax.core.Tracer) else 3) * g,)  # wrong
    # right: return (3 * g,)

fn.defvjp(lambda x: (3 * x, None), bwd)
""",
}


def find(subject: Subject) -> Finding | None:
    if subject.is_random:
        raise NotRun("the function draws random numbers")
    for name, transform in subject.calls.TRANSFORMS.items():
        if subject.is_quick and name not in subject.calls.QUICK:
            continue
        with subject.guarded():
            other = subject.with_fn(transform(subject.fn))
        try:
            ran = other.run(subject.gs)
        except Raised as problem:
            if found := _raised(subject, other, name, problem):
                return found
            continue
        names = [f"output {i}" for i in range(len(ran.outs))]
        wrong = subject.first_apart(ran.outs, subject.outs, names)
        if wrong and name in subject.calls.PARTIAL:
            continue  # it mixes rows
        if wrong := wrong or subject.first_apart(ran.grads, subject.base.grads):
            return Finding(
                "transformed",
                f"under {name} the gradient or the value is another one",
                f"{wrong.is_expected}, as without it",
                wrong.is_got,
                f"whoever runs the function under {name} gets another model, without an error",
                "look for decisions by numbers or by `is`, state in Python, and arrays from the outside, in the rule",
            )
    return None


def _raised(subject: Subject, other: Subject, name: str, problem: Raised) -> Finding | None:
    """A finding only if the function itself runs under the transformation."""
    try:
        other.values()
    except Raised:
        subject.notes.append(f"under {name} the function itself does not run: {problem}")
        return None
    if subject.calls.refuses(problem.problem):
        subject.refused(name, problem)
        return None
    return Finding(
        "transformed",
        f"under {name} the backward raises, and the forward does not",
        "a gradient, as without it",
        str(problem),
        f"the function cannot be trained under {name}",
        "look for NumPy, for numbers taken out of arrays, and for arrays of an outer trace, in the rule",
    )

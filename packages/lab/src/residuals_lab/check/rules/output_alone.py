"""A backward does not bear that one output is not used.

Where a loss uses some of several results, the others have no cotangent: PyTorch gives None for it if the rule says
`ctx.set_materialize_grads(False)`, else zeros. A backward that does not expect None raises, or leaves out what the
other outputs give. A single output has None too, where the backward of what follows gives none.
"""

import numpy as np

from residuals_lab.check.subject import NotRun, Raised, Subject
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch

class SineAndCosine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.set_materialize_grads(False)  # wrong
        # right: ctx.set_materialize_grads(True)
        ctx.save_for_backward(x)
        return x.sin(), x.cos()

    @staticmethod
    def backward(ctx, g_sin, g_cos):
        (x,) = ctx.saved_tensors
        return g_sin * x.cos() - g_cos * x.sin()

def fn(x):
    return SineAndCosine.apply(x)
""",
    "jax": "JAX fills in zeros for an output that is not used.",
}


def find(subject: Subject) -> Finding | None:
    if found := _of_none(subject):
        return found
    if sum(subject.has_gradient) < 2:
        if subject.calls.without_cotangents is None:
            raise NotRun("there is one output")
        return None
    for k, g in enumerate(subject.gs):
        if not subject.has_gradient[k]:
            continue
        zeros = subject.run([g if i == k else np.zeros_like(other) for i, other in enumerate(subject.gs)]).grads
        try:
            alone = subject.run([g if i == k else None for i in range(len(subject.gs))]).grads
            wrong, got = subject.first_apart(alone, zeros), ""
        except Raised as problem:
            wrong, got = None, str(problem)
        if wrong or got:
            return Finding(
                "output-alone",
                f"the backward fails where output {k} alone is used",
                wrong.is_expected if wrong else "the gradient for zeros as the cotangents of the others",
                got or (wrong.is_got if wrong else ""),
                "a loss seldom uses all results of a function",
                "take None for a cotangent as zeros, or leave out ctx.set_materialize_grads(False)",
            )
    return None


def _of_none(subject: Subject) -> Finding | None:
    """Where no output has a cotangent."""
    if subject.calls.without_cotangents is None:
        return None
    try:
        with subject.guarded():
            grads = subject.calls.without_cotangents(subject.fn, subject.fresh(), subject.wrt)
            numbers = [subject.calls.to_numpy(d) for d in grads if d is not None]
        got = next((str(d.flat[np.argmax(d != 0)]) for d in numbers if d.any()), "")
    except Raised as problem:
        got = str(problem)
    if not got:
        return None
    return Finding(
        "output-alone",
        "the backward fails where nothing that follows has a gradient",
        "None or zeros, where the cotangent is None",
        got,
        "the backward of what follows may give None: a frozen branch, or a rule without a gradient there",
        "return None for each gradient if the cotangent is None, or leave out ctx.set_materialize_grads(False)",
    )

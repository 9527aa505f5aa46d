"""The function raises at its own arguments.

Nothing else can be looked at. The text is that of the function, or of the framework about what it was given. A result
in which no number is finite is no better: nothing can be compared with it.
"""

import numpy as np

from residuals_lab.check.subject import Raised, Subject
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch

def fn(x):
    return torch.sin(x, 1)  # wrong
    # right: return torch.sin(x)
""",
    "jax": """
import jax.numpy as jnp

def fn(x):
    return jnp.sin(x, 1)  # wrong
    # right: return jnp.sin(x)
""",
}


def find(subject: Subject) -> Finding | None:
    try:
        outs = subject.outs
    except Raised as problem:
        return _finding("the function raises", str(problem), "make it run at these arguments, or give it other ones")
    if not outs:
        title = "the function gives no result to differentiate"
        return _finding(title, "none", "return an array of floating numbers")
    if any(np.isfinite(y).any() or not y.size for y in outs):
        return None
    got = f"{outs[0].flat[0]:g} everywhere"
    return _finding("the function gives no finite number", got, "give it arguments at which it has a value")


def _finding(title: str, got: str, mend: str) -> Finding:
    expected = "a result of floating or complex numbers"
    return Finding("raises", title, expected, got, "what gives no numbers has no gradient", mend)

"""The function raises at its own arguments.

Nothing else can be looked at. The text is that of the function, or of the framework about what it was given.
"""

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
        if subject.outs:
            return None
        got, mend = "none", "return an array of floating numbers"
    except Raised as problem:
        got, mend = str(problem), "make it run at these arguments, or give it other ones"
    return Finding(
        "raises",
        "the function gives no result to differentiate" if got == "none" else "the function raises",
        "a result of floating or complex numbers",
        got,
        "a function that does not run has no gradient",
        mend,
    )

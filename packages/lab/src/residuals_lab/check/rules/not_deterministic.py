"""Two equal calls, from the same state of all random generators, give different results.

A gradient that differs from run to run hides every other fault, and no two trainings are alike. Look for an array that
is read before it is written (`empty`), for a counter or a cache that the function writes, or for a generator of its
own.
"""

from residuals_lab.check.subject import Subject, same
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch

calls = []

def fn(x):
    calls.append(1)  # wrong
    # right: calls[:] = [1]
    return len(calls) * x.sin()
""",
    "jax": """
import jax.numpy as jnp

calls = []

def fn(x):
    calls.append(1)  # wrong
    # right: calls[:] = [1]
    return len(calls) * jnp.sin(x)
""",
}


def find(subject: Subject) -> Finding | None:
    values = [subject.values() for _ in range(2)]
    if same(*values):
        return None
    wrong = subject.first_apart(values[1], values[0], [f"output {i}" for i in range(len(values[0]))])
    if wrong is None:  # as an order of additions may round
        return None
    return Finding(
        "not-deterministic",
        "two equal calls give different results",
        f"{wrong.is_expected} again",
        wrong.is_got,
        "no two runs are alike, and no difference between two functions means anything",
        "look for state that one call leaves for the next, an array that is read before it is written, or a generator "
        "of its own",
    )

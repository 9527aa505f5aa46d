"""Mutants that are no fault, each with the reason. `same.difference` shows that nothing differs on any sample of the op
but for rounding, and no judge sees anything. What they find and is not listed here counts as a survivor.
"""

from fnmatch import fnmatchcase
from typing import Any

# A pattern of `framework/op/operator: before → after`, and why it changes nothing.
EQUIVALENT: tuple[tuple[str, str], ...] = (
    ("*/dropout*/detach_residual: key*", "a key is of integers, which have no derivative"),
    (
        "jax/*cross_entropy/return_none: * → *, None)",
        "the weights of classes have a gradient of zeros, which None is too",
    ),
)


def reason(mutant: Any) -> str:
    """Why a mutant is no fault; "" if nobody has said so."""
    framework = mutant.id.partition("/")[0]
    title = f"{framework}/{mutant.op}/{mutant.operator}: {mutant.what}"
    escaped = ((pattern.replace("[", "[[]"), why) for pattern, why in EQUIVALENT)
    return next((why for pattern, why in escaped if fnmatchcase(title, pattern)), "")

"""The result or the gradient is wrong where an argument is not contiguous.

A kernel walks through memory as if the array were contiguous, and was given a transposed one, a slice of a wider one,
or an expanded one. Tests make contiguous arrays.

Call `.contiguous()` on what the kernel reads, or pass it the strides.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from residuals_lab.check.subject import NotRun, Raised, Subject
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": """
import torch

class Triple(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        flat = torch.as_strided(x, (x.numel(),), (1,), x.storage_offset())  # wrong
        # right: flat = x.contiguous().view(-1)
        return 3 * flat.view(x.shape)

    @staticmethod
    def backward(ctx, g):
        return 3 * g

def fn(x):
    return Triple.apply(x)
""",
    "jax": "JAX's arrays have no strides.",
}


def find(subject: Subject) -> Finding | None:
    if subject.is_random:
        raise NotRun("the function draws random numbers")
    for layout, place in _cases(subject):
        with subject.guarded():
            arrays = _laid_out(subject, layout, place)
            if arrays is None:
                continue
            contiguous = [subject.calls.to_numpy(a) for a in arrays]
        if np.ptp(contiguous[place].real) == 0:  # all numbers equal: a median, say, may take any of them
            continue
        at = subject.at(contiguous)
        if not at.is_smooth_everywhere:  # equal numbers may be a tie, of which any may be taken
            continue
        expected = at.run(subject.gs)
        name = subject.inputs[place].name
        try:
            ran = subject.run(arrays=arrays)
            names = [f"output {i}" for i in range(len(ran.outs))]
            wrong = subject.first_apart(ran.outs, expected.outs, names)
            what = "result" if wrong else "gradient"
            wrong, got = wrong or subject.first_apart(ran.grads, expected.grads), ""
        except Raised as problem:
            wrong, got, what = None, str(problem), "call"
        if wrong or got:
            return Finding(
                "stride-of-input",
                f"the {what} {'raises' if got else 'is wrong'} where {name} is not contiguous: {layout}",
                f"{wrong.is_expected}, as for a contiguous copy" if wrong else "as for a contiguous copy",
                got or (wrong.is_got if wrong else ""),
                "slices, transposes and expanded arrays come from ordinary code; contiguous ones are right",
                f"make {name} contiguous where a kernel or as_strided reads it, or use its own strides",
            )
    return None


def _cases(subject: Subject) -> Iterator[tuple[str, int]]:
    """Each layout and argument. A parameter is contiguous: its owner made it."""
    places = range(len(subject.inputs)) if not subject.is_quick else subject.wrt
    for layout in subject.calls.LAYOUTS:
        yield from ((layout, place) for place in places if subject.inputs[place].role != "parameter")


def _laid_out(subject: Subject, layout: str, place: int) -> list[Any] | None:
    """New arrays, one of them in a layout; None if it cannot have that."""
    arrays = subject.fresh()
    made = subject.calls.LAYOUTS[layout](arrays[place])
    if made is None:
        return None
    arrays[place] = made
    return arrays

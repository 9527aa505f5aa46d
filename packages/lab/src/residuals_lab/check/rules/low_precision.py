"""In bfloat16 or float16 the gradient is less exact than plain autodiff's.

Gradients of parameters are summed in the low precision itself, statistics are kept in it, or something overflows. The
error against float64 is compared with that of plain autodiff in the same dtype: at most twice, and one rounding.

Accumulate in float32, keep statistics in float32, and cast at the end. Looked at only where a reference in the
framework is given, for without one there is no plain autodiff of the same function.
"""

import numpy as np

from residuals_lab.check.subject import NotRun, Raised, Subject
from residuals_lab.finding import Finding
from residuals_lab.ops.tolerance import error, limit

EXAMPLES = {
    "torch": "There is no fault to plant without a reference; the tests of the check give one.",
    "jax": "There is no fault to plant without a reference; the tests of the check give one.",
}


def find(subject: Subject) -> Finding | None:
    reference = subject.reference.fn
    if reference is None:
        raise NotRun("no reference in the framework is given")
    for dtype in ("bfloat16",) if subject.is_quick else ("float32", "bfloat16", "float16"):
        low = subject.at(subject.numbers, dtype)
        try:
            with low.guarded():
                rounded = [low.calls.to_numpy(a) for a in low.fresh()]
                gs = [low.calls.to_numpy(g) for g in low.cotangents(low.calls.forward(low.fn, low.fresh()), subject.gs)]
            found, plain = low.run(gs).grads, low.with_fn(reference).run(gs).grads
            truth = subject.at(rounded).with_fn(reference).run(gs).grads
        except Raised:
            continue  # one of the two does not take this dtype
        for place, (d, p, t) in enumerate(zip(found, plain, truth, strict=True)):
            if d is None or p is None or t is None or not np.isfinite(p).all():
                continue
            worst, allowed = error(d, t), limit(dtype, error(p, t))
            if not worst <= allowed:
                return Finding(
                    "low-precision",
                    f"in {dtype} the gradient of {subject.name(place)} is less exact than plain autodiff's",
                    f"an error of at most {allowed:.1e}, relative to the largest number",
                    f"{worst:.1e}",
                    "parameters with such gradients stop learning early, or not at all",
                    "accumulate and keep statistics in float32, and cast the result",
                )
    return None

"""Problems in somebody's function, each in one line that says what to do."""

import contextlib
import traceback

from residuals_lab.frameworks.places import shown_as

# The exceptions of code that asks an array without numbers for a number.
_WITHOUT_NUMBERS = {"ConcretizationTypeError", "DataDependentOutputException", "DynamicOutputShapeException"}
_WITHOUT_NUMBERS |= {"NonConcreteBooleanIndexError", "TracerArrayConversionError", "TracerIntegerConversionError"}
_NUMBER_OF_ITERATIONS = "with dynamic start/stop values"  # of a loop in JAX, which then has no backward
_WITHOUT_A_TENSOR = ("numpy() is not supported", "no fake impl registered", "outside of `jax.jit`")
# A framework's message → its meaning here.
_INSTEAD = {
    "support saved tensor hooks": "PyTorch does not show what torch.func.grad and its like save; write it with "
    "torch.autograd.grad(..., create_graph=True) to audit it",
    "Encountered an unexpected tracer": "an array traced in the forward is used after it ended; return from fwd, as "
    "a residual, what the backward needs",
    "access storage of Sparse": "a sparse tensor has no storage of its own to be known by; audit it dense",
}


def explained(problem: BaseException, is_concrete: bool) -> str:
    """One line about a problem in somebody's function while it was traced: where, what, and what to do about it."""
    lines = [line.strip() for line in _said(problem).splitlines() if line.strip()] or [""]
    what = " ".join(lines[: 2 if lines[0].endswith(":") else 1])  # a line with a colon at its end leads up to the next
    names = {c.__name__ for c in type(problem).__mro__}
    if not is_concrete and (names & _WITHOUT_NUMBERS or _NUMBER_OF_ITERATIONS in what):
        what = "its path depends on numbers, which an abstract trace does not have; run it with --concrete "
        what += "(in Python is_concrete=True)"
    if not is_concrete and any(said in what for said in _WITHOUT_A_TENSOR):
        what = f"{what.partition('. ')[0].rstrip('.')}; run it with --concrete (in Python is_concrete=True)"
    what = next((instead for said, instead in _INSTEAD.items() if said in what), what)
    places = [(shown_as(f.f_code.co_filename), line) for f, line in traceback.walk_tb(problem.__traceback__)]
    at = next((f"{file}:{line}: " for file, line in reversed(places) if file), "")
    return f"{at}{type(problem).__name__}{what and f': {what}'}"


def _said(problem: BaseException) -> str:
    """The words of an exception, or none where its own class cannot tell them."""
    with contextlib.suppress(Exception):
        return str(problem)
    return ""

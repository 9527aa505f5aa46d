"""Problems in somebody's function, each in one line that says what to do."""

import contextlib
import dis
import re
import traceback
from collections.abc import Iterator
from types import TracebackType

from residuals_lab.frameworks.places import shown_as

# Words of Python's about a call that does not fit its function.
_MISCALLED = re.compile(r"required (positional|keyword-only) argument|unexpected keyword|positional arguments? but")
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


_INSTEAD_RUN = "run it with --concrete (in Python is_concrete=True)"


def explained(problem: BaseException, is_concrete: bool) -> str:
    """One line about a problem in somebody's function while it was traced: where, what, and what to do about it."""
    lines = [line.strip() for line in _said(problem).splitlines() if line.strip()] or [""]
    what = " ".join(lines[: 2 if lines[0].endswith(":") else 1])  # a line with a colon at its end leads up to the next
    places = [(shown_as(f.f_code.co_filename), line) for f, line in traceback.walk_tb(problem.__traceback__)]
    instead = next((instead for said, instead in _INSTEAD.items() if said in what), None)
    if instead:
        what = instead
    elif not is_concrete and (is_without_numbers(problem) or _NUMBER_OF_ITERATIONS in what):
        what = f"its path depends on numbers, which an abstract trace does not have; {_INSTEAD_RUN}"
    elif not is_concrete and any(said in what for said in _WITHOUT_A_TENSOR):
        what = f"{what.partition('. ')[0].rstrip('.')}; {_INSTEAD_RUN}"
    elif not is_concrete and isinstance(problem, Exception) and not _is_raised_by_user(problem):
        what = f"{what.rstrip('.')}; if a run does not fail so, run it with --concrete"
    at = next((f"{file}:{line}: " for file, line in reversed(places) if file), "")
    return f"{at}{type(problem).__name__}{what and f': {what}'}"


def _is_raised_by_user(problem: BaseException) -> bool:
    """Whether a line of the user's raises this itself, or does not fit its call: then a run does so too."""
    *_, last = [None, *_entries(problem)]
    if last is None or isinstance(problem, (ImportError, NameError, SyntaxError)):
        return True
    if isinstance(problem, TypeError) and _MISCALLED.search(_said(problem)):
        return True
    code = last.tb_frame.f_code
    return bool(shown_as(code.co_filename)) and code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _entries(problem: BaseException) -> Iterator[TracebackType]:
    """The entries of a traceback, the innermost last."""
    entry = problem.__traceback__
    while entry:
        yield entry
        entry = entry.tb_next


def is_without_numbers(problem: BaseException) -> bool:
    """Whether code asked an array that has no numbers for one."""
    return any(c.__name__ in _WITHOUT_NUMBERS for c in type(problem).__mro__)


def _said(problem: BaseException) -> str:
    """The words of an exception, or none where its own class cannot tell them."""
    with contextlib.suppress(Exception):
        return str(problem)
    return ""

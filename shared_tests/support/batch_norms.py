"""The cases of batch_norm, all of its results, and the bytes of its statistics."""

from collections.abc import Callable, Sequence
from typing import Any

from cases import Case


def batch_norms(choice: Callable[[Case], bool] = lambda case: True) -> Callable[[Any], Any]:
    """Decorate a test to run on the cases of batch_norm that `choice` accepts."""

    def mark(test: Any) -> Any:
        test.only = lambda case: case.source.op.name == "batch_norm" and choice(case)
        return test

    return mark


def called(case: Case, given: Sequence[Any], **changed: Any) -> Any:
    """All results for the arrays and constants given, in order."""
    call = case.call
    named = dict(zip((*call.arrays, *call.constants), given, strict=True))
    return case.adapter.public("batch_norm")(**{**named, **call.static, **changed})


def per_channel(case: Case) -> int:
    """The bytes of two statistics of a channel."""
    return 2 * case.source.arrays["x"].shape[1] * (8 if case.dtype == "float64" else 4)

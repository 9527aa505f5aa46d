"""Values, shapes and residuals in the words of a finding."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from residuals_lab.trace import Residual


def shape(a: Any) -> tuple[int, ...] | None:
    return tuple(a.shape) if hasattr(a, "shape") else None


def show(a: Any) -> str:
    return np.array2string(np.asarray(a), precision=4, separator=", ", suppress_small=True)


def kind(a: Any) -> str:
    if isinstance(a, (tuple, list)):
        return f"a {type(a).__name__} of {len(a)}"
    return type(a).__name__ if shape(a) is None else f"an array of shape {shape(a)}"


def join(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"


def listed(residuals: Sequence[Residual]) -> str:
    return ", ".join(f"{r.name} ({r.kind}, {r.storage_bytes} B)" for r in residuals) or "nothing"

"""Where in a user's code something happens: the innermost line that is neither a framework's nor ours."""

import os
import sys
from collections.abc import Iterable
from functools import cache
from itertools import dropwhile, takewhile

# Libraries of layers and of losses count as frameworks: what a user wants to see is the line that calls one.
_FRAMEWORKS = ("jax", "jaxlib", "torch", "flax", "equinox", "haiku", "optax", "chex", "diffrax", "distrax", "numpy")
_OURS = ("residuals_jax", "residuals_torch", "residuals_numpy", "residuals_lab")

_LAB = os.path.dirname(os.path.dirname(__file__)) + os.sep
_PYTHON = os.path.dirname(os.__file__) + os.sep


def innermost(frames: Iterable[tuple[str, int, str]]) -> tuple[str, str]:
    """The line and function of the innermost frame that is a user's, "file.py:41" and "attend"; "" if there is none."""
    # Neither the lab's own frames nor those of the code that called the lab.
    inside = takewhile(lambda f: not _is_labs(f[0]), dropwhile(lambda f: _is_labs(f[0]), frames))
    return next(((f"{shown}:{line}", name) for file, line, name in inside if (shown := shown_as(file))), ("", ""))


@cache
def _is_labs(file: str) -> bool:
    return file.startswith(_LAB)


@cache
def shown_as(file: str) -> str:
    """A user's file by its path from the working directory, or by its name; "" if it is not a user's."""
    if file.startswith(("<frozen ", *_roots())) or (file.startswith(_PYTHON) and "site-packages" not in file):
        return ""
    path = os.path.relpath(file) if os.path.isabs(file) else file
    return os.path.basename(file) if path.startswith(os.pardir) else path


def _roots() -> tuple[str, ...]:
    files = [getattr(sys.modules.get(name), "__file__", None) for name in _FRAMEWORKS + _OURS]
    return tuple(os.path.dirname(file) + os.sep for file in files if file)

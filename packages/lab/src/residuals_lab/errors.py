"""Errors before any work is done; the command turns each into one line and an exit code."""

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(Exception):
    """Bad input: says what was expected and what came."""

    exit_code = 2


class MissingFramework(Exception):
    """A framework is needed and not installed: says how to install it."""

    exit_code = 3


def guess(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'gelu'?`, where one of the known words is nearly the given one, else nothing."""
    near = get_close_matches(word, [*known], 1, cutoff=0.7)
    return f"; did you mean {near[0]!r}?" if near else ""

"""Errors before any work is done; the command turns each into one line and an exit code."""


class UsageError(Exception):
    """Bad input: says what was expected and what came."""

    exit_code = 2


class MissingFramework(Exception):
    """A framework is needed and not installed: says how to install it."""

    exit_code = 3

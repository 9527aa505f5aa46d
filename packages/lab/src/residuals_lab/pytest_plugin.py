"""The pytest plugin: the fixture `assert_residuals`. Nothing heavy is imported before a test asks for it."""

from collections.abc import Callable

import pytest


@pytest.fixture(name="assert_residuals")
def _assert_residuals() -> Callable[..., None]:
    """Assert what a function keeps for its backward: `assert_residuals(fn, x, new_bytes="<= 64 MiB")`.

    It is `residuals_lab.testing.assert_residuals`, whose docstring has all options.
    """
    from residuals_lab.testing import assert_residuals

    return assert_residuals

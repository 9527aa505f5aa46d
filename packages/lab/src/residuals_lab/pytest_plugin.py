"""The pytest plugin: the fixture `assert_residuals`. Nothing heavy is imported before a test asks for it."""

from collections.abc import Callable

import pytest


@pytest.fixture(name="assert_residuals")
def _assert_residuals() -> Callable[..., None]:
    """`residuals_lab.testing.assert_residuals`."""
    from residuals_lab.testing import assert_residuals

    return assert_residuals

"""The pytest plugin: the fixtures `assert_residuals` and `assert_gradient`. Nothing heavy is imported before that."""

from collections.abc import Callable

import pytest


@pytest.fixture(name="assert_residuals")
def _assert_residuals() -> Callable[..., None]:
    """Assert what a function keeps for its backward: `assert_residuals(fn, x, new_bytes="<= 64 MiB")`.

    It is `residuals_lab.testing.assert_residuals`, whose docstring has all options.
    """
    from residuals_lab.testing import assert_residuals

    return assert_residuals


@pytest.fixture(name="assert_gradient")
def _assert_gradient() -> Callable[..., None]:
    """`residuals_lab.testing.assert_gradient`."""
    from residuals_lab.testing import assert_gradient

    return assert_gradient

"""Running the command `residuals` in a test."""

import pytest

from residuals_lab import cli


def residuals(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """The exit code, and what is printed on stdout and on stderr."""
    code = cli.main([*map(str, arguments)])
    return code, *capsys.readouterr()


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    return residuals(capsys, "compare", *arguments)


def assert_usage(result: tuple[int, str, str], message: str) -> None:
    code, out, err = result
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("residuals: ")
    assert err.count("\n") == 1

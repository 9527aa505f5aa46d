"""Running `residuals compare` in a test."""

import pytest

from residuals_lab import cli


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main(["compare", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def assert_usage(result: tuple[int, str, str], message: str) -> None:
    code, out, err = result
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("residuals: ")
    assert err.count("\n") == 1

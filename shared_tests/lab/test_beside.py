"""What is said of two rows that stand for each other in two audits."""

import pytest

from residuals_lab.audit.matching import Match, Side, explained


@pytest.mark.parametrize(
    ("left", "right", "why"),
    [
        (Side(2, 256), Side(2, 256), ""),
        (Side(2, 256), Side(4, 256), "2 arrays against 4"),
        (Side(2, 256), Side(2, 512), "other shapes"),
        (Side(), Side(1, 128, readers=["mul", "sum"]), "only here: read by mul, sum"),
        (Side(1, 128), Side(), "only here: read by nothing"),
    ],
)
def test_why_two_sides_differ(left: Side, right: Side, why: str) -> None:
    match = Match("exp", "float32", left, right)
    assert (explained(match), match.difference) == (why, right.nbytes - left.nbytes)

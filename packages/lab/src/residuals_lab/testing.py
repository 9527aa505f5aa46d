"""For tests: assert how many bytes a function keeps for its backward, and which arrays."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from residuals_lab.errors import UsageError

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_BOUND = re.compile(r"\s*(<=|<|==)\s*(\d+\.?\d*)\s*([A-Za-z]+)?\s*")
_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "<=": lambda found, bound: found <= bound,
    "<": lambda found, bound: found < bound,
    "==": lambda found, bound: found == bound,
}


def assert_residuals(
    fn: Callable[..., Any],
    *args: Any,
    new_bytes: int | str | None = None,
    saved_bytes: int | str | None = None,
    names: Sequence[str] | None = None,
    framework: str | None = None,
    is_concrete: bool = False,
    **kwargs: Any,
) -> None:
    """Assert what `fn(*args, **kwargs)` keeps for its backward.

    Args:
        fn: as `residuals_lab.audit.audit` takes it; so are `args`, `kwargs`, `framework` and `is_concrete`.
        *args: its arguments.
        new_bytes: bytes saved beyond arrays that are alive anyway: a number, or a bound such as "<= 64 MiB".
        saved_bytes: all bytes saved, in the same way.
        names: the names of the new arrays, in any order, each as often as it is there.
        framework: "jax" or "torch", where `fn` does not tell.
        is_concrete: compute the forward.
        **kwargs: its keyword arguments.

    Raises:
        AssertionError: with the report, and with what was expected and what came.
        UsageError: if a bound cannot be read, nothing is asserted, or `fn` cannot be audited.
    """
    from residuals_lab.audit import audit

    __tracebackhide__ = True  # pytest then leaves out this function's own frame
    if isinstance(names, str):
        raise UsageError(f"names: expected a list of names, got {names!r}")
    if new_bytes is None and saved_bytes is None and names is None:
        raise UsageError("assert_residuals: expected new_bytes, saved_bytes or names, got none of them")
    bounds = {"new_bytes": new_bytes, "saved_bytes": saved_bytes}
    wanted = {what: _bound(what, bound) for what, bound in bounds.items() if bound is not None}
    report = audit(fn, *args, framework=framework, is_concrete=is_concrete, **kwargs)
    wrong = []
    for what, (sign, bound) in wanted.items():
        if not _HOLDS[sign](getattr(report, what), bound):
            wrong.append(f"{what}: expected {bounds[what]}, got {getattr(report, what)}")
    if names is not None:
        new = {r.storage: r.name for r in report.residuals if r.is_new}
        found, expected = Counter(new.values()), Counter(names)
        if found != expected:
            more, less = (
                ", ".join(sorted(difference.elements())) for difference in (found - expected, expected - found)
            )
            wrong.append(f"names: {f'not expected: {more}' if more else ''}{'; ' * bool(more and less)}"
                         f"{f'not there: {less}' if less else ''}")  # fmt: skip
    if wrong:
        raise AssertionError("\n".join([*wrong, "", str(report)]))


def _bound(what: str, bound: int | str) -> tuple[str, float]:
    """The comparison and the number of bytes."""
    if isinstance(bound, int) and not isinstance(bound, bool):
        return "==", bound
    found = _BOUND.fullmatch(bound) if isinstance(bound, str) else None
    if not found or (found[3] or "B") not in UNITS or found[2].count(".") > 1:
        raise UsageError(f"{what}: expected a number or a bound such as '<= 64 MiB', got {bound!r}")
    return found[1], float(found[2]) * UNITS[found[3] or "B"]

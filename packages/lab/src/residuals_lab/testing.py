"""For tests: assert that a gradient is right; how many bytes a function keeps for its backward, and which arrays.

docs/check.md and docs/lock.md are their pages.
"""

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from difflib import get_close_matches
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

        assert_residuals(model, tokens, new_bytes="<= 64 MiB")
        assert_residuals(rms_norm, x, weight, names=["rstd"])

    With pytest it is also a fixture of the same name, which no test has to import.

    Args:
        fn: as `residuals_lab.audit.audit` takes it; so are `args`, `kwargs`, `framework` and `is_concrete`.
        *args: its arguments.
        new_bytes: bytes saved beyond arrays that are alive anyway: a number that they have to be, or a bound with `<=`,
            `<` or `==`, such as "<= 64 MiB". Units: B, KB, MB, GB, KiB, MiB, GiB; none is bytes.
        saved_bytes: all bytes saved, in the same way.
        names: the names of the new arrays, in any order, each as often as it is there.
        framework: "jax" or "torch", where `fn` does not tell.
        is_concrete: compute the forward.
        **kwargs: its keyword arguments.

    Raises:
        AssertionError: with the report, and with what was expected and what came.
        UsageError: if a bound cannot be read, nothing is asserted, a keyword is nearly one of the above and none of
            `fn`'s, or `fn` cannot be audited.
    """
    from residuals_lab.audit import audit

    __tracebackhide__ = True  # pytest then leaves out this function's own frame
    _refuse_misspelled(fn, kwargs)
    if isinstance(names, str):
        raise UsageError(f"names: expected a list of names, got {names!r}")
    if new_bytes is None and saved_bytes is None and names is None:
        raise UsageError("assert_residuals: expected new_bytes, saved_bytes or names, got none of them")
    given = {"new_bytes": new_bytes, "saved_bytes": saved_bytes}
    bounds = {what: _bound(what, bound) for what, bound in given.items() if bound is not None}
    report = audit(fn, *args, framework=framework, is_concrete=is_concrete, **kwargs)
    wrong = [_wrong(what, bound, getattr(report, what)) for what, bound in bounds.items()]
    if names is not None:
        new = {r.storage: r.name for r in report.residuals if r.is_new}
        wrong.append(_wrong_names(Counter(new.values()), Counter(names)))
    if any(wrong):
        raise AssertionError("\n".join([*filter(None, wrong), "", str(report)]))


def assert_gradient(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Assert that the gradient of `fn(*args)` is right in every way that `residuals_lab.check.check` looks at.

    Args:
        fn: as `check` takes it; so are the other arguments, `reference`, `names`, `quick` and `seed` among them.
        *args: its arguments.
        **kwargs: options of `check`, and keyword arguments of `fn`.

    Raises:
        AssertionError: with the report.
        UsageError: if there is nothing to differentiate.
    """
    from residuals_lab.check import check

    __tracebackhide__ = True
    found = check(fn, *args, **kwargs)
    if not found.passed:
        raise AssertionError(f"{found.failures[0].line}\n\n{found}")


def _refuse_misspelled(fn: Callable[..., Any], kwargs: Iterable[str]) -> None:
    """UsageError for a keyword that is nearly an option of `assert_residuals` and is not named by `fn`."""
    options = [p.name for p in inspect.signature(assert_residuals).parameters.values() if p.kind is p.KEYWORD_ONLY]
    try:
        own = {*inspect.signature(getattr(fn, "forward", fn)).parameters}
    except (TypeError, ValueError):  # a function in C may have no signature
        own = set()
    for name in kwargs:
        if name not in own and (near := get_close_matches(name, options, 1, cutoff=0.75)):
            raise UsageError(f"assert_residuals: the function has no argument {name!r}; did you mean {near[0]}?")


def _bound(what: str, bound: int | str) -> tuple[str, float, str]:
    """The comparison, the number, and the unit of both what is expected and what comes."""
    if isinstance(bound, int) and not isinstance(bound, bool):
        return "==", bound, "B"
    found = _BOUND.fullmatch(bound) if isinstance(bound, str) else None
    if not found or (found[3] or "B") not in UNITS:
        raise UsageError(f"{what}: expected a number or a bound such as '<= 64 MiB', got {bound!r}")
    return found[1], float(found[2]), found[3] or "B"


def _wrong(what: str, bound: tuple[str, float, str], nbytes: int) -> str:
    """What was expected and what came, in one unit and with the digits that tell them apart; "" if the bound holds."""
    sign, number, unit = bound
    holds, came, digits = _HOLDS[sign], nbytes / UNITS[unit], 4
    if holds(nbytes, number * UNITS[unit]):
        return ""
    while digits < 17 and (unit == "B" or holds(float(f"{came:.{digits}g}"), number)):
        digits += 1
    expected = f"{'' if sign == '==' else f'{sign} '}{_plain(number)} {unit}"
    return f"{what}: expected {expected}, got {_plain(f'{came:.{digits}g}')} {unit}"


def _plain(number: float | str) -> str:
    """A number as people write it, without an exponent."""
    return f"{Decimal(str(number)).normalize():f}"


def _wrong_names(found: Counter[str], expected: Counter[str]) -> str:
    """The names that should not be there, and those that should; "" if there are none."""
    sides = {"not expected": found - expected, "not there": expected - found}
    lists = [f"{what}: {', '.join(sorted(those.elements()))}" for what, those in sides.items() if those]
    return f"names: {'; '.join(lists)}" if lists else ""

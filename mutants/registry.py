"""The operators by name, and the rules that are to name what they make."""

from collections.abc import Callable, Iterator

from mutants.source import Edit, Source

Operator = Callable[[Source], Iterator[Edit]]
WRONG = ("gradient-wrong", "gradient-factor", "gradient-missing")
SECOND = ("second-derivative-wrong", "silent-second-derivative")
OPERATORS: dict[str, Operator] = {}
RULES: dict[str, tuple[str, ...]] = {}


def named_by(*codes: str) -> Callable[[Operator], Operator]:
    """An operator whose mutants one of these rules is to name first."""

    def register(operator: Operator) -> Operator:
        OPERATORS[operator.__name__], RULES[operator.__name__] = operator, codes
        return operator

    return register

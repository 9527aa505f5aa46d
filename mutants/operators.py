"""What a mutant is made by. Each operator, in `terms` and `residuals`, is one kind of fault, and gives every place of
an op where it can be.

A fault bears the rules that are to name it. A place whose line runs for the second derivative alone is another matter:
there the rules are those of the second derivative, which `expected` says.
"""

import ast

from mutants import residuals as residuals
from mutants import terms as terms
from mutants.registry import OPERATORS as OPERATORS
from mutants.registry import RULES as RULES
from mutants.registry import SECOND
from mutants.source import Edit, Source

OF_RESIDUALS = ("g_rstd", "g_mean", "g_sin_x", "g_weights", "g_tanh")  # cotangents that a second derivative alone has


def expected(source: Source, operator: str, edit: Edit) -> tuple[str, ...]:
    """The rules that are to name this mutant."""
    return SECOND if _is_of_second_order(source, edit[0][0]) else RULES[operator]


def _is_of_second_order(source: Source, node: ast.AST) -> bool:
    """Whether a place runs only where a residual has a cotangent, or decides whether it does."""
    if source.part(node) != "bwd":
        return False
    for a in (node, *source.around(node)):
        if getattr(a, "name", "") == "bwd_residuals" or getattr(a, "id", "") in OF_RESIDUALS:
            return True
        test = ast.unparse(a.test) if isinstance(a, (ast.If, ast.IfExp)) else ""
        if any(name in test for name in OF_RESIDUALS) and "g is None" not in test:
            return True
    return False

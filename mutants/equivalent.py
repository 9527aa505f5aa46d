"""Mutants that are no fault, each with the reason. `same.difference` shows that nothing differs on any sample of the op
but for rounding, and no judge sees anything; what that finds and is not listed here counts as a survivor.
"""

EQUIVALENT: dict[str, str] = {}

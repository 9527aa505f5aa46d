"""A check for machines. The page docs/json.md says what each key means."""

from dataclasses import asdict
from typing import Any

from residuals_lab.check import Check
from residuals_lab.trace.document import SCHEMA_VERSION


def document(check: Check) -> dict[str, Any]:
    """The whole check."""
    return {
        "schema_version": SCHEMA_VERSION,
        "target": check.target,
        "version": check.framework,
        "truth": check.truth,
        "passed": check.passed,
        "failures": [asdict(finding) for finding in check.failures],
        "also": {rule: list(others) for rule, others in check.also.items()},
        "notes": list(check.notes),
        "not_run": [{"rule": rule, "reason": reason} for rule, reason in check.not_run],
        "ran": dict(check.ran),
    }

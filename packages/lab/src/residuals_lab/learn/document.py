"""A grade for machines. The page docs/json.md says what each key means."""

from dataclasses import asdict
from typing import Any

from residuals_lab.learn.grading import Grade
from residuals_lab.trace import document as trace_document

SCHEMA_VERSION = 2


def document(exercise: str, framework: str, grade: Grade) -> dict[str, Any]:
    """The whole grade."""
    return {
        "schema_version": SCHEMA_VERSION,
        "exercise": exercise,
        "framework": framework,
        "passed": grade.finding is None,
        "finding": None if grade.finding is None else asdict(grade.finding),
        "residuals": [] if grade.trace is None else trace_document.residuals(grade.trace),
    }

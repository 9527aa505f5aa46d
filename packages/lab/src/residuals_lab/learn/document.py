"""A grade for machines. The page docs/json.md says what each key means."""

from dataclasses import asdict
from typing import Any

from residuals_lab.learn.grading import Grade
from residuals_lab.trace.document import SCHEMA_VERSION, kept


def document(exercise: str, framework: str, grade: Grade) -> dict[str, Any]:
    """The whole grade."""
    return {
        "schema_version": SCHEMA_VERSION,
        "exercise": exercise,
        "framework": framework,
        "passed": grade.finding is None,
        "finding": grade.finding and asdict(grade.finding),
        **(kept(grade.trace) if grade.trace else dict.fromkeys(("saved_bytes", "new_bytes", "residuals"))),
    }

"""Changes for machines. The page docs/json.md says what each key means."""

from collections.abc import Sequence
from typing import Any

from residuals_lab.lock.changes import Change

SCHEMA_VERSION = 2


def document(changes: Sequence[Change], problems: Sequence[Exception]) -> dict[str, Any]:
    """What is not as it is in the file, and why there may be more."""
    return {
        "schema_version": SCHEMA_VERSION,
        "changes": [_change(change) for change in changes],
        "problems": [str(problem) for problem in problems],
    }


def _change(c: Change) -> dict[str, Any]:
    """A change as plain data."""
    key = {} if c.key is None else {**c.key._asdict(), "line": c.entry.lines.get(c.key, "")}
    entry = {"target": c.entry.target, "framework": c.entry.framework, "arguments": c.entry.arguments}
    amounts = {"before": c.before, "after": c.after, "is_worse": c.is_worse}
    return {**entry, "how": c.how, "what": c.what, **amounts, **key}

"""Changes for machines. The page docs/json.md says what each key means."""

from collections.abc import Sequence
from typing import Any

from residuals_lab.lock import Key
from residuals_lab.lock.changes import Change
from residuals_lab.trace.document import SCHEMA_VERSION


def document(changes: Sequence[Change], problems: Sequence[Exception]) -> dict[str, Any]:
    """The differences from the file, and the problems because of which there may be more."""
    return {
        "schema_version": SCHEMA_VERSION,
        "changes": [_change(change) for change in changes],
        "problems": [str(problem) for problem in problems],
    }


def _change(c: Change) -> dict[str, Any]:
    return {
        "target": c.entry.target,
        "framework": c.entry.framework,
        "arguments": list(c.entry.arguments),
        "written_with": c.before.written_with,
        "checked_with": c.entry.written_with,
        "how": c.how,
        "is_worse": c.is_worse,
        "what": c.total or c.what,
        "before_bytes": c.before_bytes,
        "after_bytes": c.after_bytes,
        "residual": c.key and _residual(c.key, c.entry.lines.get(c.key, "")),
    }


def _residual(key: Key, line: str) -> dict[str, Any]:
    dtype, _, sizes = key.array.rstrip("]").partition("[")
    shape = [int(size) for size in sizes.split(", ") if size]
    return {"name": key.name, "kind": key.kind, "shape": shape, "dtype": dtype, "line": line}

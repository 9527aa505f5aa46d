"""Residuals for machines: the same record in the document of every command."""

from collections.abc import Hashable
from typing import Any

from residuals_lab.trace import Trace


def residuals(trace: Trace) -> list[dict[str, Any]]:
    """A record for each residual.

    Records of one `storage` share its memory, so `storage_bytes` counts once for all of them: summed over the storages
    of the records with `is_new`, it is the trace's new bytes.
    """
    storages: dict[Hashable, int] = {}
    return [
        {
            "name": r.name,
            "shape": list(r.value.shape),
            "dtype": r.value.dtype,
            "kind": r.kind,
            "bytes": r.nbytes,
            "storage": storages.setdefault(r.storage, len(storages)),
            "storage_bytes": r.storage_bytes,
            "is_new": r.is_new,
            "made_by": r.op,
            "line": r.line,
            "module": r.module,
            "read_by": list(dict.fromkeys(trace.steps[i].op for i in r.reads)),
            "is_unused": r.is_unused,
        }
        for r in trace.residuals
    ]

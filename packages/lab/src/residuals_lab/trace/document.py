"""What the documents for machines share. The page docs/json.md says what each key means."""

from collections.abc import Hashable
from typing import Any

from residuals_lab.trace import Residual, Trace
from residuals_lab.trace import repeats as repeated

SCHEMA_VERSION = 2


def kept(trace: Trace) -> dict[str, Any]:
    """What is kept for the backward: the residuals and their sums.

    Records of one `storage` share its memory, so `storage_bytes` counts once for all of them: summed over the storages
    of the records with `is_new`, it is `new_bytes`.
    """
    storages: dict[Hashable, int] = {}
    return {
        "saved_bytes": trace.saved_bytes,
        "new_bytes": trace.new_bytes,
        "residuals": [_residual(r, trace, storages.setdefault(r.storage, len(storages))) for r in trace.residuals],
    }


def _residual(r: Residual, trace: Trace, storage: int) -> dict[str, Any]:
    return {
        "name": r.name,
        "kind": r.kind,
        "shape": list(r.value.shape),
        "dtype": r.value.dtype,
        "bytes": r.nbytes,
        "storage": storage,
        "storage_bytes": r.storage_bytes,
        "is_new": r.is_new,
        "is_unused": r.is_unused,
        "made_by": r.op,
        "line": r.line,
        "module": r.module,
        "read_by": trace.readers(r),
    }


def repeats(trace: Trace) -> list[dict[str, Any]]:
    """The steps of the forward that the backward repeats."""
    return [
        {
            "op": r.op,
            "cost": r.cost,
            "line": r.line,
            "count": r.count,
            "bytes": r.nbytes,
            "is_kept": r.is_kept,
            "is_at_most": r.is_at_most,
        }
        for r in repeated.repeats(trace)
    ]

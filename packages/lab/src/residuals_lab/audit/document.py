"""An audit as plain data: what the command prints as JSON, and what its tables are made of."""

from dataclasses import asdict
from typing import Any

from residuals_lab.trace import Residual, Trace
from residuals_lab.trace.groups import Branch, tree

SCHEMA_VERSION = 1


def document(report: Any) -> dict[str, Any]:
    """The whole report."""
    trace: Trace = report.trace
    return {
        "schema_version": SCHEMA_VERSION,
        "target": report.target,
        "framework": report.framework,
        "stage": "before compilation",
        "saved_bytes": trace.saved_bytes,
        "new_bytes": trace.new_bytes,
        "peak_bytes": report.peak_bytes,
        "unsure": dict(trace.unsure),
        "operations": {"forward": trace.boundary, "backward": len(trace.steps) - trace.boundary},
        "residuals": [_residual(trace, r) for r in trace.residuals],
        "findings": [asdict(finding) for finding in report.findings],
        "recomputed": [asdict(recomputation) for recomputation in report.recomputed],
        "advice": [asdict(advice) for advice in report.advice],
        "modules": _branch(tree(trace)),
        **({"after_compilation": _compiled(report.after_compilation)} if "after_compilation" in vars(report) else {}),
    }


def _compiled(compiled: Any) -> dict[str, Any]:
    return compiled._asdict() | {"arrays": [a._asdict() for a in compiled.arrays]}


def _residual(trace: Trace, r: Residual) -> dict[str, Any]:
    read_by = dict.fromkeys(trace.steps[i].op for i in r.reads)
    return {
        "name": r.name,
        "shape": list(r.value.shape),
        "dtype": r.value.dtype,
        "bytes": r.nbytes,
        "storage_bytes": r.storage_bytes,
        "kind": r.kind,
        "is_new": r.is_new,
        "made_by": r.op,
        "line": r.line,
        "module": r.module,
        "read_by": list(read_by),
        "is_unused": r.is_unused,
    }


def _branch(branch: Branch) -> dict[str, Any]:
    inside = sorted(branch.branches.values(), key=lambda b: -b.new_bytes)
    return {
        "name": branch.title,
        "modules_alike": len(branch.paths),
        "arrays": branch.count,
        "bytes": branch.nbytes,
        "new_bytes": branch.new_bytes,
        "inside": [_branch(b) for b in inside],
    }

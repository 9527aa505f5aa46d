"""An audit for machines. The page docs/json.md says what each key means."""

from collections.abc import Sequence
from typing import Any

from residuals_lab.audit import Audit
from residuals_lab.audit.matching import Side, explained, matched
from residuals_lab.frameworks.compiled import Compiled
from residuals_lab.trace.document import residuals
from residuals_lab.trace.groups import Branch, By, by, tree

SCHEMA_VERSION = 2


def documents(audits: Sequence[Audit], group: By | None = None) -> dict[str, Any]:
    """One audit as it is, with its sums if they are asked for; two with what tells them apart."""
    found = [document(a) | (_sums(a, group) if group else {}) for a in audits]
    if len(found) == 1:
        return found[0]
    left, right = audits
    return {"schema_version": SCHEMA_VERSION, "audits": found, "matched": _matched(left, right)}


def document(audit: Audit) -> dict[str, Any]:
    """The whole audit."""
    trace = audit.trace
    return {
        "schema_version": SCHEMA_VERSION,
        "target": audit.target,
        "framework": audit.framework,
        "stage": "before compilation",
        "saved_bytes": trace.saved_bytes,
        "new_bytes": trace.new_bytes,
        "peak_bytes": audit.peak_bytes,
        "unsure": dict(trace.unsure),
        "operations": {"forward": trace.boundary, "backward": len(trace.steps) - trace.boundary},
        "residuals": residuals(trace),
        "waste": [
            {"what": w.what, "why": w.why, "names": list(w.names), "line": w.line, "freed_bytes": w.nbytes}
            for w in audit.waste
        ],
        "repeats": [
            {"op": r.op, "cost": r.cost, "line": r.line, "count": r.count, "bytes": r.nbytes} for r in audit.repeats
        ],
        "advice": [
            {
                "what": a.what,
                "line": a.line,
                "op": a.op,
                "arrays": a.arrays,
                "new_bytes": a.nbytes,
                "instead_bytes": a.instead,
                "freed_bytes": a.freed,
            }
            for a in audit.advice
        ],
        "modules": _branch(tree(trace)),
        "compiled": audit.compiled and _compiled(audit.compiled),
    }


def _compiled(compiled: Compiled) -> dict[str, Any]:
    arrays = [
        {
            "name": a.name,
            "shape": list(a.shape),
            "dtype": a.dtype,
            "bytes": a.nbytes,
            "storage_bytes": a.storage_bytes,
            "is_new": a.is_new,
        }
        for a in compiled.arrays
    ]
    return {"what": compiled.what, "new_bytes": compiled.new_bytes, "arrays": arrays}


def _branch(branch: Branch) -> dict[str, Any]:
    inside = sorted(branch.branches.values(), key=lambda b: -b.new_bytes)
    return {
        "name": branch.title,
        "modules_alike": len(branch.paths),
        "arrays": branch.count,
        "saved_bytes": branch.nbytes,
        "new_bytes": branch.new_bytes,
        "inside": [_branch(b) for b in inside],
    }


def _sums(audit: Audit, group: By) -> dict[str, Any]:
    """What each line, module or kind has."""
    groups = [
        {"label": g.label, "arrays": g.arrays, "saved_bytes": g.nbytes, "new_bytes": g.new_bytes}
        for g in by(audit.trace, group)
    ]
    return {"by": {group: groups}}


def _matched(left: Audit, right: Audit) -> list[dict[str, Any]]:
    """What stands for what in two audits."""
    return [
        {
            "made_by": m.name,
            "dtype": m.dtype,
            "left": _match_side(m.left),
            "right": _match_side(m.right),
            "difference": m.difference,
            "why": explained(m),
        }
        for m in matched(left.trace, right.trace)
    ]


def _match_side(side: Side) -> dict[str, Any]:
    return {"arrays": side.count, "new_bytes": side.nbytes, "lines": side.lines}

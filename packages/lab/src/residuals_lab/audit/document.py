"""An audit for machines. The page docs/json.md says what each key means."""

from collections.abc import Sequence
from typing import Any

from residuals_lab.audit import Audit
from residuals_lab.audit.matching import Side, explained, matched
from residuals_lab.audit.proof import Proof
from residuals_lab.frameworks.compiled import Compiled
from residuals_lab.trace.document import SCHEMA_VERSION, kept, repeats
from residuals_lab.trace.groups import Branch, By, by, tree


def documents(audits: Sequence[Audit], group: By | None = None) -> dict[str, Any]:
    """One audit as it is; two with what tells them apart."""
    found = [document(a, group) for a in audits]
    if len(found) == 1:
        return found[0]
    left, right = audits
    return {"schema_version": SCHEMA_VERSION, "audits": found, "matched": _matched(left, right)}


def document(audit: Audit, group: By | None = None) -> dict[str, Any]:
    """The whole audit, with the sums of a group if they are asked for."""
    trace = audit.trace
    return {
        "schema_version": SCHEMA_VERSION,
        "target": audit.target,
        "framework": audit.adapter.NAME,
        "version": audit.framework,
        **kept(trace),
        "peak_bytes": audit.peak_bytes,
        "operations": {"forward": trace.boundary, "backward": len(trace.steps) - trace.boundary},
        "unsure": [{"op": op, "line": line} for op, line in trace.unsure.items()],
        "device": trace.device or None,
        "unlike_on_gpu": [{"op": op, "source": source} for op, source in trace.elsewhere.items()],
        "notes": list(trace.notes),
        "findings": [
            {"what": w.what, "why": w.why, "names": list(w.names), "line": w.line, "freed_bytes": w.nbytes}
            for w in audit.findings
        ],
        "repeats": repeats(trace),
        "advice": [
            {
                "what": a.what,
                "line": a.line,
                "op": a.op,
                "options": a.options,
                "own": a.own,
                "arrays": a.arrays,
                "new_bytes": a.nbytes,
                "instead_bytes": a.instead,
                "freed_bytes": a.freed,
            }
            for a in audit.advice
        ],
        "proof": audit.proof and _proof(audit.proof),
        "modules": _branch(tree(trace)),
        "by": {group: _sums(audit, group)} if group else None,
        "compiled": audit.compiled and _compiled(audit.compiled),
    }


def _proof(proof: Proof) -> dict[str, Any]:
    """The advice taken, in its order."""
    return {
        "said_bytes": proof.said,
        "freed_bytes": proof.freed,
        "why": proof.why,
        "error": proof.error,
        "allowed": proof.allowed,
        "advice": [{"freed_bytes": one.freed, "is_true": one.is_true, "why": one.why} for one in proof.taken],
    }


def _compiled(compiled: Compiled) -> dict[str, Any]:
    residuals = [
        {
            "name": a.name,
            "shape": list(a.shape),
            "dtype": a.dtype,
            "bytes": a.nbytes,
            "storage": storage,
            "storage_bytes": a.storage_bytes,
            "is_new": a.is_new,
        }
        for storage, a in enumerate(compiled.arrays)  # one array stands for its whole storage
    ]
    return {"what": compiled.what, "new_bytes": compiled.new_bytes, "residuals": residuals}


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


def _sums(audit: Audit, group: By) -> list[dict[str, Any]]:
    """What each line, module or kind has."""
    return [
        {"label": g.label, "arrays": g.arrays, "saved_bytes": g.nbytes, "new_bytes": g.new_bytes}
        for g in by(audit.trace, group)
    ]


def _matched(left: Audit, right: Audit) -> list[dict[str, Any]]:
    """The residuals of two audits that stand for each other."""
    return [
        {
            "made_by": m.name,
            "dtype": m.dtype,
            "left": _match_side(m.left),
            "right": _match_side(m.right),
            "difference_bytes": m.difference,
            "why": explained(m),
        }
        for m in matched(left.trace, right.trace)
    ]


def _match_side(side: Side) -> dict[str, Any]:
    return {"arrays": side.count, "new_bytes": side.nbytes, "lines": side.lines}

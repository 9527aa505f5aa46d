"""A comparison for machines. The page docs/json.md says what each key means."""

from dataclasses import asdict
from typing import Any

from residuals_lab.compare import Comparison, Entry, Implementation, Side
from residuals_lab.compare.measure import Errors, Kept
from residuals_lab.trace import document as trace_document

SCHEMA_VERSION = 2


def document(comparison: Comparison) -> dict[str, Any]:
    """The whole comparison."""
    options = comparison.options
    return {
        "schema_version": SCHEMA_VERSION,
        "device": options.device,
        "seed": options.seed,
        "dtypes": list(options.dtypes),
        "ops": [_entry(entry) for entry in comparison.entries],
        "findings": [asdict(finding) for finding in comparison.findings],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    difference, target = entry.difference, entry.target
    found = {
        "op": entry.call.op.name,
        "shapes": {name: list(a.shape) for name, a in entry.call.arrays.items()},
        "first_array_bytes": entry.first_array_bytes,
        "frameworks": {name: _side(side) for name, side in entry.sides.items()},
        "difference": difference and _errors(difference),
        "exchange": {f"{source}->{reader}": worst for (source, reader), worst in entry.exchange.items()},
        "findings": [asdict(finding) for finding in entry.findings],
    }
    if target is not None:
        found["target"] = {"name": target.name, "framework": entry.target_framework, **_implementation(target)}
    return found


def _side(side: Side) -> dict[str, Any]:
    return {
        "version": side.title,
        **_implementation(side.rule),
        "plain": _implementation(side.plain),
        "own": side.own and {"name": side.own_name, **_kept(side.own)},
        "checkpoint": _kept(side.checkpoint),
    }


def _implementation(found: Implementation) -> dict[str, Any]:
    return _errors(found.errors) | _kept(found.kept)


def _errors(errors: Errors) -> dict[str, Any]:
    return {f"{what}_error": worst for what, worst in errors._asdict().items()}


def _kept(kept: Kept) -> dict[str, Any]:
    return {
        "residuals": trace_document.residuals(kept.trace),
        "saved_bytes": kept.saved_bytes,
        "new_bytes": kept.new_bytes,
        "chain_bytes": kept.chain_bytes,
        "repeats": kept.trace.repeats(),
    }

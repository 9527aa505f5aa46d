"""A comparison for machines. The page docs/json.md says what each key means."""

from dataclasses import asdict
from typing import Any

from residuals_lab.compare import Comparison, Entry, Implementation, Side
from residuals_lab.compare.measure import Errors, Kept
from residuals_lab.trace.document import SCHEMA_VERSION, kept, repeats


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
    return {
        "op": entry.call.op.name,
        "shapes": {name: list(a.shape) for name, a in entry.call.arrays.items()},
        "first_array_bytes": entry.first_array_bytes,
        "frameworks": {name: _side(side) for name, side in entry.sides.items()},
        "target": entry.target and _measured(entry.target),
        "difference": entry.difference and _errors(entry.difference),
        "exchange": {f"{source}->{reader}": worst for (source, reader), worst in entry.exchange.items()},
        "findings": [asdict(finding) for finding in entry.findings],
    }


def _side(side: Side) -> dict[str, Any]:
    return {
        "version": side.title,
        "rule": _measured(side.rule),
        "plain": _measured(side.plain),
        "own": side.own and _implementation(side.own_name, None, side.own),
        "checkpoint": _implementation("checkpoint", None, side.checkpoint),
    }


def _measured(found: Implementation) -> dict[str, Any]:
    return _implementation(found.name, found.errors, found.kept)


def _implementation(name: str | None, errors: Errors | None, found: Kept) -> dict[str, Any]:
    return {
        "name": name,
        "errors": errors and _errors(errors),
        **kept(found.trace),
        "chain_bytes": found.chain_bytes,
        "repeats": repeats(found.trace),
    }


def _errors(errors: Errors) -> dict[str, Any]:
    return dict(errors._asdict())

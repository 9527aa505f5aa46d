"""A comparison for machines. The page docs/json.md says what each key means."""

from dataclasses import asdict
from typing import Any

from residuals_lab.compare import Comparison, Entry, Implementation, Side
from residuals_lab.compare.beside import Beside, Difference
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


def beside_document(found: Beside) -> dict[str, Any]:
    """Two ports side by side."""
    first = found.ports[0]
    return {
        "schema_version": SCHEMA_VERSION,
        "device": found.options.device,
        "seed": found.options.seed,
        "dtypes": list(found.options.dtypes),
        "shapes": {a.name: list(a.array.shape) for a in first.inputs},
        "ports": [
            {
                "target": port.name,
                "framework": port.adapter.NAME,
                "version": port.adapter.TITLE,
                **kept(trace),
                "peak_bytes": peak,
                "repeats": repeats(trace),
            }
            for port, trace, peak in zip(found.ports, found.traces, found.peaks, strict=True)
        ],
        "differences": [_difference(d) for d in found.differences],
        "at_zero": [_difference(d) for d in found.at_zero],
        "equal": [{"first": m.first and m.first.name, "second": m.second and m.second.name} for m in found.matches],
        "findings": [asdict(finding) for finding in found.findings],
        "notes": list(found.notes),
    }


def _difference(d: Difference) -> dict[str, Any]:
    return {
        "what": d.what,
        "dtype": d.dtype,
        "error": d.error,
        "allowed": d.allowed,
        "is_wrong": d.is_wrong,
        "known": d.known and d.known.rule,
        "text": d.known.text if d.known else "",
    }

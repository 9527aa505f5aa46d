"""What is wrong with what was measured, one line each; nothing, for a right op."""

from collections.abc import Sequence
from types import ModuleType

from residuals_lab.compare.measure import Options, Record
from residuals_lab.ops.call import Call
from residuals_lab.ops.tolerance import FLOAT64_LIMIT, limit


def failures(entry: Record, call: Call, adapters: Sequence[ModuleType], options: Options) -> list[str]:
    """What is wrong with an entry of the comparison."""
    found = []
    for adapter in adapters:
        record, module = entry["frameworks"][adapter.NAME], adapter.op(call.op.name)
        where = f"{call.op.name} in {adapter.TITLE}"
        found += _inaccuracies(where, record, record, options)
        names, expected = sorted(r["name"] for r in record["residuals"]), sorted(call.residuals())
        if names != expected:
            found.append(f"{where}: holds {', '.join(names)}; `Residuals` says {', '.join(expected)}")
        again, declared = record["recomputed"], sorted(set(module.RECOMPUTES).intersection(record["computed"]))
        if again != declared:
            found.append(f"{where}: backward computes again {again or 'nothing'}; declared {declared or 'nothing'}")
        allowed = limit(options.dtypes[0], record["autodiff_gradient_error"][options.dtypes[0]])
        for pair, worst in entry["exchange"].items():
            if pair.endswith(f"->{adapter.NAME}") and not worst <= allowed:
                found.append(f"{call.op.name}: exchange {pair}: gradient error {worst:.1e}, allowed {allowed:.1e}")
    if "target" in entry:
        ours = entry["frameworks"][entry["target"]["framework"]]
        found += _inaccuracies(entry["target"]["name"], entry["target"], ours, options)
    return found


def _inaccuracies(where: str, record: Record, ours: Record, options: Options) -> list[str]:
    """Errors above what plain autodiff of our op's maths allows."""
    checks = [
        (f"{what} error", dtype, worst, ours[f"autodiff_{what}_error"][dtype])
        for what in ("value", "gradient")
        for dtype, worst in record[f"{what}_error"].items()
    ]
    found = [
        f"{where}: {what} {worst:.1e} in {dtype}, allowed {limit(dtype, autodiff):.1e}"
        for what, dtype, worst, autodiff in checks
        if not worst <= limit(dtype, autodiff)
    ]
    second = record["second_derivative_error"]
    if second is None:
        found.append(f"{where}: cannot be differentiated twice")
    elif not second <= FLOAT64_LIMIT:
        found.append(f"{where}: second derivative error {second:.1e} in float64, allowed {FLOAT64_LIMIT:.1e}")
    return found

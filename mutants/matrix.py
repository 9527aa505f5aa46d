"""The kill matrix: operators down, judges across."""

from collections.abc import Mapping, Sequence
from typing import Any

from mutants.equivalent import reason

COLUMNS = {"check": "alone", "quick": "quick", "reference": "with ref", "gradcheck": "theirs", "opcheck": "opcheck"}


def text(framework: str, mutants: Sequence[Any], results: Mapping[str, Any], is_verbose: bool) -> str:
    """All of it for one framework, in 80 columns."""
    seen = [m for m in mutants if "check" in results.get(m.id, {})]
    same = [m for m in seen if _is_shown_equivalent(results[m.id]) and reason(m)]
    other = [m for m in seen if _is_another_function(results[m.id])]
    faults = [m for m in seen if m not in same and m not in other]
    columns = {k: v for k, v in COLUMNS.items() if any(k in results[m.id] for m in seen)}
    head = f"{'operator':<25}{'count':>5}" + "".join(f"{title:>9}" for title in columns.values()) + f"{'named':>6}"
    rows = [
        _row(operator, [m for m in faults if m.operator == operator], results, columns)
        for operator in dict.fromkeys(m.operator for m in faults)
    ]
    totals = [_row("faults", faults, results, columns), _row("other functions", other, results, columns)]
    lines = [f"{framework}: {len(seen)} mutants, {len(same)} of them equivalent", "", head, *rows, "-" * 80, *totals]
    if is_verbose:
        lines += ["", *(_told(m, results[m.id]) for m in seen if m not in same and _is_told(m, results[m.id]))]
    return "\n".join(lines)


def _is_shown_equivalent(found: Mapping[str, Any]) -> bool:
    """Whether nothing differs, and nobody sees anything: not under a compiler either, say."""
    return "comparison" in found and not any(verdict["killed"] for verdict in found.values())


def _is_another_function(found: Mapping[str, Any]) -> bool:
    return bool(found.get("comparison", {}).get("is_right"))


def _row(title: str, mutants: Sequence[Any], results: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    cells = []
    for judge in columns:
        known = [results[m.id][judge] for m in mutants if judge in results[m.id] and _is_fair(m, judge, results)]
        cells.append(_share(sum(v["killed"] for v in known), len(known)))
    killed = [m for m in mutants if results[m.id]["check"]["killed"]]
    named = sum(_is_named(m, results[m.id]) for m in killed)
    return f"{title:<25}{len(mutants):>5}" + "".join(f"{c:>9}" for c in cells) + f"{_share(named, len(killed)):>6}"


def _is_fair(mutant: Any, judge: str, results: Mapping[str, Any]) -> bool:
    """Whether a judge passes the op as it is at this sample, so that what it kills is a fault."""
    found = results[mutant.id]
    unchanged = results.get(unchanged_id(mutant, found["comparison"]["sample"]), {}).get(judge, {"killed": False})
    return bool(found[judge].get("applies", True)) and not unchanged["killed"]


def unchanged_id(mutant: Any, sample: str) -> str:
    """The id of the op as it is, at a sample."""
    return f"{mutant.source.framework}/{mutant.op}/unchanged/{sample}"


def _share(some: int, all_: int) -> str:
    return f"{100 * some / all_:.0f}%" if all_ else "–"


def _is_named(mutant: Any, found: Mapping[str, Any]) -> bool:
    return bool(found["check"]["by"]) and found["check"]["by"][0] in mutant.expected


def _is_told(mutant: Any, found: Mapping[str, Any]) -> bool:
    return (
        not found["check"]["killed"]
        or not _is_named(mutant, found)
        or not found.get("quick", {"killed": True})["killed"]
    )


def _told(mutant: Any, found: Mapping[str, Any]) -> str:
    how = "SURVIVES" if not found["check"]["killed"] else "named " + ",".join(found["check"]["by"])
    quick = "" if found.get("quick", {"killed": True})["killed"] else " (survives quick)"
    compared = found.get("comparison", {"by": [], "sample": ""})
    where = f"{', '.join(compared['by'])} at {compared['sample']}"
    lines = (f"{mutant.id}:{mutant.line} {mutant.what}", f"{how}{quick}; {where}", found["check"].get("first", ""))
    return "\n    ".join(lines)

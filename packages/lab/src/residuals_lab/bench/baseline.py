"""A bench beside an earlier one, in a file: whether something became slower."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from residuals_lab.errors import UsageError

SAME = (
    "machine",
    "device",
    "threads",
    "dtype",
    "size",
    "is_compiled",
    "is_fused",
)  # what two benches must have in common


class Change(NamedTuple):
    """A ratio whose interval has nothing in common with that of before."""

    name: str
    framework: str
    way: str
    phase: str
    before: float
    now: float

    @property
    def is_slower(self) -> bool:
        return self.now > self.before


def read(path: Path) -> dict[str, Any]:
    """A document that `--save` has written.

    Raises:
        UsageError: if it is something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as problem:
        raise UsageError(f"--baseline: expected a file that --save has written, {path}: {problem}") from problem
    if not isinstance(found, dict) or "rounds" not in found or "entries" not in found:
        raise UsageError(f"--baseline: expected a file that --save has written, got another one: {path}")
    return found


def unlike(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In what the two cannot be compared, a line each."""
    return [f"{key}: {before.get(key)} then, {now[key]} now" for key in SAME if before.get(key) != now[key]]


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """The ratios that changed, of entries and ways that both have, where the machine was quiet both times."""
    then = {(e["name"], e["framework"]): e for e in before["entries"] if e["is_quiet"]}
    found = []
    for entry in now["entries"]:
        old = then.get((entry["name"], entry["framework"]))
        if old is None or not entry["is_quiet"]:
            continue
        ways = {way["name"]: way for way in old["ways"]}
        for way in entry["ways"]:
            for phase, ratio in (way["ratio"] or {}).items():
                was = (ways.get(way["name"], {}).get("ratio") or {}).get(phase)
                if was and (was["high"] < ratio["low"] or ratio["high"] < was["low"]):
                    found.append(
                        Change(entry["name"], entry["framework"], way["name"], phase, was["median"], ratio["median"])
                    )
    return found

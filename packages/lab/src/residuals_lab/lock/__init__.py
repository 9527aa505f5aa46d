"""The gate: what chosen targets keep for their backward, written down in a file for review, and checked against it.

The file is TOML, sorted, a residual a line; layers alike are one line. It names no source lines, which every edit
moves. Targets are found from the directory that the command runs in.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from residuals_lab.audit import Audit
from residuals_lab.audit.target import audit_target
from residuals_lab.errors import UsageError
from residuals_lab.targets.arguments import Argument
from residuals_lab.trace.groups import alike, rows

CONCRETE = "--concrete"


class Key(NamedTuple):
    """The properties that the residuals of one line share."""

    name: str
    kind: str
    array: str  # "float32[4, 8]"


class Amount(NamedTuple):
    arrays: int = 0
    nbytes: int = 0  # each storage once


@dataclass(frozen=True)
class Entry:
    """A target, how to call it, and what it keeps."""

    target: str
    framework: str
    arguments: tuple[str, ...]  # "--arg f32[4,8]", as a program gets it, without the quotes that a shell needs
    new_bytes: int = 0
    saved_bytes: int = 0
    residuals: dict[Key, Amount] = field(default_factory=dict)
    lines: dict[Key, str] = field(default_factory=dict)  # source lines where residuals are made; not in the file

    @property
    def place(self) -> tuple[str, str, tuple[str, ...]]:
        """The key that tells entries apart and sorts them."""
        return self.target, self.framework, self.arguments


def now(target: str, arguments: Sequence[str], framework: str | None = None) -> Entry:
    """The entry of a target as it is now."""
    given = [_argument(text) for text in arguments if text != CONCRETE]
    audit = audit_target(target, given, framework, is_concrete=CONCRETE in arguments)
    return _entry(target, tuple(arguments), audit)


def _argument(text: str) -> Argument:
    how, _, value = text.removeprefix("--").partition(" ")
    if how not in ("arg", "param", "frozen", "input") or not value:
        raise UsageError(f"lock: expected an argument of a target, such as '--arg 0.5', got {text!r}")
    return Argument(how, value)  # type: ignore[arg-type]


def _entry(target: str, arguments: tuple[str, ...], audit: Audit) -> Entry:
    found: dict[Key, Amount] = {}
    lines: dict[Key, str] = {}
    constants = 0
    for row in rows(audit.trace):
        r = row.residual
        if r.kind == "parameter" and not r.value.shape:  # a number in the program, as `2.0 * x` has one
            constants += row.nbytes
            continue
        key = Key(alike(r.name), r.kind, str(r.value))
        before = found.get(key, Amount())
        found[key] = Amount(before.arrays + row.count, before.nbytes + row.nbytes)
        lines.setdefault(key, r.line)
    return Entry(target, audit.adapter.NAME, arguments, audit.new_bytes, audit.saved_bytes - constants, found, lines)


def named(target: str) -> str:
    """The name of a target in the file, however it was spelled: a file below this folder by its relative path."""
    place, colon, function = target.rpartition(":")
    if place.endswith(".py"):
        path = os.path.relpath(place)
        place = Path(place if path.startswith(os.pardir) else path).as_posix()
    return f"{place}{colon}{function}"

"""The gate: what chosen targets keep for their backward, written down in a file for review, and checked against it.

The file is TOML, sorted, a residual a line; layers alike are one line. It names no source lines, which every edit
moves. Paths in it are relative to the folder that the file lies in, which is also the working directory while a target
runs: so a check gives the same from every folder.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from residuals_lab.audit import Audit
from residuals_lab.audit.target import audit_target
from residuals_lab.errors import MissingFramework, UsageError
from residuals_lab.targets.arguments import Argument
from residuals_lab.trace.groups import Row, alike, rows

CONCRETE = "--concrete"


class Key(NamedTuple):
    """The properties that the residuals of one line share."""

    name: str
    kind: str  # that of a residual; "alive view" is a view of an array that is alive anyway
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
    written_with: str = ""  # the framework and its version, "PyTorch 2.13.0"; "" where version 1 of the file had none
    lines: dict[Key, str] = field(default_factory=dict)  # source lines where residuals are made; not in the file

    @property
    def place(self) -> tuple[str, str, tuple[str, ...]]:
        """The key that tells entries apart and sorts them."""
        return self.target, self.framework, self.arguments


def now(target: str, arguments: Sequence[str], framework: str | None, folder: Path) -> Entry:
    """The entry of a target as it is now. Its paths are relative to `folder`, that of the lock file."""
    given = [_argument(text) for text in arguments if text != CONCRETE]
    with contextlib.chdir(folder):
        audit = audit_target(target, given, framework, is_concrete=CONCRETE in arguments)
    return _entry(target, tuple(arguments), audit, folder)


def again(entries: Iterable[Entry], folder: Path) -> Iterator[tuple[Entry, Entry | UsageError | MissingFramework]]:
    """Each entry with the entry that its target has now, or with the reason why it has none."""
    for entry in entries:
        try:
            yield entry, now(entry.target, entry.arguments, entry.framework, folder)
        except MissingFramework as problem:
            yield entry, problem
        except UsageError as problem:
            yield entry, UsageError(f"{problem}; to forget this target, delete its entry")


def _argument(text: str) -> Argument:
    how, _, value = text.removeprefix("--").partition(" ")
    if how not in ("arg", "param", "frozen", "input") or not value:
        raise UsageError(f"lock: expected an argument of a target, such as '--arg 0.5', got {text!r}")
    return Argument(how, value)  # type: ignore[arg-type]


def _entry(target: str, arguments: tuple[str, ...], audit: Audit, folder: Path) -> Entry:
    found: dict[Key, Amount] = {}
    lines: dict[Key, list[str]] = {}
    numbers = new_numbers = 0  # bytes
    for row in rows(audit.trace):
        r = row.residual
        if not r.op and not r.value.shape and r.kind in ("parameter", "new"):  # a number in the program: `2.0 * x`
            numbers += row.nbytes
            new_numbers += row.new_bytes
            continue
        key = Key(alike(r.name), _kind(row), str(r.value))
        before = found.get(key, Amount())
        found[key] = Amount(before.arrays + row.count, before.nbytes + row.nbytes)
        if r.line:
            lines.setdefault(key, []).append(_from_here(r.line, folder, target))
    totals = audit.new_bytes - new_numbers, audit.saved_bytes - numbers
    places = {key: ", ".join(dict.fromkeys(those)) for key, those in lines.items()}
    return Entry(target, audit.adapter.NAME, arguments, *totals, found, audit.framework, places)


def _kind(row: Row) -> str:
    return "alive view" if row.residual.kind == "view" and not row.new_bytes else row.residual.kind


def _from_here(line: str, folder: Path, target: str) -> str:
    """A source line named from the working directory. It was named from `folder`, a file outside by its name alone."""
    file, _, number = line.rpartition(":")
    own = Path(target.rpartition(":")[0])
    path = folder / (own if own.name == file else file)
    return f"{os.path.relpath(path)}:{number}" if path.is_file() else line


def named(target: str, folder: Path) -> str:
    """The name of a target in the file, with its path as `_relative` has it."""
    place, colon, function = target.rpartition(":")
    return f"{_relative(place, folder) if place.endswith('.py') else place}{colon}{function}"


def named_argument(argument: str, folder: Path) -> str:
    """An argument as it is in the file: the path in it, if it has one, as `_relative` has it."""
    option, _, text = argument.partition(" ")
    keyword, name, value = re.fullmatch(r"((\w+)=)?(.*)", text, re.DOTALL).group(1, 2, 3)  # type: ignore[union-attr]
    if option == "--input" and name and value:
        return f"{option} {keyword}{_relative(value, folder)}"
    is_file = value.rpartition(":")[0].endswith(".py") and not value.startswith(("{", "'", '"'))
    return f"{option} {keyword or ''}{named(value, folder)}" if is_file else argument


def _relative(path: str, folder: Path) -> str:
    """The path from `folder` to a file, however it was spelled."""
    return Path(os.path.relpath(Path(path).parent.resolve() / Path(path).name, folder)).as_posix()

"""The gate: what chosen targets keep for their backward, written down in a file for review, and checked against it.

The file is TOML, sorted, a residual a line; layers alike are one line. It names no source lines, which every edit
moves. Targets are found from the directory that the command runs in.
"""

import json
import os
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from residuals_lab import frameworks
from residuals_lab.audit import Report
from residuals_lab.audit_document import alike, rows
from residuals_lab.errors import MissingFramework, UsageError
from residuals_lab.show import size
from residuals_lab.targets import Argument, audit_target

FILE = "residuals.lock"
VERSION = 1
HEAD = """\
# What these targets keep for their backward, before compilation. `residuals lock check` fails if it grows, and
# `residuals lock write` accepts what is kept now. To forget a target, delete its entry.
"""


class Key(NamedTuple):
    """What residuals have in common to be one line."""

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
    arguments: tuple[str, ...]  # as on a command line, "--arg f32[4,8]"
    new_bytes: int = 0
    saved_bytes: int = 0
    residuals: dict[Key, Amount] = field(default_factory=dict)
    lines: dict[Key, str] = field(default_factory=dict)  # where they are made; not in the file

    @property
    def place(self) -> tuple[str, str, tuple[str, ...]]:
        """What tells entries apart, and sorts them."""
        return self.target, self.framework, self.arguments


class Change(NamedTuple):
    """Something that is not as it is in the file."""

    entry: Entry
    what: str  # in words
    before: int
    after: int

    @property
    def is_worse(self) -> bool:
        return self.after > self.before


def now(target: str, arguments: Sequence[str], framework: str | None = None) -> Entry:
    """The entry of a target as it is now."""
    given = [_argument(text) for text in arguments]
    report = audit_target(target, given, framework)
    return _entry(target, tuple(arguments), report)


def _argument(text: str) -> Argument:
    how, _, value = text.removeprefix("--").partition(" ")
    if how not in ("arg", "param", "frozen", "input") or not value:
        raise UsageError(f"lock: expected an argument such as '--arg f32[4,8]', got {text!r}")
    return Argument(how, value)  # type: ignore[arg-type]


def _entry(target: str, arguments: tuple[str, ...], report: Report) -> Entry:
    found: dict[Key, Amount] = {}
    lines: dict[Key, str] = {}
    constants = 0
    for row in rows(report.trace):
        r = row.residual
        if r.kind == "parameter" and not r.value.shape:  # a number in the program, as `2.0 * x` has one
            constants += row.nbytes
            continue
        key = Key(alike(r.name), r.kind, f"{r.value.dtype}[{', '.join(map(str, r.value.shape))}]")
        before = found.get(key, Amount())
        found[key] = Amount(before.arrays + row.count, before.nbytes + row.nbytes)
        lines.setdefault(key, r.line)
    return Entry(target, report.adapter.NAME, arguments, report.new_bytes, report.saved_bytes - constants, found, lines)


def changes(before: Entry, after: Entry) -> list[Change]:
    """What is not as it was: totals, then residuals, the largest first."""
    found = [
        Change(after, "new bytes", before.new_bytes, after.new_bytes),
        Change(after, "held bytes", before.saved_bytes, after.saved_bytes),
    ]
    for key in sorted({*before.residuals, *after.residuals}):
        was, is_now = (entry.residuals.get(key, Amount()) for entry in (before, after))
        where = f" at {after.lines[key]}" if after.lines.get(key) else ""
        counts = f", {was.arrays} arrays before and {is_now.arrays} now" if was.arrays and is_now.arrays else ""
        what = f"{'appears: ' if not was.arrays else 'is gone: ' if not is_now.arrays else ''}{key.name}, {key.kind} "
        # An array of no bytes that appears is one more all the same.
        appears = int(is_now.arrays > was.arrays and is_now.nbytes == was.nbytes)
        found.append(Change(after, f"{what}{key.array}{where}{counts}", was.nbytes, is_now.nbytes + appears))
    return sorted((c for c in found if c.before != c.after), key=lambda c: c.before - c.after)


def check(
    entries: Iterable[Entry], framework: str | None = None
) -> tuple[list[Change], list[MissingFramework], list[UsageError]]:
    """All changes, and why there may be more: frameworks that are missing, targets that cannot be audited."""
    found: list[Change] = []
    missing: list[MissingFramework] = []
    unclear: list[UsageError] = []
    for entry in entries:
        if framework in (None, entry.framework):
            try:
                found += changes(entry, now(entry.target, entry.arguments, entry.framework))
            except MissingFramework as problem:
                missing += [problem] * (str(problem) not in map(str, missing))
            except UsageError as problem:
                unclear.append(problem)
    return found, missing, unclear


def updated(entries: Iterable[Entry], entry: Entry) -> list[Entry]:
    """The entries with this one in the place of the same before."""
    return [*(e for e in entries if e.place != entry.place), entry]


def read(path: Path) -> list[Entry]:
    """The entries of a file; UsageError, in one line, if it is missing or is not one."""
    if not path.is_file():
        raise UsageError(f"lock: no file {path}; write one with: residuals lock write TARGET --arg f32[4,8]")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        if document["version"] != VERSION:
            raise UsageError(f"lock: expected version {VERSION} in {path}, got {document['version']}")
        return [_read_entry(found) for found in document.get("target", [])]
    except tomllib.TOMLDecodeError as problem:
        raise UsageError(f"lock: {path} is no TOML: {problem}") from None
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError) as problem:
        raise UsageError(f"lock: {path} is not what `residuals lock write` writes: {problem!r}") from None


def _read_entry(found: dict[str, Any]) -> Entry:
    residuals = {
        Key(r["name"], r["kind"], r["array"]): Amount(r.get("count", 1), r["bytes"]) for r in found["residuals"]
    }
    totals = found["new_bytes"], found["saved_bytes"]
    return Entry(found["target"], found["framework"], tuple(found["arguments"]), *totals, residuals)


def text(entries: Iterable[Entry]) -> str:
    """The file of these entries."""
    parts = [f"{HEAD}\nversion = {VERSION}\n"]
    for entry in sorted(entries, key=lambda e: e.place):
        arguments = ", ".join(map(_quoted, entry.arguments))
        lines = [
            "[[target]]",
            f"target = {_quoted(entry.target)}",
            f"framework = {_quoted(entry.framework)}",
            f"arguments = [{arguments}]",
            f"new_bytes = {entry.new_bytes}",
            f"saved_bytes = {entry.saved_bytes}",
            "residuals = [",
            *(f"  {_inline(key, amount)}," for key, amount in sorted(entry.residuals.items())),
            "]",
        ]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _inline(key: Key, amount: Amount) -> str:
    count = f", count = {amount.arrays}" if amount.arrays > 1 else ""
    pairs = ", ".join(f"{name} = {_quoted(value)}" for name, value in key._asdict().items())
    return f"{{ {pairs}{count}, bytes = {amount.nbytes} }}"


def _quoted(value: str) -> str:
    """A basic string of TOML, which has the escapes of JSON."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def write(path: Path, entries: Iterable[Entry]) -> None:
    """Write the file as a whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text(entries), encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def run_write(path: Path, targets: Sequence[tuple[str, Sequence[str]]], framework: str | None) -> int:
    """Put targets into the file, or look at all that are in it again."""
    before = read(path) if path.exists() or not targets else []
    entries = before
    for target, arguments in targets:
        entries = updated(entries, now(target, arguments, framework))
    if not targets:
        here = [e for e in before if framework in (None, e.framework)]
        for entry in here:
            entries = updated(entries, now(entry.target, entry.arguments, entry.framework))
    write(path, [replace(e, lines={}) for e in entries])
    new_bytes = size(sum(e.new_bytes for e in entries))
    print(f"{path}: {len(entries)} target{'' if len(entries) == 1 else 's'}, {new_bytes} new")
    return 0


def run_check(path: Path, targets: Sequence[str], framework: str | None, as_json: bool) -> int:
    """Compare the file with what is kept now: 1 if anything grew; else 2 if a target cannot be audited; else 3 if a
    framework is missing for some of it.
    """
    entries = read(path)
    unknown = [target for target in targets if target not in {e.target for e in entries}]
    if unknown:
        raise UsageError(f"lock: {unknown[0]} is not in {path}; residuals lock write {unknown[0]} adds it")
    entries = [e for e in entries if not targets or e.target in targets]
    found, missing, unclear = check(entries, framework)
    worse = [c for c in found if c.is_worse]
    if as_json:
        listed = [
            {"target": c.entry.target, "what": c.what, "before": c.before, "after": c.after, "is_worse": c.is_worse}
            for c in found
        ]
        problems = [str(problem) for problem in (*unclear, *missing)]
        print(json.dumps({"schema_version": 1, "changes": listed, "problems": problems}, indent=2))
    else:
        _show(found, worse, [*unclear, *missing], len([e for e in entries if framework in (None, e.framework)]))
    for problem in (*unclear, *missing):
        print(f"residuals: {problem}", file=sys.stderr)
    return 1 if worse else UsageError.exit_code if unclear else MissingFramework.exit_code if missing else 0


def _show(found: Sequence[Change], worse: Sequence[Change], problems: Sequence[Exception], checked: int) -> None:
    last = None
    for c in found:
        if c.entry.place != last:
            print(f"{c.entry.target}  {frameworks.TITLES[c.entry.framework]}  {' '.join(c.entry.arguments)}")
            last = c.entry.place
        sign = "grew" if c.is_worse else "less"
        print(f"  {sign}  {size(c.before):>9} -> {size(c.after):<9}  {c.what}")
    kinds = Counter(c.is_worse for c in found)
    if worse:
        print(f"FAILED: {kinds[True]} grew. To accept what is kept now: residuals lock write")
    elif found:
        print("Nothing grew, and something is less: residuals lock write keeps it so.")
    elif not problems:
        print(f"{checked} target{'' if checked == 1 else 's'} as locked.")

"""The gate: what chosen targets keep for their backward, written down in a file for review, and checked against it.

The file is TOML, sorted, a residual a line; layers alike are one line. It names no source lines, which every edit
moves. Targets are found from the directory that the command runs in.
"""

import contextlib
import json
import os
import shlex
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from residuals_lab import frameworks
from residuals_lab.audit import Report
from residuals_lab.audit.target import Argument, audit_target
from residuals_lab.errors import MissingFramework, UsageError
from residuals_lab.show import size
from residuals_lab.trace.groups import alike, rows

FILE = "residuals.lock"
VERSION = 1
CONCRETE = "--concrete"
KINDS = {str: "a string", int: "an integer", list: "a list"}
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
    arguments: tuple[str, ...]  # "--arg f32[4,8]", as a program gets it, without the quotes that a shell needs
    new_bytes: int = 0
    saved_bytes: int = 0
    residuals: dict[Key, Amount] = field(default_factory=dict)
    lines: dict[Key, str] = field(default_factory=dict)  # where they are made; not in the file

    @property
    def place(self) -> tuple[str, str, tuple[str, ...]]:
        """What tells entries apart, and sorts them."""
        return self.target, self.framework, self.arguments


How = Literal["grew", "appears", "replaced", "less", "is gone"]


class Change(NamedTuple):
    """Something that is not as it is in the file."""

    entry: Entry  # as it is now
    how: How
    what: str  # in words
    before: int
    after: int
    key: Key | None = None  # of a residual

    @property
    def is_worse(self) -> bool:
        return self.how in ("grew", "appears", "replaced")


def now(target: str, arguments: Sequence[str], framework: str | None = None) -> Entry:
    """The entry of a target as it is now."""
    given = [_argument(text) for text in arguments if text != CONCRETE]
    report = audit_target(target, given, framework, is_concrete=CONCRETE in arguments)
    return _entry(target, tuple(arguments), report)


def _argument(text: str) -> Argument:
    how, _, value = text.removeprefix("--").partition(" ")
    if how not in ("arg", "param", "frozen", "input") or not value:
        raise UsageError(f"lock: expected an argument of a target, such as '--arg 0.5', got {text!r}")
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
    """What is not as it was: totals, then residuals; first what is worse, the largest first."""
    found = []
    for what in ("new bytes", "held bytes"):
        was, is_now = (getattr(e, what.replace("new ", "new_").replace("held ", "saved_")) for e in (before, after))
        if was != is_now:
            found.append(Change(after, "grew" if is_now > was else "less", what, was, is_now))
    gone = {key: amount for key, amount in before.residuals.items() if key not in after.residuals}
    for key, amount in after.residuals.items():
        was = before.residuals.get(key, Amount())
        where = f" at {after.lines[key]}" if after.lines.get(key) else ""
        twin = next((k for k in gone if not was.arrays and (k[1:], gone[k]) == (key[1:], amount)), None)
        if twin:  # under another name, or something else in its place: nobody can tell
            del gone[twin]
            what = f"{twin.name} by {_said(key)}{where}"
            found.append(Change(after, "replaced", what, amount.nbytes, amount.nbytes, key))
        elif not was.arrays:
            found.append(Change(after, "appears", f"{_said(key)}{where}", 0, amount.nbytes, key))
        elif was != amount:
            counts = f", {was.arrays} arrays before and {amount.arrays} now"
            how: How = "grew" if (amount.nbytes, amount.arrays) > (was.nbytes, was.arrays) else "less"
            found.append(Change(after, how, f"{_said(key)}{where}{counts}", was.nbytes, amount.nbytes, key))
    found += [Change(after, "is gone", _said(key), amount.nbytes, 0, key) for key, amount in gone.items()]
    return sorted(found, key=lambda c: (c.key is not None, not c.is_worse, c.before - c.after))


def _said(key: Key) -> str:
    return f"{key.name}, {key.kind} {key.array}"


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
                unclear.append(UsageError(f"{problem}; to forget this target, delete its entry"))
    return found, missing, unclear


def updated(entries: Iterable[Entry], entry: Entry) -> list[Entry]:
    """The entries with this one in the place of the same before."""
    return [*(e for e in entries if e.place != entry.place), entry]


def read(path: Path) -> list[Entry]:
    """The entries of a file; UsageError, in one line, if it is missing or is not one."""
    if not path.is_file():
        raise UsageError(f"lock: no file {path}; write one with: {command(path, 'TARGET', '--arg', 'f32[4,8]')}")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        if document["version"] != VERSION:
            raise UsageError(f"lock: expected version {VERSION} in {path}, got {document['version']}")
        return [_read_entry(found) for found in document.get("target", [])]
    except tomllib.TOMLDecodeError as problem:
        raise UsageError(f"lock: {path} is no TOML: {problem}") from None
    except KeyError as problem:
        raise UsageError(f"lock: {path} is not what `residuals lock write` writes: it has no {problem}") from None
    except (TypeError, AttributeError, UnicodeDecodeError) as problem:
        raise UsageError(f"lock: {path} is not what `residuals lock write` writes: {problem}") from None


def _read_entry(found: dict[str, Any]) -> Entry:
    residuals = {
        Key(*(_typed(r, name, str) for name in Key._fields)): Amount(
            _typed({"count": 1, **r}, "count", int), _typed(r, "bytes", int)
        )
        for r in _typed(found, "residuals", list)
    }
    arguments = tuple(_typed({"argument": a}, "argument", str) for a in _typed(found, "arguments", list))
    target, framework = _typed(found, "target", str), _typed(found, "framework", str)
    totals = _typed(found, "new_bytes", int), _typed(found, "saved_bytes", int)
    return Entry(target, framework, arguments, *totals, residuals)


def _typed(found: dict[str, Any], name: str, kind: type) -> Any:
    if name not in found:
        raise KeyError(f"there is no {name}")
    if type(found[name]) is not kind:
        raise TypeError(f"expected {name} to be {KINDS[kind]}, got {found[name]!r}")
    return found[name]


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
    """Write the file as a whole or not at all; where it is a link, the file that it leads to."""
    path = path.resolve()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text(entries), encoding="utf-8")
        temporary.replace(path)
    except (OSError, UnicodeEncodeError) as problem:  # a target's name may be no text
        why = problem.strerror if isinstance(problem, OSError) else problem
        raise UsageError(f"lock: cannot write {path}: {why}") from problem
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def named(target: str) -> str:
    """The one name of a target: a file by its path from here, if it is below."""
    place, colon, function = target.rpartition(":")
    if place.endswith(".py"):
        path = os.path.relpath(place)
        place = Path(place if path.startswith(os.pardir) else path).as_posix()
    return f"{place}{colon}{function}"


def run_write(path: Path, targets: Sequence[tuple[str, Sequence[str]]], framework: str | None) -> int:
    """Put targets into the file, or look again at those that are in it: at all, or at this one."""
    before = read(path) if path.exists() or not targets else []
    again = [e for e in before if framework in (None, e.framework)]
    wanted: list[tuple[str, Sequence[str], str | None]] = [
        (e.target, e.arguments, e.framework) for e in again if not targets
    ]
    for target, arguments in ((named(target), arguments) for target, arguments in targets):
        known = [e for e in again if e.target == target and not arguments]
        wanted += [(e.target, e.arguments, e.framework) for e in known] or [(target, tuple(arguments), framework)]
    entries, found, added = before, list[Change](), 0
    for one in wanted:
        entry = now(*one)
        was = next((e for e in before if e.place == entry.place), None)
        found += changes(was, entry) if was else []
        added += was is None
        entries = updated(entries, entry)
    write(path, [replace(e, lines={}) for e in entries])
    _show(found)
    new_bytes = size(sum(e.new_bytes for e in entries))
    what = "as before" if not found and not added else f"{added} added" if added else "rewritten"
    print(f"{path}: {_counted(len(entries))}, {what}; {new_bytes} new")
    return 0


def _counted(targets: int) -> str:
    return f"{targets} target{'' if targets == 1 else 's'}"


def run_check(path: Path, targets: Sequence[str], framework: str | None, as_json: bool) -> int:
    """Compare the file with what is kept now: 1 if anything grew; else 2 if a target cannot be audited; else 3 if a
    framework is missing for some of it.
    """
    entries = read(path)
    targets = [named(target) for target in targets]
    unknown = [target for target in targets if target not in {e.target for e in entries}]
    if unknown:
        add = command(path, unknown[0], "--arg", "SPEC", "...")
        raise UsageError(f"lock: {unknown[0]} is not in {path}; add it, with its arguments: {add}")
    entries = [e for e in entries if not targets or e.target in targets]
    accept = command(path, *targets, *(["--framework", framework] if framework else []))
    found, missing, unclear = check(entries, framework)
    worse = {c.entry.place for c in found if c.is_worse}
    checked = _counted(len([e for e in entries if framework in (None, e.framework)]))
    if as_json:
        problems = [str(problem) for problem in (*unclear, *missing)]
        print(json.dumps({"schema_version": 1, "changes": [*map(_document, found)], "problems": problems}, indent=2))
    else:
        _show(found)
        if worse:
            print(f"FAILED: {len(worse)} of {checked}. To accept what is kept now: {accept}")
        elif found:
            print(f"Nothing grew and something shrank. To lock the smaller numbers: {accept}")
        elif not unclear and not missing:
            print(f"{checked} as locked.")
    for problem in (*unclear, *missing):
        print(f"residuals: {problem}", file=sys.stderr)
    return 1 if worse else UsageError.exit_code if unclear else MissingFramework.exit_code if missing else 0


def _document(c: Change) -> dict[str, Any]:
    """A change as plain data."""
    key = {} if c.key is None else {**c.key._asdict(), "line": c.entry.lines.get(c.key, "")}
    entry = {"target": c.entry.target, "framework": c.entry.framework, "arguments": c.entry.arguments}
    amounts = {"before": c.before, "after": c.after, "is_worse": c.is_worse}
    return {**entry, "how": c.how, "what": c.what, **amounts, **key}


def command(path: Path, *words: str) -> str:
    """The words of a `residuals lock write` on this file, as a shell takes them."""
    file = [] if path == Path(FILE) else ["--file", str(path)]
    return shlex.join(["residuals", "lock", "write", *words, *file])


def _show(found: Sequence[Change]) -> None:
    last = None
    for c in found:
        if c.entry.place != last:
            arguments = shlex.join(word for argument in c.entry.arguments for word in argument.split(" ", 1))
            print(f"{c.entry.target}  {frameworks.TITLES[c.entry.framework]}  {arguments}")
            last = c.entry.place
        print(f"  {c.how:<8}  {size(c.before):>9} -> {size(c.after):<9}  {c.what}")

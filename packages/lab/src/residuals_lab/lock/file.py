"""The file residuals.lock: read and written as a whole."""

import contextlib
import json
import os
import shlex
import tomllib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from residuals_lab.errors import UsageError
from residuals_lab.lock import Amount, Entry, Key, named, named_argument

FILE = "residuals.lock"
VERSION = 2
KINDS = {str: "a string", int: "an integer", list: "a list"}
HEAD = """\
# What these targets keep for their backward, before compilation. `residuals lock check` fails if it grows, and
# `residuals lock write` accepts what is kept now. To forget a target, delete its entry. Paths are relative to the
# folder of this file.
"""


def read(path: Path, moves: bool = False) -> list[Entry]:
    """The entries of a file; UsageError, in one line, if it is missing or is not one.

    A file of version 1 is read only if it `moves`, to be written again. Its paths are relative to the working
    directory, and the entries that are returned have them relative to the file.
    """
    if not path.is_file():
        raise UsageError(f"lock: no file {path}; `residuals lock write --help` says how to write one")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        version = document["version"]
        if version == 1 and not moves:
            raise UsageError(f"lock: {path} is of version 1; to move it to version {VERSION}, run: {command(path)}")
        if version not in (1, VERSION):
            raise UsageError(f"lock: expected version {VERSION} in {path}, got {version}")
        entries = [_read_entry(found) for found in document.get("target", [])]
    except tomllib.TOMLDecodeError as problem:
        raise UsageError(f"lock: {path} is no TOML: {problem}") from None
    except KeyError as problem:
        raise UsageError(f"lock: {path} is not what `residuals lock write` writes: it has no {problem}") from None
    except (TypeError, AttributeError, UnicodeDecodeError) as problem:
        raise UsageError(f"lock: {path} is not what `residuals lock write` writes: {problem}") from None
    return [_moved(e, folder(path)) for e in entries] if version == 1 else entries


def folder(path: Path) -> Path:
    """The folder of a lock file, to which its paths are relative; that of the real file where the path is a link."""
    return path.resolve().parent


def _moved(entry: Entry, folder: Path) -> Entry:
    """An entry of version 1 with its paths relative to the file."""
    arguments = tuple(named_argument(argument, folder) for argument in entry.arguments)
    return replace(entry, target=named(entry.target, folder), arguments=arguments)


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
    written_with = _typed({"written_with": "", **found}, "written_with", str)
    return Entry(target, framework, arguments, *totals, residuals, written_with)


def _typed(found: dict[str, Any], name: str, kind: type) -> Any:
    if name not in found:
        raise KeyError(name)
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
            *([f"written_with = {_quoted(entry.written_with)}"] if entry.written_with else []),
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
    """Write the file as a whole or not at all. A link stays, and the file that it leads to is written."""
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


def command(path: Path, *words: str) -> str:
    """The words of a `residuals lock write` on this file, as a shell takes them."""
    file = [] if path == Path(FILE) else ["--file", str(path)]
    return shlex.join(["residuals", "lock", "write", *words, *file])

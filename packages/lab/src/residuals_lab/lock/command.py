"""The command `residuals lock`."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residuals_lab import options
from residuals_lab.errors import MissingFramework, UsageError

if TYPE_CHECKING:
    from residuals_lab.lock import Entry

DESCRIPTION = """\
Write down what targets keep for their backward, in residuals.lock, for review
in a diff; and fail where it grows.

  residuals lock write TARGET --arg SPEC ...
      add a target, or update it; arguments are those of residuals audit
  residuals lock write
      look at all targets of the file again, and accept what they keep; with a
      TARGET of the file and no arguments, at that one alone
  residuals lock check
      fail if bytes grew or an array appeared: say which, and from where
"""


def add_to(commands: Any, help: str) -> None:
    """Add the parsers of `lock write` and `lock check`."""
    lock = commands.add_parser(
        "lock",
        help=help,
        description=DESCRIPTION,
        epilog=options.EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    does = lock.add_subparsers(title="commands", required=True, metavar="write|check")
    write = does.add_parser(
        "write",
        help="write the file",
        description="Add a target to the file, or update it; without one, look at all of them again.",
        usage="residuals lock write [TARGET --arg SPEC ...] [--file FILE] [--framework NAME] [--concrete]",
        epilog="The arguments of a target are those of residuals audit, whose --help explains them.",
    )
    check = does.add_parser(
        "check",
        help="check it",
        description="Fail if a target keeps more bytes than the file says, or an array that is not in it.",
        usage="residuals lock check [TARGET] [--file FILE] [--framework NAME] [--json]",
        epilog=options.EXIT_CODES,
    )
    for parser in (write, check):
        parser.set_defaults(targets=[], early=[])
        parser.add_argument("targets", action=options.Target, nargs="?", metavar="TARGET", help="only this one")
        parser.add_argument("--file", type=options.path, default=Path("residuals.lock"), help="default: residuals.lock")
        parser.add_argument("--framework", choices=options.FRAMEWORKS, help="only targets of this one")
    options.add_arguments(write)
    write.add_argument("--concrete", action="store_true", help="compute the forward, now and whenever it is checked")
    check.add_argument("--json", action="store_true", help="one JSON document")
    write.set_defaults(run=run_write)
    check.set_defaults(run=run_check)


def run_write(arguments: argparse.Namespace) -> int:
    """Write targets into the file, or look again at those that it has, and return the exit code."""
    from residuals_lab import show
    from residuals_lab.lock import file, table
    from residuals_lab.lock.changes import Change, changes

    if arguments.early and not arguments.targets:
        raise UsageError("lock write: expected a TARGET for these arguments, got none")
    path = arguments.file
    before = file.read(path) if path.exists() or not arguments.targets else []
    entries, found, added = before, list[Change](), 0
    with show.progress("tracing"):
        for entry in _written(arguments, before):
            was = next((e for e in before if e.place == entry.place), None)
            found += changes(was, entry) if was else []
            added += was is None
            entries = [*(e for e in entries if e.place != entry.place), entry]
    file.write(path, [replace(e, lines={}) for e in entries])
    table.show(found)
    new_bytes = show.size(sum(e.new_bytes for e in entries))
    what = "as before" if not found and not added else f"{added} added" if added else "rewritten"
    print(f"{path}: {table.counted(len(entries))}, {what}; {new_bytes} new")
    return 0


def _written(arguments: argparse.Namespace, before: Sequence["Entry"]) -> Iterator["Entry"]:
    """The entries to write, as they are now: those of the command line, or those of the file."""
    from residuals_lab.lock import CONCRETE, named, now

    again = [e for e in before if arguments.framework in (None, e.framework)]
    if not arguments.targets:
        yield from (now(e.target, e.arguments, e.framework) for e in again)
    for target, own in arguments.targets:
        specs = [f"--{how} {text}" for how, text in (*arguments.early, *own)] + [CONCRETE] * arguments.concrete
        known = [e for e in again if e.target == named(target) and not specs]
        yield from (now(e.target, e.arguments, e.framework) for e in known)
        if not known:
            yield now(named(target), specs, arguments.framework)


def run_check(arguments: argparse.Namespace) -> int:
    """Compare the file with what is kept now.

    The exit code is 1 if anything grew; else 2 if a target cannot be audited; else 3 if a framework is missing.
    """
    from residuals_lab import show
    from residuals_lab.lock import file, named, table
    from residuals_lab.lock.changes import check
    from residuals_lab.lock.document import document

    path, framework = arguments.file, arguments.framework
    entries = file.read(path)
    targets = [named(target) for target, _ in arguments.targets]
    unknown = [target for target in targets if target not in {e.target for e in entries}]
    if unknown:
        add = file.command(path, unknown[0], "--arg", "SPEC", "...")
        raise UsageError(f"lock: {unknown[0]} is not in {path}; add it, with its arguments: {add}")
    entries = [e for e in entries if not targets or e.target in targets]
    if not any(framework in (None, e.framework) for e in entries):
        which = f" of {framework}" if framework else ""
        raise UsageError(f"lock: expected a target{which} in {path}, got none; a gate that checks nothing would pass")
    with show.progress("tracing"):
        found, missing, unclear = check(entries, framework)
    worse = {c.entry.place for c in found if c.is_worse}
    if arguments.json:
        show.print_json(document(found, [*unclear, *missing]))
    else:
        table.show(found)
        accept = file.command(path, *targets, *(["--framework", framework] if framework else []))
        checked = table.counted(len([e for e in entries if framework in (None, e.framework)]))
        if worse:
            print(f"FAILED: {len(worse)} of {checked}. To accept what is kept now: {accept}")
        elif found:
            print(f"Nothing grew and something shrank. To lock the smaller numbers: {accept}")
        elif not unclear and not missing:
            print(f"{checked} as locked.")
    for problem in (*unclear, *missing):
        print(f"residuals: {problem}", file=sys.stderr)
    return 1 if worse else UsageError.exit_code if unclear else MissingFramework.exit_code if missing else 0

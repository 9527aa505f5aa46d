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

MOST = 5  # names in a message

DESCRIPTION = """\
Write down what targets keep for their backward, in residuals.lock, for review
in a diff; and fail where it grows.

  residuals lock write TARGET --arg SPEC ...
      add a target, or update it; arguments are those of residuals audit
  residuals lock write
      look at all targets of the file again, and accept what they keep; with a
      TARGET of the file and no arguments, at that one alone
  residuals lock check
      fail if bytes grew, or an array came that none that went pays for: say
      which, and from where; other names, shapes and lines are no growth

Paths in the file are relative to it: a check is the same from every folder.
"""


def add_to(commands: Any, help: str) -> None:
    """Add the parsers of `lock write` and `lock check`."""
    lock = commands.add_parser(
        "lock",
        help=help,
        description=DESCRIPTION,
        epilog=options.EXIT_CODES,
    )
    does = lock.add_subparsers(title="commands", required=True, metavar="write|check")
    write = does.add_parser(
        "write",
        help="write the file",
        description="Add a target to the file, or update it; without one, look at all of them again.",
        usage="residuals lock write [TARGET --arg SPEC ...] [--file FILE] [--framework NAME] [--concrete]",
        epilog="The arguments of a target are those of residuals audit, whose --help explains them. Example: "
        "residuals lock write mine.py:fn --arg 'f32[4,8]'",
    )
    check = does.add_parser(
        "check",
        help="check it",
        description="Fail if a target keeps more bytes than the file says, or an array that none that went pays for.",
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
    """Write targets into the file, or look again at those that it has, and return the exit code.

    A target that the file has and that cannot be audited keeps its entry, and the exit code is that of the check.
    """
    from residuals_lab import show
    from residuals_lab.lock import Entry, file, table
    from residuals_lab.lock.changes import Change, changes

    if arguments.early and not arguments.targets:
        raise UsageError("lock write: expected a TARGET for these arguments, got none")
    path = arguments.file
    before = file.read(path, moves=True) if path.exists() or not arguments.targets else []
    if not arguments.targets:
        _expect_targets(before, path, arguments.framework)
    was_text = path.read_text(encoding="utf-8") if path.exists() else ""
    entries, found, problems, added = before, list[Change](), list[UsageError | MissingFramework](), 0
    with show.progress("tracing"):
        for was, result in _written(arguments, before):
            if not isinstance(result, Entry):
                problems.append(result)
                continue
            found += changes(was, result) if was else []
            added += was is None
            entries = [*(e for e in entries if e.place != result.place), replace(result, lines={})]
    file.write(path, entries)
    table.show(found)
    new_bytes = show.size(sum(e.new_bytes for e in entries))
    what = f"{added} added" if added else "as before" if file.text(entries) == was_text else "rewritten"
    print(f"{path}: {table.counted(len(entries))}, {what}; {new_bytes} new")
    return _told(path, problems)


def _written(
    arguments: argparse.Namespace, before: Sequence["Entry"]
) -> Iterator[tuple["Entry | None", "Entry | UsageError | MissingFramework"]]:
    """The entries of the command line, or those of the file: as they were, and as they are now."""
    from residuals_lab.lock import CONCRETE, again, file, named, named_argument, now

    folder = file.folder(arguments.file)
    if not folder.is_dir():
        raise UsageError(f"lock: cannot write {arguments.file}: no folder {folder}")
    mine = [e for e in before if arguments.framework in (None, e.framework)]
    if not arguments.targets:
        yield from again(mine, folder)
    for target, own in arguments.targets:
        specs = [named_argument(f"--{how} {text}", folder) for how, text in (*arguments.early, *own)]
        specs += [CONCRETE] * arguments.concrete
        known = [e for e in mine if e.target == named(target, folder) and not specs]
        yield from again(known, folder)
        if not known:
            result = now(named(target, folder), specs, arguments.framework, folder)
            yield next((e for e in before if e.place == result.place), None), result


def run_check(arguments: argparse.Namespace) -> int:
    """Compare the file with what is kept now.

    The exit code is 1 if anything grew; else 2 if a target cannot be audited; else 3 if a framework is missing.
    """
    from residuals_lab import show
    from residuals_lab.lock import file, table
    from residuals_lab.lock.changes import check
    from residuals_lab.lock.document import document

    path, framework = arguments.file, arguments.framework
    entries = _chosen(file.read(path), arguments)
    with show.progress("tracing"):
        found, problems = check(entries, file.folder(path))
    worse = {c.entry.place for c in found if c.is_worse}
    less = {c.entry.place for c in found if c.how == "less" and c.total} - worse
    if arguments.json:
        show.print_json(document(found, problems))
    else:
        table.show(found)
        given = [target for target, _ in arguments.targets]
        accept = file.command(path, *given, *(["--framework", framework] if framework else []))
        checked = table.counted(len(entries))
        if worse:
            print(f"FAILED: {len(worse)} of {checked}. To accept what is kept now:\n  {accept}")
        elif less:
            print(f"No target grew, and {len(less)} shrank. To lock the smaller numbers:\n  {accept}")
        elif found:
            print(f"No target grew. To write down the names and shapes of now:\n  {accept}")
        else:
            print(f"{checked if not problems else f'{len(entries) - len(problems)} of {checked}'} as locked.")
    code = _told(path, problems)
    return 1 if worse else code


def _chosen(entries: Sequence["Entry"], arguments: argparse.Namespace) -> list["Entry"]:
    """The entries that the command line names, or all of them."""
    from residuals_lab.lock import file, named

    path, framework = arguments.file, arguments.framework
    _expect_targets(entries, path, framework)
    targets = [named(target, file.folder(path)) for target, _ in arguments.targets]
    there = sorted({e.target for e in entries})
    for name in targets:
        if name not in there:
            has = ", ".join(there[:MOST]) + ", ..." * (len(there) > MOST)
            raise UsageError(
                f"lock: {name} is not in {path}, which has {has}; `residuals lock write --help` says how to add it"
            )
    found = [e for e in entries if framework in (None, e.framework) and (not targets or e.target in targets)]
    _expect_targets(found, path, framework)
    return found


def _expect_targets(entries: Sequence["Entry"], path: Path, framework: str | None) -> None:
    if not any(framework in (None, e.framework) for e in entries):
        which = f" of {framework}" if framework else ""
        raise UsageError(f"lock: expected a target{which} in {path}, got none; a gate that checks nothing would pass")


def _told(path: Path, problems: Sequence[UsageError | MissingFramework]) -> int:
    """Say the problems on stderr; the exit code of the gravest."""
    for line in dict.fromkeys(f"residuals: {path}: {problem}" for problem in problems):
        print(line, file=sys.stderr)
    return min((problem.exit_code for problem in problems), default=0)

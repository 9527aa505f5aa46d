"""The command `residuals check`."""

import argparse
import re
import signal
import sys
from pathlib import Path
from typing import Any

from residuals_lab import options
from residuals_lab.errors import UsageError

DESCRIPTION = """\
Look for every known way in which the gradient of a function may be wrong: by
value, for every cotangent, stride, shape, dtype, a second call, a second
derivative, a frozen argument, under transformations, and in what it keeps. A
failure says what was expected, what came, why it matters, and how to mend it.

TARGET and its arguments are those of residuals audit; arrays that are spelled
by their shapes get random numbers:

  residuals check mine.py:gelu --arg 'f64[4,6]'
  residuals check mine.py:norm --arg 'f64[4,6]' --arg 'f64[6]' --like rms_norm
  residuals check mine.py:loss --arg 'f64[8,5]' --frozen 'i64[8]' \\
    --reference mine.py:plain_loss

The function runs in a child process, which may take as long and as much memory
as --seconds and --memory say.
"""


def add_to(commands: Any, help: str) -> None:
    """Add the parser of this command."""
    parser = commands.add_parser(
        "check",
        help=help,
        description=DESCRIPTION,
        epilog=options.EXIT_CODES,
        usage="residuals check TARGET [--arg SPEC ...] [options]",
    )
    parser.set_defaults(run=run, targets=[], early=[])
    parser.add_argument(
        "targets", action=options.Target, nargs="?", metavar="TARGET", help="the function, module or callable tree"
    )
    options.add_arguments(parser)
    parser.add_argument("--framework", choices=options.FRAMEWORKS, help="where the target does not tell")
    truth = parser.add_mutually_exclusive_group()
    truth.add_argument("--like", metavar="OP", help="the op of ours that it computes")
    truth.add_argument("--reference", metavar="TARGET", help="the same function, written plainly")
    truth.add_argument(
        "--vjp-reference", metavar="TARGET", help="(args, cotangent) -> gradients, if they are no derivative on purpose"
    )
    parser.add_argument("--names", metavar="A,B", help="the new arrays that it may keep for its backward")
    parser.add_argument("--new-bytes", type=options.size, metavar="N", help="the bytes that these may take")
    parser.add_argument("--require", metavar="A,B", help="fail where it refuses torch.func, vmap, second-order, ...")
    parser.add_argument("--only", metavar="FAMILY", help="the rules of one family")
    parser.add_argument("--rule", metavar="CODE", help="one rule")
    parser.add_argument("--explain", metavar="CODE", help="the page of a rule, and its example")
    parser.add_argument("--list", action="store_true", help="all rules, a line each")
    parser.add_argument("--quick", action="store_true", help="leave out what takes seconds")
    parser.add_argument("--seed", type=options.seed, default=0, help="of the check's random numbers (default: 0)")
    parser.add_argument("--seconds", type=options.size, default=300, metavar="N", help="for all of it (default: 300)")
    parser.add_argument("--memory", type=options.size, default=8, metavar="GIB", help="of the child (default: 8)")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Check a target, print, and return the exit code."""
    from residuals_lab import show

    if arguments.list or arguments.explain:
        return _about_rules(arguments)
    if not arguments.targets:
        raise UsageError("check: expected a TARGET, got none (see residuals check --help)")
    _refuse_unknown(arguments)
    check = _in_child(arguments)
    if arguments.json:
        from residuals_lab.check.document import document

        show.print_json(document(check))
    else:
        from residuals_lab.check.table import text

        is_told = sys.stderr.isatty() and sys.stdout.isatty()  # each family when it was done, on the same screen
        show.console().print(text(check, min(show.console().width, 100), is_told), markup=False, emoji=False)
    return 0 if check.passed else 1


def _about_rules(arguments: argparse.Namespace) -> int:
    """Print the list of rules, or the page of one."""
    from residuals_lab import show
    from residuals_lab.check import rules, table

    found = rules.chosen(arguments.only, arguments.explain)
    what = table.explanation(found[0]) if arguments.explain else table.rules(found)
    show.console().print(what, markup=False, emoji=False)
    return 0


def _refuse_unknown(arguments: argparse.Namespace) -> None:
    """Refuse what no rule and no op is called, before anything runs."""
    from residuals_lab.check import rules
    from residuals_lab.ops import BY_NAME

    if not rules.chosen(arguments.only, arguments.rule):
        raise UsageError(f"--rule: {arguments.rule} is no rule of the family {arguments.only}")
    if arguments.like is not None and arguments.like not in BY_NAME:
        raise UsageError(f"--like: expected one of {', '.join(BY_NAME)}, got {arguments.like!r}")


def _in_child(arguments: argparse.Namespace) -> Any:
    """The check, made in a child process; what ends that process is a finding too."""
    from residuals_lab.check import Check
    from residuals_lab.check.target import Ask
    from residuals_lab.targets import isolated
    from residuals_lab.targets.arguments import Argument

    (target, own), *more = arguments.targets
    if more:
        raise UsageError(f"check: expected one TARGET, got {len(arguments.targets)}")
    ask = Ask(
        target,
        tuple(Argument(how, text) for how, text in (*arguments.early, *own)),
        arguments.framework,
        arguments.like or arguments.reference,
        arguments.vjp_reference,
        None if arguments.names is None else tuple(name for name in arguments.names.split(",") if name),
        arguments.new_bytes,
        tuple(way.strip() for way in (arguments.require or "").split(",") if way.strip()),
        arguments.only,
        arguments.rule,
        arguments.quick,
        arguments.seed,
        is_told=sys.stderr.isatty() and not arguments.json,
    )
    limits = isolated.Limits(arguments.seconds, arguments.memory << 30)
    try:
        return isolated.call("residuals_lab.check.target:check_target", ask, limits=limits)
    except isolated.Ended as end:
        finding = _ended(end, target)
        return Check(target, "", "none: the process ended", (finding,), not_run=(("all", finding.title),))


def _ended(end: Any, target: str) -> Any:
    """The finding for a function that ended the process which checked it, or that did not end."""
    from residuals_lab.finding import Finding

    running = re.findall(r'File "([^"]+)", line (\d+) in (?!_)(\w+)', end.stack)  # the innermost first
    theirs = [frame for frame in running if frame[0] == str(Path(target.partition(":")[0]).resolve())]
    at = "".join(f", in {name} at {Path(file).name}:{line}" for file, line, name in (theirs or running)[:1])
    rule, title, mend = {
        "time": ("does-not-end", "the function did not end",
                 "look for a loop whose condition is never false; give more with --seconds"),
        "memory": ("too-much-memory", "the function took too much memory",
                   "look for a list that grows; give smaller arguments, or more with --memory"),
        "exit": ("exits-process", "the function ends the Python process", "raise an exception instead of os._exit"),
        "signal": ("crashes", "the function crashes the Python process",
                   "look for code that goes past Python, such as a kernel that writes out of bounds"),
    }[end.how]  # fmt: skip
    got = f"{_amount(end.how, int(end.number))}{at}"
    return Finding(rule, title, "functions that return", got, "nothing more can be looked at", mend)


def _amount(how: str, number: int) -> str:
    """What the process did or took when it ended."""
    if how == "signal":
        return f"signal {number} ({signal.strsignal(number) or 'unknown'})"
    if how == "memory":
        return f"more than {number >> 30} GiB"
    return f"still running after {number} s" if how == "time" else f"exit code {number}"

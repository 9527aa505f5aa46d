"""The command `residuals learn`."""

import argparse
import textwrap
from typing import Any

from residuals_lab import options
from residuals_lab.errors import MissingFramework, UsageError, guess


def add_to(commands: Any, help: str) -> None:
    """Add the parser of this command."""
    parser = commands.add_parser(
        "learn",
        help=help,
        description="Put an exercise into the current directory, then grade it: gradient, residuals, bytes.",
        epilog=options.EXIT_CODES,
    )
    parser.add_argument("exercise", help="extra_residual")
    parser.add_argument("--framework", choices=options.FRAMEWORKS, help="which one (default: the only one installed)")
    does = parser.add_mutually_exclusive_group()
    does.add_argument("--check", action="store_true", help="grade your file and explain the first thing that is wrong")
    does.add_argument("--hint", type=int, nargs="?", const=1, metavar="N", help="show a hint: the first, or the Nth")
    does.add_argument("--reset", action="store_true", help="overwrite your file with a fresh stub")
    parser.add_argument("--json", action="store_true", help="with --check: one JSON document")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do what is asked for, print, and return the exit code."""
    from residuals_lab import learn

    exercise, names = arguments.exercise, learn.names()
    if exercise not in names:
        raise UsageError(f"exercise: expected one of {', '.join(names)}, got {exercise!r}{guess(exercise, names)}")
    if arguments.json and not arguments.check:
        raise UsageError("--json: goes with --check")
    framework = _framework(arguments.framework)
    if arguments.check:
        return _run_check(exercise, framework, arguments.json)
    if arguments.hint is not None:
        return _run_hint(exercise, framework, arguments.hint)
    return _run_start(exercise, framework, arguments.reset)


def _framework(name: str | None) -> str:
    from residuals_lab import frameworks

    here = frameworks.installed()
    if name is None and not here:
        raise MissingFramework(frameworks.NONE_INSTALLED)
    if name is None and len(here) > 1:
        raise UsageError(f"--framework: several are installed, say which: {' or '.join(here)}")
    return name or here[0]


def _run_start(exercise: str, framework: str, reset: bool) -> int:
    from residuals_lab import learn

    path, command = learn.file_of(exercise, framework), learn.command_line(exercise, framework)
    if not learn.start(exercise, framework, reset):
        _say(f"{path} is there already and was left alone. Go on with --check or --hint; --reset puts the stub back.")
        return 0
    _say(f"{path} is ready: its first lines say what to do, and the parts to write raise NotImplementedError.\n")
    _say(f"Check it:    {command} --check\nGet a hint:  {command} --hint")
    return 0


def _run_hint(exercise: str, framework: str, number: int) -> int:
    from residuals_lab import learn

    found = learn.hint(exercise, framework, number)
    _say(f"Hint {found.number} of {found.last}: {found.title}\n\n{found.text}\n")
    following = f"--hint {number + 1}" if number < found.last else "--check"
    what = "Next hint:" if number < found.last else "That was the last one. Check your file:"
    _say(f"{what}  {learn.command_line(exercise, framework)} {following}")
    return 0


def _run_check(exercise: str, framework: str, as_json: bool) -> int:
    from residuals_lab import learn, show

    grade = learn.check(exercise, framework)
    path, finding = learn.file_of(exercise, framework), grade.finding
    if as_json:
        from residuals_lab.learn.document import document

        show.print_json(document(exercise, framework, grade))
    elif finding is None:
        _say(f"✓ {path} is right.\n\n{grade.report}\n\nThe reference solution, to compare with:\n")
        _say(learn.asset(exercise, framework, "solution.py").rstrip())
    else:
        _say(f"✗ {path}: {finding.title}  [{finding.rule}]\n")
        for label in ("expected", "got", "why", "mend"):
            _say(_labelled(label, getattr(finding, label)))
        _say(f"\nStuck? {learn.command_line(exercise, framework)} --hint")
    return 0 if finding is None else 1


def _labelled(label: str, text: str) -> str:
    """A paragraph beside its label, as wide as the terminal."""
    from residuals_lab import show

    wrap = textwrap.TextWrapper(show.console().width, f"  {label:<10}", " " * 12, break_on_hyphens=False)
    return wrap.fill(text)


def _say(text: str) -> None:
    """Print text as it is: square brackets are no markup."""
    from residuals_lab import show

    show.console().print(text, markup=False, emoji=False)

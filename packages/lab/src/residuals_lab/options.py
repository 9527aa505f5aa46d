"""What the commands' parsers share: option types, the arguments of a target, exit codes, one line for a wrong usage."""

import argparse
import contextlib
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from residuals_lab.errors import UsageError, guess

FRAMEWORKS = ("jax", "torch")
DTYPES = {"f64": "float64", "f32": "float32", "bf16": "bfloat16", "f16": "float16"}

WHOLE: Any = {"break_long_words": False, "break_on_hyphens": False}  # how lines are broken

EXIT_CODES = """\
exit codes: 0 fine; 1 a check failed; 2 wrong usage or input; 3 no framework"""


class Help(argparse.RawDescriptionHelpFormatter):
    """Help as it is written, for 80 columns; on a narrower terminal in as many lines as it needs."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if max(map(len, text.splitlines()), default=0) <= width:
            return text
        return "\n\n".join(self._paragraph(part, width) for part in text.rstrip("\n").split("\n\n")) + "\n"

    def _paragraph(self, text: str, width: int) -> str:
        lines = text.split("\n")
        if any(line.startswith(" ") for line in lines):  # a table, a row a line
            return "\n".join(textwrap.fill(line, width, subsequent_indent=" " * 6, **WHOLE) for line in lines)
        return textwrap.fill(" ".join(lines), width, **WHOLE)

    def _format_usage(self, *how: Any) -> str:
        lines = super()._format_usage(*how).rstrip("\n").split("\n")
        joined = [re.sub(r"\[[^\]]*\]", lambda option: option[0].replace(" ", "\0"), line) for line in lines]
        filled = [textwrap.fill(line, self._width, subsequent_indent=" " * 11, **WHOLE) for line in joined]
        return "\n".join(filled).replace("\0", " ") + "\n\n"


class Parser(argparse.ArgumentParser):
    """One line for a wrong argument instead of a page of usage."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**{"formatter_class": Help, **how})

    def error(self, message: str) -> NoReturn:
        chosen = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        near = guess(chosen[1], re.findall(r"[\w-]+", chosen[2])) if chosen else ""
        raise UsageError(f"{message}{near} (see {self.prog} --help)")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does; an option that is not known is blamed on the command that does not know it."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser: argparse.ArgumentParser = self
            for word in args:
                commands = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
                parser = next((a.choices[word] for a in commands if word in a.choices), parser)
            near = guess(unknown[0], [option for action in parser._actions for option in action.option_strings])
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{near}")
        return found


class Target(argparse.Action):
    """The action of a target, to which the arguments after it belong."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, value: Any, option: str | None = None) -> None:
        if isinstance(value, str):  # not the default of an optional target
            setattr(namespace, self.dest, [*getattr(namespace, self.dest), (value, [])])


class Argument(argparse.Action):
    """The action of an argument: it belongs to the last target before it, or, if there is none, to the first."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, value: Any, option: str | None = None) -> None:
        if not namespace.targets:
            namespace.early = [*namespace.early, (self.dest, value)]
        else:
            namespace.targets[-1][1].append((self.dest, value))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that are arguments of a target."""
    for name, help in (
        ("arg", "an argument"),
        ("param", "an argument that is a parameter, or a tree of them"),
        ("frozen", "an argument that is not differentiated"),
        ("input", "NAME=FILE: an argument from a file, by name"),
    ):
        parser.add_argument(f"--{name}", action=Argument, metavar="SPEC", help=help, default=argparse.SUPPRESS)


def add_plot(parser: argparse.ArgumentParser, what: str) -> None:
    """The options of a picture."""
    parser.add_argument("--plot", type=path, metavar="FILE", help=f"also draw {what}, as .svg or .png")
    parser.add_argument("--dark", action="store_true", help="with --plot: for a dark page")
    parser.add_argument("--rows", type=size, metavar="N", help="with --plot: at most N rows (24)")
    parser.add_argument(
        "--sort",
        choices=("program", "bytes"),
        help="with --plot: rows in the order of the program, or the largest first",
    )


def drawing(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a picture is drawn with."""
    how = {"rows": arguments.rows, "order": arguments.sort}
    return {"is_dark": arguments.dark} | {name: given for name, given in how.items() if given}


def check_files(arguments: argparse.Namespace, targets: Sequence[str]) -> None:
    """Refuse a picture or a page that cannot be made, before anything is run for it."""
    page = getattr(arguments, "html", None)
    if page and not page.parent.is_dir():
        raise UsageError(f"{page}: no folder {page.parent}")
    for option, file in (("--html", page), ("--plot", arguments.plot)):
        if file and file.is_dir():
            raise UsageError(f"{option}: expected a file, got the folder {file}")
    for target in targets if arguments.plot or page else ():
        if not target.isprintable():  # a path whose bytes are no UTF-8
            raise UsageError(f"target: expected a name that can be written into a file, got {target!r}")
    if arguments.plot:
        from residuals_lab import lanes

        lanes.check(arguments.plot)
        return
    for name in ("dark", "rows", "sort"):
        if getattr(arguments, name):
            raise UsageError(f"--{name}: expected --plot FILE with it")


def dtype(text: str) -> str:
    """The option type of a dtype: NumPy's name, or short."""
    name = DTYPES.get(text, text)
    if name not in DTYPES.values():
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(DTYPES.values())}, got {text!r}")
    return name


def size(text: str) -> int:
    """The option type of a number of things."""
    return _whole(text, 1, "expected a whole number above 0")


def seed(text: str) -> int:
    """The option type of a seed."""
    return _whole(text, 0, "expected a whole number, 0 or above")


def _whole(text: str, least: int, expected: str) -> int:
    with contextlib.suppress(ValueError):  # Python refuses to read thousands of digits
        if text.isdecimal() and int(text) >= least:
            return int(text)
    raise argparse.ArgumentTypeError(f"{expected}, got {text!r}")


def path(text: str) -> Path:
    """The option type of a path."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got ''")
    return Path(text)

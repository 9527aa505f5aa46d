"""Changes for people."""

import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence

from residuals_lab.lock import Entry
from residuals_lab.lock.changes import Change
from residuals_lab.show import size

LEAST = 30  # columns: narrower than this, words are on a line of their own, under the numbers


def show(found: Sequence[Change]) -> None:
    """Print the changes, each under its target."""
    last = None
    for c in found:
        if c.entry.place != last:
            print(_head(c.before, c.entry))
            last = c.entry.place
        print(_row(c))


def _head(before: Entry, after: Entry) -> str:
    arguments = shlex.join(word for argument in after.arguments for word in argument.split(" ", 1))
    lines = _wrapped(f"{after.target}  {after.written_with}  {arguments}", "", "    ")
    if before.written_with not in ("", after.written_with):
        lines += f"\n  written with {before.written_with}: what differs may be due to the other version"
    return lines


def _row(c: Change) -> str:
    grown = c.after_bytes - c.before_bytes
    delta = f"{'+' if grown > 0 else '-'}{size(abs(grown))}" if grown else ""
    sizes = f"{size(c.before_bytes):>9} -> {size(c.after_bytes):<9}" if grown else f"{size(c.after_bytes):>9}{'':13}"
    numbers = f"  {c.how:<8}  {delta:>10}  {sizes}  "
    if _width() - len(numbers) < LEAST:
        return f"{numbers.rstrip()}\n{_wrapped(c.what, ' ' * 6, ' ' * 6)}"
    return _wrapped(c.what, numbers, " " * len(numbers))


def _wrapped(text: str, first: str, rest: str) -> str:
    """Text in lines of the terminal's width, broken between words; a shape and a quoted argument are one word."""
    whole = re.sub(r"'[^']*'|\[[^\]]*\]", lambda found: found[0].replace(" ", "\0"), text)
    how = {"break_long_words": False, "break_on_hyphens": False, "replace_whitespace": False}
    lines = textwrap.wrap(whole, _width(), initial_indent=first, subsequent_indent=rest, **how)  # type: ignore[arg-type]
    return "\n".join(lines).replace("\0", " ")


def _width() -> int:
    """The columns of a terminal; a pipe has rows of any length."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 1 << 30


def counted(targets: int) -> str:
    """`1 target`, `2 targets`."""
    return f"{targets} target{'' if targets == 1 else 's'}"

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

LEAST = 30  # columns for the words beside the numbers


def show(found: Sequence[Change]) -> None:
    """Print the changes, each under its target. Words too long to stand beside the numbers are below them."""
    last = None
    is_below = any(_is_long(c) for c in found)
    for c in found:
        if c.entry.place != last:
            print(_head(c.before, c.entry))
            last = c.entry.place
        numbers = _numbers(c)
        if is_below:
            print(f"{numbers.rstrip()}\n{_wrapped(c.what, ' ' * 6, ' ' * 6)}")
        else:
            print(_wrapped(c.what, numbers, " " * len(numbers)))


def _head(before: Entry, after: Entry) -> str:
    arguments = shlex.join(word for argument in after.arguments for word in argument.split(" ", 1))
    lines = _wrapped(f"{after.target}  {after.written_with}  {arguments}", "", "    ")
    if before.written_with not in ("", after.written_with):
        lines += f"\n  written with {before.written_with}: what differs may be due to the other version"
    return lines


def _numbers(c: Change) -> str:
    grown = c.after_bytes - c.before_bytes
    delta = f"{'+' if grown > 0 else '-'}{size(abs(grown))}" if grown else ""
    sizes = f"{size(c.before_bytes):>9} -> {size(c.after_bytes):<9}" if grown else f"{size(c.after_bytes):>9}{'':13}"
    return f"  {c.how:<8}  {delta:>10}  {sizes}  "


def _is_long(c: Change) -> bool:
    """Whether a word of a change is wider than the room beside its numbers, or whether that room is small."""
    words = [len(word) for word in _whole(c.what).split(" ")]
    return _width() - len(_numbers(c)) < max(*words, LEAST)


def _wrapped(text: str, first: str, rest: str) -> str:
    """Text in lines of the terminal's width, broken between words."""
    how = {"break_long_words": False, "break_on_hyphens": False, "replace_whitespace": False}
    lines = textwrap.wrap(_whole(text), _width(), initial_indent=first, subsequent_indent=rest, **how)  # type: ignore[arg-type]
    return "\n".join(lines).replace("\0", " ")


def _whole(text: str) -> str:
    """Text in which a shape, and an argument in quotes, has no space at which a line could break."""
    return re.sub(r"'[^']*'|\[[^\]]*\]", lambda found: found[0].replace(" ", "\0"), text)


def _width() -> int:
    """The columns of a terminal; a pipe has rows of any length."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 1 << 30


def counted(targets: int) -> str:
    """`1 target`, `2 targets`."""
    return f"{targets} target{'' if targets == 1 else 's'}"

"""Output for a terminal and for a pipe: the console, sizes in words, JSON."""

import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


def console() -> "Console":
    """The console for data, which goes to stdout: with colours on a terminal, as plain rows of any length in a pipe."""
    from rich.console import Console

    class Pipeable(Console):
        def on_broken_pipe(self) -> None:
            """Leave it to the command that nobody reads on, instead of exiting with 1 as rich does."""
            raise BrokenPipeError

    return Pipeable(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False, soft_wrap=True)


def say(console: "Console", line: "str | Text", indent: int = 0) -> None:
    """Print a line: on a terminal in as many lines as it needs, all but the first of them indented.

    It is broken at blanks, and within a word that is longer than a line, such as a path, after one of `/._,`.
    """
    from rich.text import Text

    text = Text(line) if isinstance(line, str) else line
    for part in _wrapped(text, console.width, indent) if console.is_terminal else [text]:
        console.print(part)


def _wrapped(text: "Text", width: int, indent: int) -> "list[Text]":
    from rich.cells import cell_len
    from rich.text import Text

    cuts, x = list[int](), 0
    for word in re.finditer(r"\s*\S+", text.plain):
        pieces = [(word.start(), word[0])]
        if x + cell_len(word[0]) > width and cell_len(word[0].lstrip()) > width - indent:
            pieces = [(word.start() + piece.start(), piece[0]) for piece in re.finditer(r"\s*[^/._,]*[/._,]?", word[0])]
        for start, piece in pieces:
            if x and x + cell_len(piece) > width:
                cuts.append(start + len(piece) - len(piece.lstrip()))
                x, piece = indent, piece.lstrip()
            x += cell_len(piece)
    first, *others = text.divide(cuts)
    for line in (first, *others):
        line.rstrip()
    return [first, *(Text.assemble(" " * indent, line) for line in others)]


def fits(console: "Console", table: "Table") -> bool:
    """Whether a table is no wider than the terminal, with no cell of it in two lines."""
    from rich.measure import Measurement

    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width


@contextmanager
def progress(what: str) -> Iterator[Callable[[str], None]]:
    """Say on stderr that something long is going on, where there is somebody to see it; gives what says how far."""
    if not sys.stderr.isatty():
        yield lambda what: None
        return
    from rich.console import Console

    with Console(stderr=True).status(what) as status:
        yield status.update


def wrote(path: Path) -> None:
    """Say on stderr where a file is now."""
    print(f"wrote {path}", file=sys.stderr)


def can_draw() -> bool:
    """Whether matplotlib is installed, which the lab needs for pictures alone."""
    return find_spec("matplotlib") is not None


def size(nbytes: int) -> str:
    """Bytes for people: `16 KiB`, `1.5 MiB`; exact below a KiB."""
    amount, units = float(nbytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:.4g} {units[0]}"


def units(nbytes: int | None, unit: int) -> str:
    """Bytes in units of an array, three characters: `1.0`, `.25`; `0` is exactly nothing, `.00` is not, `–` is None."""
    if not nbytes:
        text = "–" if nbytes is None else "0"
    elif nbytes < 0.995 * unit:
        text = f"{nbytes / unit:.2f}"[1:]
    else:
        text = f"{nbytes / unit:.1f}" if nbytes < 9.95 * unit else f"{nbytes / unit:.0f}"
    return f"{text:>3}"


def print_json(document: dict[str, Any], file: TextIO | None = None) -> None:
    """One document on stdout or into a file, with null where JSON has no number."""
    print(json.dumps(_finite(document), indent=2, allow_nan=False), file=file)


def _finite(facts: Any) -> Any:
    if isinstance(facts, dict):
        return {key: _finite(value) for key, value in facts.items()}
    if isinstance(facts, list):
        return [_finite(value) for value in facts]
    return None if isinstance(facts, float) and not math.isfinite(facts) else facts

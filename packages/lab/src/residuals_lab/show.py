"""Output for a terminal and for a pipe: the console, sizes in words, JSON."""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def console() -> "Console":
    """The console for data, which goes to stdout: with colours on a terminal, as plain rows of any length in a pipe."""
    from rich.console import Console

    class Pipeable(Console):
        def on_broken_pipe(self) -> None:
            """Leave it to the command that nobody reads on, instead of exiting with 1 as rich does."""
            raise BrokenPipeError

    return Pipeable(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Say on stderr that something long is going on, where there is somebody to see it."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


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


def print_json(document: dict[str, Any]) -> None:
    """One document on stdout, with null where JSON has no number."""
    print(json.dumps(_finite(document), indent=2, allow_nan=False))


def _finite(facts: Any) -> Any:
    if isinstance(facts, dict):
        return {key: _finite(value) for key, value in facts.items()}
    if isinstance(facts, list):
        return [_finite(value) for value in facts]
    return None if isinstance(facts, float) and not math.isfinite(facts) else facts

"""Lanes: the picture of what a backward pass keeps.

A bar for each saved array, from the step of the forward that saves it to the step of the backward that reads it last.
Its height is its bytes and its colour says who else keeps it. Above them are the bytes that are live together. All
columns have the same scales; in each one the forward is the left half and the backward the right half, however many
steps they have. Where there are too many arrays, a module shows only its largest ones, and the rest as one lane.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from residuals_lab.errors import UsageError
from residuals_lab.lanes.figure import DARK, LIGHT, TEXT, figure_of, summary
from residuals_lab.show import can_draw
from residuals_lab.trace import Trace


def draw(traces: Mapping[str, Trace], path: Path, *, is_dark: bool = False) -> None:
    """Draw traces side by side, in the order given and under their names.

    Args:
        traces: at least one.
        path: the file to write; its suffix is .svg or .png, in any case. Equal traces give equal files.
        is_dark: draw for a dark page.

    Raises:
        UsageError: there is nothing to draw, the suffix is another one, there is no such folder, or no matplotlib.
    """
    check(path)
    _save(traces, path, path.suffix.lower(), is_dark)


def svg(traces: Mapping[str, Trace], *, is_dark: bool = False) -> str:
    """The same drawing as an `<svg>` element, for a page."""
    file = io.BytesIO()
    _save(traces, file, ".svg", is_dark)
    text = file.getvalue().decode()
    return text[text.index("<svg") :]


def check(path: Path) -> None:
    """Raise a UsageError if nothing can be drawn there: to be asked before a long trace is run for it."""
    if path.suffix.lower() not in {".svg", ".png"}:
        raise UsageError(f"lanes: expected a path that ends in .svg or .png, got {str(path)!r}")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: no folder {path.parent}")
    if not can_draw():
        raise UsageError("lanes: drawing needs matplotlib; run: pip install './packages/lab[plot]'")


def _save(traces: Mapping[str, Trace], file: Path | IO[bytes], suffix: str, is_dark: bool) -> None:
    if not traces:
        raise UsageError("lanes: expected at least one trace, got none")
    import matplotlib

    theme = DARK if is_dark else LIGHT
    settings: dict[Any, Any] = {
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same widths everywhere
        "font.size": TEXT,
        "hatch.linewidth": 0.7,
        "svg.hashsalt": "lanes",
        "text.parse_math": False,  # a name may have a $ in it
    }
    with matplotlib.rc_context(settings):
        figure = figure_of(traces, theme)
        metadata = {"Description": summary(traces)} | ({"Date": None} if suffix == ".svg" else {})
        figure.savefig(file, format=suffix[1:], dpi=200, facecolor=theme.paper, metadata=metadata)

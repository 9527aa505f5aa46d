"""Lanes: the picture of what a backward pass keeps.

A row for all saved arrays that are alike: what they are in a gutter at the left; when they are alive in a lane, from
the operation that makes one to the one that reads it last, as high as the part of them that is alive; how much they are
at the right; and in their colour who else keeps them. Above are the bytes that are live together. All columns share
their rows and scales; in each the forward is the left half and the backward the right half, however many steps they
have.
"""

import io
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from residuals_lab.errors import UsageError
from residuals_lab.lanes.figure import DARK, LIGHT, NARROW, TEXT, WIDE, Sizes, figure_of, spoken, summary
from residuals_lab.lanes.rows import LOOKS, MOST_ROWS, Note, Order, Picture, rows_of
from residuals_lab.show import can_draw
from residuals_lab.trace import Kind

MOST_BYTES = 95_000  # of an SVG, which is drawn less finely if it has more
COARSEST = 16  # points

__all__ = ["MOST_ROWS", "Note", "Order", "Picture", "check", "colour_of", "colours", "draw", "svg"]


def draw(
    pictures: Mapping[str, Picture],
    path: Path,
    *,
    is_dark: bool = False,
    rows: int = MOST_ROWS,
    order: Order = "program",
) -> None:
    """Draw traces side by side, in the order given and under their names.

    Args:
        pictures: at least one.
        path: the file to write; its suffix is .svg or .png, in any case. Equal pictures give equal files.
        is_dark: draw for a dark page.
        rows: the most rows; the smallest that are more than that are one row together.
        order: of the rows, that of the program or the largest first.

    Raises:
        UsageError: there is nothing to draw, the suffix is another one, there is no such folder, or no matplotlib.
    """
    check(path)
    path.write_bytes(_drawn(pictures, path.suffix.lower(), is_dark, rows, order))


def svg(pictures: Mapping[str, Picture], *, rows: int = MOST_ROWS, order: Order = "program", narrow: int = 0) -> str:
    """The same drawing as an `<svg>` element of a page, which sets the `colours`; its rows say their numbers.

    `narrow`, a number above 0 that differs between the drawings on a page, draws one column for a telephone.
    """
    sizes = NARROW if narrow else WIDE
    text = _drawn(pictures, ".svg", False, rows, order, sizes, f"lanes {narrow}").decode()
    text = re.sub(r' id="(?:figure|axes)_1"', "", text[text.index("<svg") :])
    names = {colour: name for name, colour in _colours(is_dark=False).items()}
    text = re.sub(r"#[0-9a-f]{6}\b", lambda found: f"var(--{names[found[0]]})" if found[0] in names else found[0], text)
    spots = [
        f'<rect class="spot" tabindex="0" role="img" aria-label="{escape(said, quote=True)}" x="0" y="{y:.1f}" '
        f'width="100%" height="{sizes.row}"><title>{escape(said)}</title></rect>'
        for y, said in spoken(pictures, rows_of([*pictures.values()], rows, order), sizes)
    ]
    return text.replace("</svg>", "\n".join([*spots, "</svg>"]))


def colours(*, is_dark: bool) -> str:
    """The colours of a page that has an `svg`, as CSS: `--paper: #ffffff`, ..."""
    return "; ".join(f"--{name}: {colour}" for name, colour in _colours(is_dark=is_dark).items())


def colour_of(is_new: bool, kind: Kind) -> str:
    """The name of the colour of arrays that are new memory or not, of a kind."""
    return f"{'new' if is_new else 'alive'}-{kind}"


def _colours(*, is_dark: bool) -> dict[str, str]:
    theme = DARK if is_dark else LIGHT
    names = ("paper", "band", "ink", "muted", "rule", "badge")
    of_kinds = {colour_of(*kind): look[theme.look] for kind, look in LOOKS.items()}
    return {name: getattr(theme, name) for name in names} | of_kinds


def check(path: Path) -> None:
    """Raise a UsageError if nothing can be drawn there: to be asked before a long trace is run for it."""
    if path.suffix.lower() not in {".svg", ".png"}:
        raise UsageError(f"lanes: expected a path that ends in .svg or .png, got {str(path)!r}")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: no folder {path.parent}")
    if not can_draw():
        raise UsageError("lanes: drawing needs matplotlib; run: pip install './packages/lab[plot]'")


def _drawn(
    pictures: Mapping[str, Picture],
    suffix: str,
    is_dark: bool,
    rows: int,
    order: Order,
    sizes: Sizes = WIDE,
    salt: str = "lanes",
) -> bytes:
    if not pictures:
        raise UsageError("lanes: expected at least one trace, got none")
    import matplotlib

    theme = DARK if is_dark else LIGHT
    settings: dict[Any, Any] = {
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same widths everywhere
        "font.size": TEXT,
        "hatch.linewidth": 0.8,
        "svg.fonttype": "none",  # text that can be read, searched and copied; its widths are checked with DejaVu Sans,
        "svg.hashsalt": salt,  # and the fonts that stand in for it are as wide or narrower
        "text.parse_math": False,  # a name may have a $ in it
    }
    file = io.BytesIO()
    with matplotlib.rc_context(settings):
        figure = figure_of(pictures, rows_of([*pictures.values()], rows, order), theme, sizes)
        metadata = {"Description": summary(pictures)} | ({"Date": None} if suffix == ".svg" else {})
        figure.savefig(file, format=suffix[1:], dpi=200, facecolor=theme.paper, metadata=metadata)
    if suffix == ".png":
        return file.getvalue()
    drawn = _lean(file.getvalue().decode()).encode()
    if len(drawn) > MOST_BYTES and sizes.fine < COARSEST:
        return _drawn(pictures, suffix, is_dark, rows, order, sizes._replace(fine=2 * sizes.fine), salt)
    return drawn


def _lean(svg: str) -> str:
    """The same picture in fewer bytes, and with fonts that may stand in for the one that comes with matplotlib."""
    svg = re.sub(r"font-family: 'DejaVu Sans'; ?", "", svg)
    svg = svg.replace("<svg ", "<svg font-family=\"'DejaVu Sans', Verdana, sans-serif\" ", 1)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"|text-anchor: start; |; stroke-linecap: square', "", svg)
    svg = re.sub(r'(?<= [xy]=")[\d.]+', lambda number: f"{float(number[0]):.4g}", svg)
    svg = re.sub(
        r'<g id="(?:text|patch|line2d|PolyCollection)_\d+">\s*((?:<(?:path|text)[^<]*(?:</text>)?\s*)+)</g>', r"\1", svg
    )
    svg = re.sub(r'(?<= d=")[^"]*', lambda path: _relative(path[0]), svg)
    return re.sub(r"(?<=>)\s+(?=<)", "\n", svg)


def _relative(path: str) -> str:
    """A path of straight lines, each as its step from the one before, in tenths of a point."""
    words = re.findall(r"[A-Za-z]|-?[\d.]+", path)
    if {*re.findall("[A-Za-z]", path)} - {*"MLz"}:
        return " ".join(words)
    at, short, i = (0, 0), "", 0
    while i < len(words):
        if words[i] == "z":
            short, i = short + "z", i + 1
            continue
        to = (round(float(words[i + 1]) * 10), round(float(words[i + 2]) * 10))
        x, y = to[0] - at[0], to[1] - at[1]
        if words[i] == "M":
            short += f"M{to[0] / 10:g} {to[1] / 10:g}"
        elif x and y:
            short += f"l{x / 10:g} {y / 10:g}"
        elif x or y:
            short += f"h{x / 10:g}" if x else f"v{y / 10:g}"
        at, i = to, i + 3
    return short

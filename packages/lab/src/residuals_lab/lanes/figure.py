"""The drawing, with matplotlib: what in a gutter at the left, when in the lanes, how much at the right.

All is drawn in points, from the top left corner of the figure, in one panel that fills it.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from residuals_lab.lanes.rows import LOOKS, Level, Part, Picture, Row, Run, Side, outline, runs
from residuals_lab.show import size
from residuals_lab.trace import Trace
from residuals_lab.trace.lifetimes import staircase

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BADGES = 3  # beside a row; more are `…`
MOST_TICKS = 12  # below the forward, and as many below the backward


class Theme(NamedTuple):
    """The colours of everything but the bars, and which of a look's colours the bars have."""

    look: int
    paper: str
    band: str  # behind every second row
    ink: str
    muted: str
    rule: str
    badge: str

    @property
    def settings(self) -> dict[str, str]:
        """The same colours as settings of matplotlib, for other figures that stand beside this one."""
        inks = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), self.ink)
        papers = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), self.paper)
        return {**inks, **papers, "axes.edgecolor": self.muted, "grid.color": self.rule}


LIGHT = Theme(0, "#ffffff", "#f3f5f7", "#1f2328", "#59636e", "#dfe3e8", "#0550ae")
DARK = Theme(1, "#0d1117", "#151b23", "#e6edf3", "#9198a1", "#2b323a", "#79c0ff")

# Lengths are in points: a figure that fills the width of a README has 720.
WIDTH, MARGIN, GAP = 720.0, 8.0, 14.0
GUTTER, AMOUNT = 156.0, 104.0  # left of the first lane, and right of each: a bar, and its bytes
LEAST_LANE, MODULE = 150.0, 74.0
HEAD, STAIRS, AXIS = 40.0, 84.0, 20.0  # titles, staircase, the names of the halves and of the columns
ROW, BAR, FOOT, LEGEND = 15.4, 9.6, 18.0, 14.0  # the height of a row, of a bar in it, of the ticks, of a legend's line
TEXT, SMALL, TITLE = 7.8, 7.2, 9.6  # sizes of fonts
FINE = 2.0  # what is closer together is not told apart
BANDS, RULES, BARS, MIDDLE = 0.5, 1.0, 2.0, 3.0  # what lies above what


class Column(NamedTuple):
    """One trace in the picture; the forward has the left half of its lanes and the backward the right half."""

    picture: Picture
    left: float
    width: float

    @property
    def trace(self) -> Trace:
        return self.picture.trace

    @property
    def middle(self) -> float:
        return self.left + self.width / 2

    @property
    def right(self) -> float:
        return self.left + self.width

    def across(self, place: int) -> float:
        """The x of a place in the trace."""
        boundary, steps = self.trace.boundary, len(self.trace.steps)
        if place <= boundary:
            return self.left + place / max(boundary, 1) * self.width / 2
        return self.middle + (place - boundary) / (steps - boundary) * self.width / 2


def summary(pictures: Mapping[str, Picture]) -> str:
    return "; ".join(f"{name}: {_peak(picture.trace)}" for name, picture in pictures.items())


def spoken(pictures: Mapping[str, Picture], rows: Sequence[Row]) -> list[tuple[float, str]]:
    """Each row's place from the top, and what it shows in words."""
    top = HEAD + STAIRS + AXIS
    lines = []
    for i, row in enumerate(rows):
        sides = [
            f"{name}: {size(side.nbytes)} in {side.arrays:,} array{'' if side.arrays == 1 else 's'}"
            if side
            else f"{name}: not kept"
            for name, side in zip(pictures, row.sides, strict=True)
        ]
        lines.append((top + i * ROW, f"{' '.join(filter(None, (row.module, row.name, row.what)))}. {'; '.join(sides)}"))
    return lines


def _peak(trace: Trace) -> str:
    stairs = staircase(trace)
    peak = size(max((s.nbytes for s in stairs), default=0))
    return f"peak {peak}, {size(max((s.new_bytes for s in stairs), default=0))} of it new"


def figure_of(pictures: Mapping[str, Picture], rows: Sequence[Row], theme: Theme) -> "Figure":
    """All columns, with the same rows and scales, and the legend and the notes below them."""
    from matplotlib.figure import Figure

    lane = max(LEAST_LANE, (WIDTH - 2 * MARGIN - GUTTER - GAP * (len(pictures) - 1)) / len(pictures) - AMOUNT)
    step = lane + AMOUNT + GAP
    columns = [Column(p, MARGIN + GUTTER + i * step, lane) for i, p in enumerate(pictures.values())]
    width = columns[-1].right + AMOUNT + MARGIN
    floor = HEAD + STAIRS
    top = floor + AXIS
    bottom = top + ROW * len(rows)
    legend = _lines(_entries(rows), width, theme)
    notes = _lines(_notes(pictures), width, theme)
    height = bottom + FOOT + LEGEND * (len(legend) + len(notes)) + MARGIN
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    most = max(column.trace.saved_bytes for column in columns)
    for i, (name, column) in enumerate(zip(pictures, columns, strict=True)):
        _write(axes, _fit(name, step - GAP, TITLE, is_bold=True), column.left, 12, theme.ink, size=TITLE, weight="bold")
        _write(axes, _peak(column.trace), column.left, 25, theme.muted)
        others = [other for other in columns if other is not column][:1] if i < 2 else columns[:1]
        _draw_staircase(axes, column, others, most, floor, theme, is_first=i == 0)
    _draw_gutter(axes, columns, rows, top, theme)
    for i, column in enumerate(columns):
        _draw_ticks(axes, column, top, bottom, theme)
        _rule(axes, theme.muted, (column.middle, HEAD - 6), (column.middle, bottom), linestyle=":", zorder=MIDDLE)
        for j, row in enumerate(rows):
            _draw_side(axes, column, row.sides[i], max(r.nbytes for r in rows), top + (j + 0.5) * ROW, theme)
    _rule(axes, theme.muted, (0, bottom), (width, bottom))
    _draw_legend(axes, legend + notes, bottom + FOOT, theme)
    return figure


def _write(axes: "Axes", text: str, x: float, y: float, colour: str, **style: Any) -> None:
    """Write at the left of a place, or at another side, with its middle at this height."""
    axes.text(x, y, text, **{"color": colour, "va": "center_baseline", "size": TEXT, **style})


def _fill(axes: "Axes", x: float, y: float, width: float, height: float, **style: Any) -> None:
    axes.fill(
        [x, x + width, x + width, x],
        [y, y, y + height, y + height],
        **{"linewidth": 0, "zorder": BARS, "clip_on": False, **style},
    )


def _draw_stack(
    axes: "Axes", column: Column, levels: Sequence[Level], styles: Sequence[Any], floor: float, scale: float
) -> None:
    """Fill what is alive, one colour above the other; `scale` is in points a byte."""
    x, levels = _seen(levels, column)
    base = [floor] * len(x)
    for i, style in enumerate(styles):
        above = [y - level.amounts[i] * scale for y, level in zip(base, levels, strict=True)]
        if above != base:
            axes.fill(
                *zip(*_steps(x, above), *reversed(_steps(x, base)), strict=True), zorder=BARS, clip_on=False, **style
            )
        base = above


def _steps(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    """The corners of stairs that have these heights from these places on; the last place ends them."""
    corners = [(x[0], y[0])]
    for at, height in zip(x[1:-1], y[1:-1], strict=True):
        if height != corners[-1][1]:
            corners += [(at, corners[-1][1]), (at, height)]
    return [*corners, (x[-1], corners[-1][1])]


def _seen(levels: Sequence[Level], column: Column) -> tuple[list[float], list[Level]]:
    """Levels and their x: of those within a point only the highest and the last, since no more can be seen."""
    x, seen = list[float](), list[Level]()
    for _, near in groupby(levels, lambda level: int(column.across(level.place) / FINE)):
        together = [*near]
        highest, last = max(together, key=lambda level: level.nbytes), together[-1]
        x.append(column.across(together[0].place))
        seen.append(highest)
        if last is not highest:
            x.append(column.across(last.place))
            seen.append(last)
    return x, seen


def _rule(axes: "Axes", colour: str, *corners: tuple[float, float], **style: Any) -> None:
    """A thin line through these corners."""
    x, y = [corner[0] for corner in corners], [corner[1] for corner in corners]
    axes.plot(x, y, **{"color": colour, "linewidth": 0.8, "zorder": RULES, "clip_on": False, **style})


def _byte_ticks(most: int) -> list[int]:
    """The bytes at which lines are drawn: at most four steps of a power of two, up to `most` or just above."""
    step = 1
    while step * 3 < most:
        step *= 2
    return [*range(0, max(most, 1) + step, step)]


def _draw_staircase(
    axes: "Axes", column: Column, others: Sequence[Column], most: int, floor: float, theme: Theme, *, is_first: bool
) -> None:
    """The live bytes, new memory at the bottom, above lines of equal bytes; dashed is the outline of another column."""
    ticks = _byte_ticks(most)
    scale = (STAIRS - 8) / ticks[-1]
    for tick in ticks:
        y = floor - tick * scale
        colour, above = (theme.rule, RULES) if tick else (theme.muted, MIDDLE)
        _rule(axes, colour, (column.left, y), (column.right, y), zorder=above)
        if is_first:
            _write(axes, size(tick) if tick else "0", column.left - 6, y, theme.muted, ha="right", size=SMALL)
    for other in others:
        x, levels = _seen(outline(other.trace), other._replace(left=column.left))
        if x:
            corners = _steps(x, [floor - level.nbytes * scale for level in levels])
            _rule(axes, theme.muted, (x[0], floor), *corners, (x[-1], floor), linestyle=(0, (2.4, 1.6)))
    styles = [{"facecolor": look[theme.look], "linewidth": 0} for look in LOOKS.values()]
    _draw_stack(axes, column, outline(column.trace), styles, floor, scale)
    for x_half, text in ((0.25, "forward →"), (0.75, "→ backward")):
        _write(axes, text, column.left + x_half * column.width, floor + 9, theme.muted, ha="center", size=SMALL)
    _write(axes, "bytes", column.right + 10, floor + 9, theme.muted, size=SMALL)


def _draw_gutter(axes: "Axes", columns: Sequence[Column], rows: Sequence[Row], top: float, theme: Theme) -> None:
    """Bands behind the rows, and what each row is: its module, its name, its shape or how many it has, its notes."""
    _write(axes, "saved array", MARGIN, top - AXIS + 9, theme.muted, size=SMALL)
    end = MARGIN + GUTTER - 6
    indent = min(MODULE, max((_length(row.module, TEXT, is_bold=True) + 6 for row in rows if row.module), default=0))
    before = ""
    for i, row in enumerate(rows):
        y = top + (i + 0.5) * ROW
        if i % 2 == 0:
            _fill(axes, 0, y - ROW / 2, columns[-1].right + AMOUNT + MARGIN, ROW, color=theme.band, zorder=BANDS)
        if row.module and row.module != before:
            module = _fit(row.module, indent - 6, TEXT, is_bold=True)
            _write(axes, module, MARGIN, y, theme.ink, weight="bold")
        before = row.module
        x = end
        badges = [str(number) for number in row.notes]
        for text in reversed(badges if len(badges) <= MOST_BADGES else [*badges[: MOST_BADGES - 1], "…"]):
            _draw_badge(axes, text, x - 5.5, y, theme)
            x -= 13
        start = indent if row.module else 0
        room = x - MARGIN - start
        what = _counted(row)
        if _length(what, SMALL) + min(_length(row.name, TEXT), 0.45 * room) + 6 > room:
            what = ""
        name = _fit(row.name, room - (_length(what, SMALL) + 6 if what else 0), TEXT)
        _write(axes, name, MARGIN + start, y, theme.ink)
        _write(axes, what, x, y, theme.muted, ha="right", size=SMALL)


def _counted(row: Row) -> str:
    """`×32`, `×32, ×64` where the columns differ, or the shape of the only array."""
    counts = [*dict.fromkeys(side.arrays for side in row.sides if side)]
    return row.what if counts == [1] else ", ".join(f"×{count:,}" for count in counts)


def _draw_badge(axes: "Axes", text: str, x: float, y: float, theme: Theme) -> None:
    axes.plot([x], [y], marker="o", markersize=10, color=theme.badge, markeredgewidth=0)
    _write(axes, text, x, y, theme.paper, ha="center", size=SMALL - 0.4, weight="bold")


def _draw_side(axes: "Axes", column: Column, side: Side | None, most: int, y: float, theme: Theme) -> None:
    """One column's part of a row: its silhouette in the lane, and its bytes beside it."""
    if side is None:
        _rule(axes, theme.muted, (column.left, y), (column.right, y), linestyle=(0, (1, 3)))
        _write(axes, "not kept", column.right + 10, y, theme.muted, size=SMALL)
        return
    floor, left = y + BAR / 2, column.right + 10
    styles = [_style(part, theme) for part in side.parts]
    _draw_stack(axes, column, side.levels, styles, floor, BAR / max(side.nbytes, 1))
    for part, style in zip(side.parts, styles, strict=True):
        wide = (AMOUNT - 62) * part.nbytes / max(most, 1)
        wide = max(wide, 0.8 if len(side.parts) == 1 else 0)  # a line, where there would be nothing to see
        _fill(axes, left, floor - BAR, wide, BAR, **style)
        left += wide
    _write(axes, size(side.nbytes), column.right + AMOUNT, y, theme.ink, ha="right")


def _style(part: Part, theme: Theme) -> dict[str, Any]:
    colour = LOOKS[part.is_new, part.kind][theme.look]
    return {"facecolor": colour, "linewidth": 0} | (
        {"hatch": "//////", "edgecolor": theme.paper} if part.is_wasted else {"edgecolor": colour}
    )


def _draw_ticks(axes: "Axes", column: Column, top: float, bottom: float, theme: Theme) -> None:
    """The names of operations or modules below the lanes, and a thin line above each."""
    forward, backward = runs(column.trace, MOST_TICKS)
    places = _thinned(forward, column, column.left)
    if {run.name for run in backward} <= {run.name for run in forward}:  # then the backward mirrors the forward
        backward = [run for run in backward if run.name in places.values()]
    places |= _thinned(backward, column, column.middle)
    for x, label in places.items():
        _rule(axes, theme.rule, (x, top), (x, bottom))
        _write(axes, label, x, bottom + 8, theme.muted, ha="center", size=SMALL)


def _thinned(found: list[Run], column: Column, left: float) -> dict[float, str]:
    """The names of runs by their x in a half: all, or every second, or third ... until none touches the next."""
    half = column.width / 2
    labels = {run.name: _fit(run.name, half - 6, SMALL) for run in found}
    wide = {name: _length(label, SMALL) / 2 + 3 for name, label in labels.items()}
    for every in range(1, len(found) + 1):
        places = {}
        for run in found[::every]:
            x = (column.across(run.begin) + column.across(run.end)) / 2
            places[min(max(x, left + wide[run.name]), left + half - wide[run.name])] = run.name
        if all(x + wide[a] <= y - wide[b] for (x, a), (y, b) in pairwise(places.items())):
            return {x: labels[name] for x, name in places.items()}
    return {}


class _Entry(NamedTuple):
    """A line below the picture: a patch in a part's style, or a badge, and what it means."""

    text: str
    part: Part | None
    number: int = 0


def _entries(rows: Sequence[Row]) -> list[_Entry]:
    """The entries of the legend: the looks that occur, in the order of the stack, and what is wasted."""
    parts = [part for row in rows for side in row.sides if side for part in side.parts]
    there = {(part.is_new, part.kind) for part in parts}
    entries = [_Entry(LOOKS[look][2], Part(*look, False, 0, 0)) for look in LOOKS if look in there]
    if any(part.is_wasted for part in parts):
        entries.append(_Entry("hatched: wasted", Part(True, "new", True, 0, 0)))
    return entries


def _notes(pictures: Mapping[str, Picture]) -> list[_Entry]:
    texts = dict.fromkeys(note.text for picture in pictures.values() for note in picture.notes)
    return [_Entry(text, None, number) for number, text in enumerate(texts, 1)]


def _lines(entries: Sequence[_Entry], width: float, theme: Theme) -> list[list[tuple[float, _Entry]]]:
    """The entries in lines, each with its x: as many on a line as have room."""
    lines: list[list[tuple[float, _Entry]]] = []
    x = width
    for entry in entries:
        wide = _length(entry.text, TEXT) + 30
        if x + wide > width or not lines:
            lines.append([])
            x = MARGIN
        lines[-1].append((x, entry._replace(text=_fit(entry.text, width - x - 30, TEXT))))
        x += wide
    return lines


def _draw_legend(axes: "Axes", lines: Sequence[Sequence[tuple[float, _Entry]]], top: float, theme: Theme) -> None:
    for i, line in enumerate(lines):
        y = top + (i + 0.5) * LEGEND
        for x, entry in line:
            if entry.part:
                _fill(axes, x, y - 3.6, 12, 7.2, **_style(entry.part, theme))
            else:
                _draw_badge(axes, str(entry.number), x + 6, y, theme)
            _write(axes, entry.text, x + 17, y, theme.ink)


def _fit(text: str, room: float, fontsize: float, *, is_bold: bool = False) -> str:
    """A text without its middle, if it is too long."""
    if _length(text, fontsize, is_bold=is_bold) <= room:
        return text

    def short(keep: int) -> str:
        return f"{text[: keep // 2]}…{text[len(text) - (keep + 1) // 2 :]}"

    kept = range(2, len(text))
    too_long = bisect_right(kept, room, key=lambda keep: _length(short(keep), fontsize, is_bold=is_bold))
    return short(kept[max(too_long - 1, 0)]) if kept else text


@cache
def _length(text: str, fontsize: float, *, is_bold: bool = False) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=fontsize, weight="bold" if is_bold else "normal")
    return float(text_to_path.get_text_width_height_descent(text, font, False)[0])

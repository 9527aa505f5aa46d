"""The drawing, with matplotlib: figures, panels, bars and labels."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from residuals_lab.lanes.rows import LOOKS, Row, Run, rows_of, runs
from residuals_lab.show import size
from residuals_lab.trace import Trace
from residuals_lab.trace.lifetimes import Lane, staircase

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_TICKS = 12  # below the forward, and as many below the backward

ON_BAR = "#14181d"


class Theme(NamedTuple):
    """The colours of everything but the bars."""

    paper: str
    ink: str
    muted: str
    rule: str
    new: str  # the outline of new memory


LIGHT = Theme("#ffffff", "#1f2328", "#59636e", "#d9dee3", "#c2410c")
DARK = Theme("#0d1117", "#e6edf3", "#9198a1", "#2f353d", "#ffa56b")

# Lengths are in points: a figure that fills the width of a README has 720.
WIDTH, LEFT, RIGHT, GAP = 720.0, 58.0, 10.0, 22.0
LEAST_COLUMN = 230.0
HEAD, STAIRS, BETWEEN, FOOT = 44.0, 112.0, 12.0, 34.0  # titles, staircase, the space below it, names of steps
LEGEND_LINE = 15.0
TEXT, SMALL, TITLE = 7.6, 7.4, 10.0  # sizes of fonts
TEXT_ROW = 9.8  # the least height of a row, and of a bar with text in it
ROW_GAP = 2.8
HIGHEST_BAR, HAIRLINE = 24.0, 1.2


class Column(NamedTuple):
    """One trace in the picture; the forward has the left half and the backward the right half."""

    trace: Trace
    theme: Theme
    width: float

    @property
    def half(self) -> float:
        return self.width / 2

    def across(self, place: int) -> float:
        """The x of a place in the trace."""
        boundary, steps = self.trace.boundary, len(self.trace.steps)
        if place <= boundary:
            return place / max(boundary, 1) * self.half
        return self.half + (place - boundary) / (steps - boundary) * self.half


class Place(NamedTuple):
    """A place where a label could be."""

    x: float
    room: float
    align: Literal["left", "right"]
    is_within: bool = False  # in the bar itself


def summary(traces: Mapping[str, Trace]) -> str:
    return "; ".join(f"{name}: {_peak(trace)}" for name, trace in traces.items())


def _peak(trace: Trace) -> str:
    stairs = staircase(trace)
    peak = size(max((s.nbytes for s in stairs), default=0))
    return f"peak {peak}, {size(max((s.new_bytes for s in stairs), default=0))} of it new"


def figure_of(traces: Mapping[str, Trace], theme: Theme) -> "Figure":
    """All columns, with the same scales, and the legend below them."""
    from matplotlib.figure import Figure

    lines = [rows_of(trace) for trace in traces.values()]
    heights = _heights(lines)
    lowest = max(sum(max(TEXT_ROW, sum(h)) + ROW_GAP for h in hs) for hs in heights) + ROW_GAP
    wide = max(LEAST_COLUMN, (WIDTH - LEFT - RIGHT + GAP) / len(traces) - GAP)
    width = LEFT + RIGHT - GAP + len(traces) * (wide + GAP)
    entries = _entries([part for column in lines for row in column for part in row.parts], theme)
    height = HEAD + STAIRS + BETWEEN + lowest + FOOT + LEGEND_LINE * (-(-len(entries) // 4) + 0.4)
    figure = Figure(figsize=(width / 72, height / 72))
    ticks = _byte_ticks(max(trace.saved_bytes for trace in traces.values()))
    for i, (name, trace) in enumerate(traces.items()):
        column = Column(trace, theme, wide)
        left = LEFT + i * (wide + GAP)
        stairs, bars = (
            figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))
            for top, high in ((HEAD, STAIRS), (HEAD + STAIRS + BETWEEN, lowest))
        )
        _draw_staircase(stairs, column, ticks)
        _draw_rows(bars, column, lines[i], heights[i], lowest)
        _draw_ticks(bars, column)
        _note(stairs, _fit(name, wide, TITLE, is_bold=True), (0, 1), 19, theme.ink, size=TITLE, weight="bold")
        _note(stairs, _peak(trace), (0, 1), 7, theme.muted)
        if i:
            stairs.tick_params(labelleft=False)
        else:
            for axes, label in ((stairs, "live bytes"), (bars, "saved arrays")):
                axes.set_ylabel(label, color=theme.muted, fontsize=SMALL)
                axes.yaxis.set_label_coords(-(LEFT - 12) / wide, 0.5)
    style: dict[str, Any] = {"handlelength": 1.6, "handleheight": 0.8, "columnspacing": 2, "borderaxespad": 0.6}
    style |= {"loc": "lower center", "ncols": min(4, len(entries)), "frameon": False, "labelcolor": theme.ink}
    figure.legend(handles=entries, fontsize=TEXT, **style)
    return figure


def _note(axes: "Axes", text: str, place: tuple[float, float], up: float, colour: str, **style: Any) -> None:
    """Write so many points above a place: its x is that of the data, its y a fraction of the panel's height."""
    where: Any = ("data", "axes fraction")
    axes.annotate(text, place, (0, up), xycoords=where, textcoords="offset points", color=colour, **style)


def _heights(columns: Sequence[Sequence[Row]]) -> list[list[list[float]]]:
    """The heights of the parts of each row: by bytes, on one scale for all columns."""
    most = max((row.nbytes for column in columns for row in column), default=0) or 1
    count = max(len(column) for column in columns)
    highest = min(HIGHEST_BAR, max(TEXT_ROW + 1, 400 / max(count, 1)))
    return [[[max(HAIRLINE, p.nbytes / most * highest) for p in row.parts] for row in column] for column in columns]


def _byte_ticks(most: int) -> list[int]:
    """The bytes at which lines are drawn: at most four steps of a power of two, up to `most` or just above."""
    step = 1
    while step * 4 < most:
        step *= 2
    return [*range(0, max(most, 1) + step, step)]


def _draw_staircase(axes: "Axes", column: Column, ticks: Sequence[int]) -> None:
    stairs, theme = staircase(column.trace), column.theme
    x = [0.0, *(column.across(s.place) for s in stairs), column.width]
    base = [0] * len(x)
    for (is_new, kind), (colour, _) in LOOKS.items():
        amounts = [(s.new if is_new else s.alive).get(kind, 0) for s in stairs]
        top = [b + n for b, n in zip(base, [0, *amounts, 0], strict=True)]
        if any(amounts):
            axes.fill_between(x, base, top, step="post", color=colour, linewidth=0)
        base = top
    _outline(axes, x, base, theme.muted, 0.9)
    _outline(axes, x, [0, *(s.new_bytes for s in stairs), 0], theme.new, 1.3)
    axes.set_yticks(ticks, [size(n) if n else "0" for n in ticks])
    axes.set_ylim(0, 1.1 * ticks[-1])
    _bare(axes, column)
    axes.grid(axis="y", color=theme.rule, linewidth=0.6)
    axes.axvline(column.half, -BETWEEN / STAIRS, color=theme.muted, linewidth=0.9, linestyle=":", clip_on=False)


def _outline(axes: "Axes", x: Sequence[float], amounts: Sequence[int], colour: str, width: float) -> None:
    """Draw the outline of stairs, from the floor and back to it."""
    there = [i for i, amount in enumerate(amounts) if amount]
    if there:
        steps = slice(there[0], there[-1] + 2)
        axes.step([x[there[0]], *x[steps]], [0, *amounts[steps]], where="post", color=colour, linewidth=width)


def _bare(axes: "Axes", column: Column) -> None:
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    axes.set_xlim(0, column.width)
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=SMALL, labelcolor=column.theme.muted)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(column.theme.muted)


def _draw_rows(
    axes: "Axes", column: Column, lines: Sequence[Row], heights: Sequence[Sequence[float]], lowest: float
) -> None:
    _bare(axes, column)
    axes.set_ylim(lowest, 0)
    axes.set_yticks([])
    axes.axvline(column.half, color=column.theme.muted, linewidth=0.9, linestyle=":", zorder=0.5)
    top = ROW_GAP
    for row, highs in zip(lines, heights, strict=True):
        room = max(TEXT_ROW, sum(highs))
        y = top + (room + sum(highs)) / 2
        for part, high in zip(row.parts, highs, strict=True):
            begin, end = column.across(part.begin), column.across(part.end)
            style = {"color": LOOKS[part.is_new, part.kind][0], **_hatch(part.is_unused, column.theme)}
            axes.barh(y - high / 2, end - begin, high, left=begin, **style)
            y -= high
        _write(axes, column, row, top + room / 2, sum(highs))
        top += room + ROW_GAP


def _hatch(is_unused: bool, theme: Theme) -> dict[str, Any]:
    return {"hatch": "/////", "edgecolor": theme.paper, "linewidth": 0} if is_unused else {"linewidth": 0}


def _write(axes: "Axes", column: Column, row: Row, y: float, high: float) -> None:
    """A row's label: in its bar if it fits, else beside it; on a thin bar only if it fits nowhere else."""
    across, theme = column.across, column.theme
    is_high = high >= TEXT_ROW
    begin, end = across(max(part.begin for part in row.parts)), across(min(part.end for part in row.parts))
    before, after = across(row.begin), across(row.end)
    inset = 4 if is_high else 12
    within = Place(begin + inset, end - begin - 2 * inset, "left", is_within=True)
    beside = [Place(after + 4, column.width - after - 4, "left"), Place(before - 4, before - 4, "right")]
    places = [within, *beside] if is_high else [*beside, within]
    fitting = [(text, p) for text in (row.label, row.short) for p in places if _length(text, TEXT) <= p.room]
    text, place = fitting[0] if fitting else (row.short, max(places, key=lambda p: p.room))
    colour, box = theme.ink, None
    if place.is_within and is_high:
        colour = ON_BAR
        if any(part.is_unused for part in row.parts):  # text on hatching is hard to read
            box = {"facecolor": LOOKS[row.parts[0].is_new, row.parts[0].kind][0], "edgecolor": "none", "pad": 1.2}
    elif place.is_within:
        box = {"facecolor": theme.paper, "edgecolor": "none", "pad": 1.6, "alpha": 0.8}  # the bar goes on below
    text = _fit(text, place.room, TEXT)
    axes.text(place.x, y, text, ha=place.align, va="center_baseline", fontsize=TEXT, color=colour, bbox=box)


def _draw_ticks(axes: "Axes", column: Column) -> None:
    forward, backward = runs(column.trace, MOST_TICKS)
    places = _thinned(forward, column, 0)
    if {run.name for run in backward} <= {run.name for run in forward}:  # then the backward mirrors the forward
        backward = [run for run in backward if run.name in places.values()]
    places |= _thinned(backward, column, column.half)
    for x, label in places.items():
        _note(axes, label, (x, 0), -10, column.theme.ink, ha="center", size=SMALL)
    for x, label in ((column.half / 2, "forward"), (column.half * 1.5, "backward")):
        _note(axes, label, (x, 0), -23 if places else -10, column.theme.muted, ha="center", size=SMALL)


def _thinned(found: list[Run], column: Column, left: float) -> dict[float, str]:
    """The names of runs by their x in a half: all, or every second, or third ... until none touches the next."""
    labels = {run.name: _fit(run.name, column.half - 6, SMALL) for run in found}
    wide = {name: _length(label, SMALL) / 2 + 3 for name, label in labels.items()}
    for every in range(1, len(found) + 1):
        places = {}
        for run in found[::every]:
            x = (column.across(run.begin) + column.across(run.end)) / 2
            places[min(max(x, left + wide[run.name]), left + column.half - wide[run.name])] = run.name
        if all(x + wide[a] <= y - wide[b] for (x, a), (y, b) in pairwise(places.items())):
            return {x: labels[name] for x, name in places.items()}
    return {}


def _entries(parts: Sequence[Lane], theme: Theme) -> list[Any]:
    """The entries of the legend: the kinds that occur, in the order of the stack."""
    from matplotlib.patches import Patch

    there = {(a.is_new, a.kind) for a in parts}
    entries = [Patch(color=colour, label=label) for key, (colour, label) in LOOKS.items() if key in there]
    if any(a.is_unused for a in parts):
        entries.append(Patch(facecolor=theme.muted, label="hatched: no gradient needs it", **_hatch(True, theme)))
    return entries


def _fit(text: str, room: float, fontsize: float, *, is_bold: bool = False) -> str:
    """A text without its middle, if it is too long."""
    short, keep = text, len(text)
    while keep > 2 and _length(short, fontsize, is_bold=is_bold) > room:
        keep -= 1
        short = f"{text[: keep // 2]}…{text[len(text) - (keep + 1) // 2 :]}"
    return short


def _length(text: str, fontsize: float, *, is_bold: bool = False) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=fontsize, weight="bold" if is_bold else "normal")
    return float(text_to_path.get_text_width_height_descent(text, font, False)[0])

"""The drawing, with matplotlib: what in a gutter at the left, when in the lanes, how much at the right.

All is drawn in points, from the top left corner of the figure, in one panel that fills it.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby, pairwise
from os.path import basename
from typing import TYPE_CHECKING, Any, NamedTuple

from residuals_lab.lanes.axis import Run, runs
from residuals_lab.lanes.rows import LOOKS, Level, Part, Picture, Row, Side, numbered, outline
from residuals_lab.show import size
from residuals_lab.trace import Trace
from residuals_lab.trace.lifetimes import staircase

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BADGES = 3  # beside a row; more are `…`


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
MARGIN, GAP = 8.0, 14.0
LEAST_LANE = 150.0
NARROW_GUTTER, LEAST_GUTTER, MOST_GUTTER = (
    36.0,
    96.0,
    230.0,
)  # left of the first lane; and as much as leaves each lane its least
HEAD, STAIRS = 40.0, 84.0  # the heights of titles and of the staircase
BAR, FOOT, LEGEND = 9.6, 18.0, 14.0  # and of a bar, of the ticks, of a line of the legend
TEXT, SMALL, TITLE = 7.8, 7.2, 9.6  # sizes of fonts
BADGE = 13.0  # its width, and what is beside it
BANDS, RULES, BARS, MIDDLE = 0.5, 1.0, 2.0, 3.0  # what lies above what


class Sizes(NamedTuple):
    """What differs between a picture on a page and one on a telephone, where the words of a row are above its lane."""

    width: float
    axis: float  # the height of the names of the halves and of the columns
    row: float
    words: float  # the middle of a row's words, from its top
    bar: float  # the middle of its bar
    amount: float  # right of each lane: a bar, and its bytes; none, where these stand at the end of the words
    fine: float = 2  # what is closer together is not told apart

    @property
    def is_narrow(self) -> bool:
        return not self.amount


WIDE = Sizes(720, 20, 15.4, 7.7, 7.7, 104)
NARROW = Sizes(252, 34, 27, 8, 19.5, 0)


class Column(NamedTuple):
    """One trace in the picture; the forward has the left half of its lanes and the backward the right half."""

    picture: Picture
    left: float
    width: float
    sizes: Sizes = WIDE

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
    return "; ".join(f"{name}: {_peak(picture.trace)}".removeprefix(": ") for name, picture in pictures.items())


def spoken(pictures: Mapping[str, Picture], rows: Sequence[Row], sizes: Sizes = WIDE) -> list[tuple[float, str]]:
    """Each row's place from the top, and in words what it shows: also where its arrays are made, why they are wasted,
    and what is advised.
    """
    texts = {number: text for text, number in numbered([*pictures.values()]).items()}
    lines = []
    for i, row in enumerate(rows):
        sides = [
            (f"{name}: " if len(pictures) > 1 else "") + _said(side, texts)
            for name, side in zip(pictures, row.sides, strict=True)
        ]
        what = " ".join(filter(None, (row.module, row.name, row.what)))
        lines.append((HEAD + STAIRS + sizes.axis + i * sizes.row, f"{what}. {'. '.join(sides)}"))
    return lines


def _said(side: Side | None, notes: Mapping[int, str]) -> str:
    if side is None:
        return "not kept"
    some = ", ".join(side.lines[:3]) + (" and others" if len(side.lines) > 3 else "")
    said = [
        f"{size(side.nbytes)} in {side.arrays:,} array{'' if side.arrays == 1 else 's'}{f' at {some}' if some else ''}"
    ]
    if side.wasted:
        reasons = "; ".join(side.reasons[:2]) + (" and others" if len(side.reasons) > 2 else "")
        said.append(f"{'all' if side.wasted == side.nbytes else size(side.wasted)} wasted, {reasons}")
    return "; ".join([*said, *(f"advice {number}: {notes[number]}" for number in side.notes)])


def _peak(trace: Trace) -> str:
    stairs = staircase(trace)
    peak = size(max((s.nbytes for s in stairs), default=0))
    return f"peak {peak}, {size(max((s.new_bytes for s in stairs), default=0))} of it new"


def figure_of(pictures: Mapping[str, Picture], rows: Sequence[Row], theme: Theme, sizes: Sizes = WIDE) -> "Figure":
    """All columns, with the same rows and scales, and the legend and the notes below them; if narrow, of one column."""
    from matplotlib.figure import Figure

    columns = _columns(pictures, rows, sizes)
    width = columns[-1].right + sizes.amount + MARGIN
    floor = HEAD + STAIRS
    top = floor + sizes.axis
    bottom = top + sizes.row * len(rows)
    legend = _lines(_entries(rows), width)
    notes = _lines(_notes(pictures), width)
    height = bottom + FOOT + LEGEND * (len(legend) + len(notes)) + MARGIN
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    most = max(column.trace.saved_bytes for column in columns)
    for i, (name, column) in enumerate(zip(pictures, columns, strict=True)):
        title = _fit(name, column.width + sizes.amount, TITLE, is_bold=True)
        _write(axes, title, column.left, 12, theme.ink, size=TITLE, weight="bold")
        _write(axes, _peak(column.trace), column.left, 25, theme.muted)
        others = [other for other in columns if other is not column][:1] if i < 2 else columns[:1]
        _draw_staircase(axes, column, others, most, floor, theme, is_first=i == 0)
    _draw_gutter(axes, columns, rows, top, theme)
    for i, column in enumerate(columns):
        _draw_ticks(axes, column, top, bottom, theme)
        _draw_middle(axes, column, len(rows), top, theme)
        for j, row in enumerate(rows):
            _draw_side(axes, column, row.sides[i], max(r.nbytes for r in rows), top + j * sizes.row, theme)
    _rule(axes, theme.muted, (0, bottom), (width, bottom))
    _draw_legend(axes, legend + notes, bottom + FOOT, theme)
    return figure


def _columns(pictures: Mapping[str, Picture], rows: Sequence[Row], sizes: Sizes) -> list[Column]:
    """The columns beside each other, right of a gutter for the words of the rows, or for those of the staircase."""
    room = sizes.width - 2 * MARGIN - GAP * (len(pictures) - 1) - sizes.amount * len(pictures)
    gutter = NARROW_GUTTER
    if not sizes.is_narrow:
        gutter = _gutter(rows, min(MOST_GUTTER, max(room - LEAST_LANE * len(pictures), LEAST_GUTTER * 2)))
    lane = max(LEAST_LANE, (room - gutter) / len(pictures))
    step = lane + sizes.amount + GAP
    return [Column(p, MARGIN + gutter + i * step, lane, sizes) for i, p in enumerate(pictures.values())]


def _draw_middle(axes: "Axes", column: Column, rows: int, top: float, theme: Theme) -> None:
    """A dotted line where the backward begins; where the words of a row are above its lane, it passes over them."""
    sizes = column.sizes
    spans = [(HEAD - 6, top + sizes.row * rows)]
    if sizes.is_narrow:
        bars = (top + i * sizes.row + sizes.bar for i in range(rows))
        spans = [(HEAD - 6, HEAD + STAIRS), *((y - BAR / 2, y + BAR / 2) for y in bars)]
    for begin, end in spans:
        _rule(axes, theme.muted, (column.middle, begin), (column.middle, end), linestyle=":", zorder=MIDDLE)


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
    for _, near in groupby(levels, lambda level: int(column.across(level.place) / column.sizes.fine)):
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
    if column.sizes.is_narrow:
        _write(axes, "bytes", column.right, floor + 23, theme.muted, ha="right", size=SMALL)
    else:
        _write(axes, "bytes", column.right + 10, floor + 9, theme.muted, size=SMALL)


def _draw_gutter(axes: "Axes", columns: Sequence[Column], rows: Sequence[Row], top: float, theme: Theme) -> None:
    """Bands behind the rows, and what each row is: its module, its name and line, its shape or number, its notes."""
    file, sizes = _file(rows), columns[0].sizes
    end = columns[0].left - 6
    head = f"saved array {f':line of {file}' if file else ''}"
    room = columns[0].right - 30 if sizes.is_narrow else end - MARGIN
    _write(axes, _fit(head, room, SMALL), MARGIN, top - 11, theme.muted, size=SMALL)
    indent, before = _indent(rows, end - MARGIN), ""
    for i, row in enumerate(rows):
        y = top + i * sizes.row + sizes.words
        if i % 2 == 0:
            wide = columns[-1].right + sizes.amount + MARGIN
            _fill(axes, 0, top + i * sizes.row, wide, sizes.row, color=theme.band, zorder=BANDS)
        if sizes.is_narrow:
            end = columns[0].right - _length(size(row.nbytes), TEXT) - 6
            indent, before = _indent([row], end - MARGIN), ""
        if row.module and row.module != before:
            module = _fit(row.module, indent - 6, TEXT, is_bold=True)
            _write(axes, module, MARGIN, y, theme.ink, weight="bold")
        before = row.module
        x = end
        for text in reversed(_badges(row)):
            _draw_badge(axes, text, x - 5.5, y, theme)
            x -= BADGE
        start = MARGIN + (indent if row.module else 0)
        name, line, what = _gutter_words(row, file, x - start)
        _write(axes, name, start, y, theme.ink)
        if line:
            _write(axes, line, start + _length(name, TEXT) + 3, y, theme.muted, size=SMALL)
        if what:
            _write(axes, what, x, y, theme.muted, ha="right", size=SMALL)


def _gutter(rows: Sequence[Row], most: float) -> float:
    """How wide a gutter is that has all words of these rows, if that is not more than `most`."""
    file = _file(rows)
    wide = [
        (_indent(rows, most) if row.module else 0)
        + _length(row.name, TEXT)
        + sum(_length(text, SMALL) + 6 for text in (_lines_of(row, file), _counted(row)) if text)
        + BADGE * len(_badges(row))
        for row in rows
    ]
    return min(max(LEAST_GUTTER, *wide, 0) + 8, most)


def _gutter_words(row: Row, file: str, room: float) -> tuple[str, str, str]:
    """The name, the line and the shape or number of a row; where there is no room, without the shape, or the line."""
    line, what = _lines_of(row, file), _counted(row)
    wide = {text: _length(text, SMALL) + 6 for text in (line, what)} | {"": 0.0}
    name = _length(row.name, TEXT)
    counts = what if what.startswith("×") else ""  # a number is worth more than a line, and a line more than a shape
    for shown, beside in ((line, what), (line, counts), ("", counts)):
        if name + wide[shown] + wide[beside] <= room:
            return row.name, shown, beside
    return _fit(row.name, max(room - wide[counts], 0.45 * room), TEXT), "", counts if wide[counts] < 0.55 * room else ""


def _indent(rows: Sequence[Row], room: float) -> float:
    """Where the names of arrays begin that have a module before them."""
    return min(max((_length(row.module, TEXT, is_bold=True) + 6 for row in rows if row.module), default=0), 0.5 * room)


def _badges(row: Row) -> list[str]:
    numbers = [str(number) for number in row.notes]
    return numbers if len(numbers) <= MOST_BADGES else [*numbers[: MOST_BADGES - 1], "…"]


def _file(rows: Sequence[Row]) -> str:
    """The file of most lines."""
    files = Counter(basename(line).rpartition(":")[0] for row in rows for line in row.lines)
    return files.most_common(1)[0][0] if files else ""


def _lines_of(row: Row, file: str) -> str:
    """`:19`, `:19, 42`, `:19–42` in that file; `other.py:19` in another one; "" if the lines are of several files."""
    places = [basename(line).rpartition(":") for line in row.lines]
    if len({name for name, _, _ in places}) != 1:
        return ""
    numbers = sorted(int(number) for _, _, number in places if number.isdecimal())
    shown = ", ".join(map(str, numbers)) if len(numbers) < 3 else f"{numbers[0]}–{numbers[-1]}"
    return f"{places[0][0] if places[0][0] != file else ''}:{shown}" if numbers else ""


_SHORT = {"bfloat": "bf", "float": "f", "uint": "u", "int": "i"}  # as in the arguments of the command


def _counted(row: Row) -> str:
    """`×32`, `×32, ×64` where the columns differ, or the shape of the only array: `bf16[8, 1024]`."""
    counts = [*dict.fromkeys(side.arrays for side in row.sides if side)]
    if counts != [1]:
        return ", ".join(f"×{count:,}" for count in counts)
    return re.sub(r"^(bfloat|float|uint|int)(?=\d)", lambda found: _SHORT[found[0]], row.what)


def _draw_badge(axes: "Axes", text: str, x: float, y: float, theme: Theme) -> None:
    axes.plot([x], [y], marker="o", markersize=10, color=theme.badge, markeredgewidth=0)
    _write(axes, text, x, y, theme.paper, ha="center", size=SMALL - 0.4, weight="bold")


def _draw_side(axes: "Axes", column: Column, side: Side | None, most: int, top: float, theme: Theme) -> None:
    """One column's part of a row: its silhouette in the lane, and its bytes beside it or above."""
    y, amount = top + column.sizes.bar, column.sizes.amount
    if side is None:
        _rule(axes, theme.muted, (column.left, y), (column.right, y), linestyle=(0, (1, 3)))
        _write(axes, "not kept", column.right + 10, y, theme.muted, size=SMALL)
        return
    floor, left = y + BAR / 2, column.right + 10
    styles = [_style(part, theme) for part in side.parts]
    _draw_stack(axes, column, side.levels, styles, floor, BAR / max(side.nbytes, 1))
    for part, style in zip(side.parts, styles, strict=True):
        if not amount:
            break
        wide = (amount - 62) * part.nbytes / max(most, 1)
        wide = max(wide, 0.8 if len(side.parts) == 1 else 0)  # a line, where there would be nothing to see
        _fill(axes, left, floor - BAR, wide, BAR, **style)
        left += wide
    _write(axes, size(side.nbytes), column.right + amount, top + column.sizes.words, theme.ink, ha="right")


def _style(part: Part, theme: Theme) -> dict[str, Any]:
    colour = LOOKS[part.is_new, part.kind][theme.look]
    return {"facecolor": colour, "linewidth": 0} | (
        {"hatch": "//////", "edgecolor": theme.paper} if part.is_wasted else {"edgecolor": colour}
    )


def _draw_ticks(axes: "Axes", column: Column, top: float, bottom: float, theme: Theme) -> None:
    """The names of operations or modules below the lanes, and a thin line above each."""
    forward, backward = runs(column.trace)
    places = _thinned(forward, column, column.left)
    if {run.name for run in backward} <= {run.name for run in forward}:  # then the backward mirrors the forward
        backward = [run for run in backward if run.name in {found.name for found in places.values()}]
    places |= _thinned(backward, column, column.middle)
    for x, run in places.items():
        _rule(axes, theme.rule, (x, bottom - 3 if column.sizes.is_narrow else top), (x, bottom))
        _write(axes, _label(run, column, forward), x, bottom + 8, theme.muted, ha="center", size=SMALL)


def _label(run: Run, column: Column, forward: Sequence[Run]) -> str:
    """`embed`, `layers 0` for the first layer of a stack, and `7` for another."""
    first = next((other.name for other in forward if other.stack == run.stack), run.name)
    whole = f"{run.stack.rpartition('/')[2]} {run.own}" if run.stack and run.name == first else run.own
    return _fit(whole, column.width / 2 - 6, SMALL)


_EVERY = [i * 10**n for n in range(5) for i in (1, 2, 5)]  # layer that has its number below the axis


def _by_worth(found: Sequence[Run]) -> list[Run]:
    """The longest first; the second of one name is worth half its length, and the third a third."""
    worth, so_far = {}, Counter[str]()
    for run in sorted(found, key=lambda run: run.begin - run.end):
        so_far[run.name] += 1
        worth[run] = (run.end - run.begin) / so_far[run.name]
    return sorted(worth, key=lambda run: -worth[run])


def _thinned(found: Sequence[Run], column: Column, left: float) -> dict[float, Run]:
    """The runs of a half that have their names below them, by their x, so that none touches another.

    These are the ends of stacks of layers; then what else has room; then every second layer, or fifth, or tenth ...
    """
    half = column.width / 2
    forward = runs(column.trace)[0]
    spans: dict[Run, tuple[float, float]] = {}  # of the names that have room
    wide = {run: _length(_label(run, column, forward), SMALL) / 2 + 3 for run in found}

    def span(run: Run) -> tuple[float, float]:
        x = (column.across(run.begin) + column.across(run.end)) / 2
        x = min(max(x, left + wide[run]), left + half - wide[run])
        return x - wide[run], x + wide[run]

    def is_free(run: Run) -> bool:
        begin, end = span(run)
        return all(end <= a or b <= begin for a, b in spans.values())

    stacks = [[*same] for stack, same in groupby(found, lambda run: run.stack) if stack]
    ends = [run for same in stacks for run in (same[0], same[-1])]
    for run in dict.fromkeys([*ends, *_by_worth([run for run in found if not run.stack])]):
        if is_free(run):
            spans[run] = span(run)
    for same in stacks:
        for every in _EVERY:
            between = [run for run in same[1:-1] if int(run.own) % every == 0 and is_free(run)]
            if all(span(a)[1] <= span(b)[0] for a, b in pairwise(between)):
                spans |= {run: span(run) for run in between}
                break
    return {(begin + end) / 2: run for run, (begin, end) in sorted(spans.items(), key=lambda item: item[1])}


class _Entry(NamedTuple):
    """A line below the picture: a patch in a part's style, or a badge, and what it means; or how a line goes on."""

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


def _lines(entries: Sequence[_Entry], width: float) -> list[list[tuple[float, _Entry]]]:
    """The entries in lines, each with its x: as many on a line as have room; one that is longer goes on below."""
    lines: list[list[tuple[float, _Entry]]] = []
    x, waiting = width, [*entries]
    while waiting:
        entry, *waiting = waiting
        wide = _length(entry.text, TEXT) + 30
        if x + wide > width or not lines:
            lines.append([])
            x = MARGIN
        fitting, more = entry.text, ""
        while _length(fitting, TEXT) > width - x - 30 and " " in fitting:
            fitting, _, word = fitting.rpartition(" ")
            more = f"{word} {more}".strip()
        lines[-1].append((x, entry._replace(text=_fit(fitting, width - x - 30, TEXT))))
        waiting = [_Entry(more, None), *waiting] if more else waiting
        x += wide
    return lines


def _draw_legend(axes: "Axes", lines: Sequence[Sequence[tuple[float, _Entry]]], top: float, theme: Theme) -> None:
    for i, line in enumerate(lines):
        y = top + (i + 0.5) * LEGEND
        for x, entry in line:
            if entry.part:
                _fill(axes, x, y - 3.6, 12, 7.2, **_style(entry.part, theme))
            elif entry.number:
                _draw_badge(axes, str(entry.number), x + 6, y, theme)
            _write(axes, entry.text, x + 17, y, theme.ink)


def _fit(text: str, room: float, fontsize: float, *, is_bold: bool = False) -> str:
    """A text without its middle, if it is too long."""
    if _length(text, fontsize, is_bold=is_bold) <= room + 0.01:
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

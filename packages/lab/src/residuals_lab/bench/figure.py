"""The picture of a bench: a row for each op, and in it a point with its interval for each other way."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from residuals_lab.bench import Bench, Entry
from residuals_lab.lanes.figure import DARK, LIGHT


class Look(NamedTuple):
    """How a way is drawn: its name in the legend, its colours on a light and on a dark page, and where in its row."""

    name: str
    colours: tuple[str, str]
    offset: float


LOOKS = {
    "plain": Look("plain autodiff", ("#0969da", "#79c0ff"), -0.22),
    "checkpoint": Look("a checkpoint", ("#8250df", "#d2a8ff"), 0.22),
}
OTHER = Look("the framework's own op", ("#bc4c00", "#ffa657"), 0)


def draw(result: Bench, path: Path, *, is_dark: bool = False) -> None:
    """Draw how many times as long as each other way it takes, forward and backward, on a logarithmic axis."""
    import matplotlib

    theme = DARK if is_dark else LIGHT
    settings: dict[Any, Any] = {"font.size": 8.5, "svg.hashsalt": "bench", **theme.settings}
    with matplotlib.rc_context(settings):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, NullFormatter

        figure = Figure(figsize=(7.2, 1.0 + 0.26 * len(result.entries)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        said = set[str]()
        for y, entry in enumerate(result.entries):
            for name, found in _ratios(entry).items():
                look = LOOKS.get(name, OTHER if "plain" in _ratios(entry) else OTHER._replace(name=name))
                axes.errorbar(
                    [found[0]], [y + look.offset], xerr=[[found[0] - found[1]], [found[2] - found[0]]],
                    fmt="o", ms=3.5, lw=1.2, color=look.colours[is_dark], alpha=1 if entry.is_quiet else 0.4,
                    label=None if look.name in said else look.name,
                )  # fmt: skip
                said.add(look.name)
        axes.axvline(1, color=theme.muted, lw=0.8, zorder=0)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yticks(range(len(result.entries)), [f"{e.name}, {e.title.split()[0]}" for e in result.entries])
        axes.set_ylim(len(result.entries) - 0.5, -0.5)
        pale = "" if all(entry.is_quiet for entry in result.entries) else "; pale: too noisy for a verdict"
        axes.set_xlabel(f"time of forward + backward, in units of the other way{pale}")
        axes.grid(axis="x", lw=0.4)
        axes.tick_params(axis="y", length=0)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        figure.legend(loc="outside upper center", ncols=4, frameon=False)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)


def _ratios(entry: Entry) -> Mapping[str, tuple[float, float, float]]:
    return {way.name: way.ratio["both"] for way in entry.ways if way.ratio is not None}

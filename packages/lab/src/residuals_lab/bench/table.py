"""A bench for people: how many times as long as each other way, and the memory, a table a framework."""

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table

from residuals_lab.bench import NOISE, PHASES, Bench, Entry, Interval, Way
from residuals_lab.bench.baseline import Change
from residuals_lab.bench.document import processor
from residuals_lab.show import fits, say, units

WORDS = {"forward": "forward", "both": "forward + backward"}


def show(result: Bench, console: Console) -> None:
    """Print the tables, what their columns mean, and what cannot be said."""
    options = result.options
    is_ops = all(map(_is_op, result.entries))
    what = f"{options.dtype}, about {options.size:,} elements, " if is_ops else ""
    say(
        console,
        f"{processor()}, {options.device}, {result.threads} thread{'s' * (result.threads != 1)}; {what}"
        f"{options.rounds} rounds",
    )
    whose, other = (
        ("ours", "plain: how many times as long as that way")
        if is_ops
        else ("the first", "NAME: how many times as long as that one")
    )
    for sentence in (
        f"ms: of {whose}. × {other}, the median of the rounds and its 95 % interval.",
        "floor: how many times as long as the memory, or the matrix products (*), need at least.",
        "peak, new: bytes at the peak, and kept for the backward, in units of the first array.",
    ):
        say(console, sentence)
    for title, group in groupby(result.entries, lambda entry: entry.title):
        entries = [*group]
        how = (
            ""
            if not title.startswith("PyTorch")
            else ", compiled"
            if options.is_compiled
            else ", eager, ours fused"
            if options.is_fused
            else ", eager"
        )
        for phase in PHASES:
            console.print()
            say(console, f"{title}{how}: {WORDS[phase]}")
            _print(_times(entries, phase), console)
        console.print()
        ways = ["ours", *_heads(entries)] if _is_op(entries[0]) else [way.name for way in entries[0].ways]
        say(console, f"{title}{how}: memory, each of {', '.join(ways)}")
        _print(_memory(entries), console)
    noisy = [entry for entry in result.entries if not entry.is_quiet]
    console.print()
    if noisy:
        say(console, f"Too noisy for a verdict (?): run twice in a round, it may take {NOISE} × itself.")
        for entry in noisy:
            worst = max(entry.noise.values(), key=lambda i: max(i.high, 1 / i.low))
            say(console, f"  {entry.name} in {entry.title}: {worst.low:.2f} to {worst.high:.2f} of itself", indent=4)
        say(console, "Stop other programs, or take a larger --size or more --rounds.")
    elif result.entries:
        say(console, f"Quiet: run twice in a round, all stay within {NOISE} × themselves.")
    for name in result.not_run:
        say(console, f"not run, no time left: {name}")


def _table(heads: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        table.add_column(head, no_wrap=True, justify="left" if not head else "right")
    return table


def _heads(entries: Sequence[Entry]) -> list[str]:
    """The other ways: for ops always the same three."""
    others = entries[0].ways[1:]
    return ["plain", "own", "checkpoint"] if _is_op(entries[0]) else [way.name for way in others]


def _is_op(entry: Entry) -> bool:
    return any(way.name == "plain" for way in entry.ways)


def _others(entry: Entry) -> list[Way | None]:
    """In the order of the heads: plain autodiff, the framework's own op or None, the checkpoint."""
    if not _is_op(entry):
        return [*entry.ways[1:]]
    named = {way.name: way for way in entry.ways[1:]}
    plain, checkpoint = named.pop("plain"), named.pop("checkpoint")
    return [plain, next(iter(named.values()), None), checkpoint]


def _times(entries: Sequence[Entry], phase: str) -> Table:
    floor = ["floor"] if phase == "both" else []
    table = _table(["", "ms", *(f"× {head}" for head in _heads(entries)), *floor])
    for entry in entries:
        seconds = entry.ways[0].seconds[phase]
        cells = [_ratio(way.ratio[phase] if way and way.ratio else None) for way in _others(entry)]
        if floor:
            cells.append(f"{seconds / entry.floor_seconds:.1f}{'*' if entry.floor_is == 'products' else ' '}")
        table.add_row(f"{entry.name}{'' if entry.is_quiet else ' ?'}", f"{1000 * seconds:.3g}", *cells)
    return table


def _memory(entries: Sequence[Entry]) -> Table:
    table = _table(["", "peak", "new"])
    for entry in entries:
        found, unit = [entry.ways[0], *_others(entry)], entry.first_array_bytes
        peak = " ".join(units(way.peak_bytes if way else None, unit) for way in found)
        new = " ".join(units(way.new_bytes if way else None, unit) for way in found)
        table.add_row(entry.name, peak, new)
    return table


def _print(table: Table, console: Console) -> None:
    """The table; on a terminal that is too narrow for it each row as its name, and below it each cell with its head."""
    if fits(console, table):
        console.print(table)
        return
    names, *columns = table.columns
    for i, name in enumerate(names.cells):
        say(console, str(name))
        cells = [f"{column.header} {str([*column.cells][i]).strip()}" for column in columns]
        say(console, "  " + ", ".join(cells), indent=2)


def _ratio(found: Interval | None) -> str:
    return f"{found.median:.2f} ±{max(found.high - found.median, found.median - found.low):.2f}" if found else "–"


def show_changes(changes: Sequence[Change], unlike: Sequence[str], console: Console) -> None:
    """Print what became slower or faster than the baseline, or why that cannot be said."""
    for line in unlike:
        say(console, f"Not comparable with the baseline: {line}.")
    if unlike:
        return
    for change in changes:
        word = "slower" if change.is_slower else "faster"
        say(
            console,
            f"{word}: {change.name} in {change.framework}, {WORDS[change.phase]}: {change.before:.2f} × {change.way} "
            f"then, {change.now:.2f} now",
            indent=4,
        )
    if not any(change.is_slower for change in changes):
        say(console, "Nothing is slower than in the baseline.")

"""A comparison in detail: a table an op."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from residuals_lab.compare import Comparison, Entry
from residuals_lab.compare.measure import Errors, Kept, Options
from residuals_lab.frameworks import TITLES
from residuals_lab.show import fits, say, size
from residuals_lab.trace import Residual

Row = tuple[str, str, list[str]]


def show(comparison: Comparison, console: Console) -> None:
    """Print every op's table, and the verdict.

    Where a line of a terminal is too short for all columns, each framework has a table of its own, with its groups as
    titles.
    """
    for entry in comparison.entries:
        say(console, _title(entry, comparison.options))
        heads, rows = _rows(entry, comparison.options)
        table = _table(["", "", *heads])
        before = None
        for group, label, cells in rows:
            table.add_row("" if group == before else group, label, *cells)
            before = group
        if fits(console, table):
            console.print(table)
        else:
            for i, head in enumerate(heads):
                _show_narrow(head, [(group, label, cells[i]) for group, label, cells in rows], console)
        if entry.difference:
            say(console, _between(entry.difference, comparison.options))
        console.print()
    framework, *_ = comparison.entries[0].sides
    show_verdict(comparison, console, f"Next: residuals learn extra_residual --framework {framework}")


def _show_narrow(head: str, rows: Sequence[tuple[str, str, str]], console: Console) -> None:
    console.print(Text(head, "bold"))
    wide = max(len(label) for _, label, _ in rows) + 6
    before = None
    for group, label, cell in rows:
        if cell and group != before:
            say(console, f"  {group}", indent=4)
            before = group
        if cell:
            say(console, f"    {label:<{wide - 4}}{cell}", indent=wide)
    console.print()


def show_verdict(comparison: Comparison, console: Console, following: str) -> None:
    """Print the verdict: what failed, or that all is well, and how to go on."""
    for finding in comparison.findings:
        say(console, Text.assemble(("FAILED", "red"), f" {finding.line}"), indent=4)
    if not comparison.findings:
        say(console, _verdict(comparison))
        say(console, following)


def _title(entry: Entry, options: Options) -> Text:
    shapes = ", ".join(f"{name} {_shape(a.shape)}" for name, a in entry.call.arrays.items())
    return Text.assemble((entry.call.op.name, "bold"), f"  {shapes}; {options.device}, seed {options.seed}")


def _table(heads: list[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for head in heads:
        table.add_column(head, no_wrap=True)
    return table


def _rows(entry: Entry, options: Options) -> tuple[list[str], list[Row]]:
    """The heads of the columns, and each row as its group, its label and a cell a column."""
    sides, target = [*entry.sides.values()], entry.target
    found = [side.rule for side in sides] + ([target] if target else [])
    heads = [side.title for side in sides] + ([target.name] if target else [])
    rest = ["–"] * bool(target)  # somebody's function has no plain form, no other op and no checkpoint
    first, last = options.dtypes[0], options.dtypes[-1]
    rows: list[Row] = []
    rows += [("value error", dtype, [_error(f.errors.value[dtype]) for f in found]) for dtype in options.dtypes]
    rows += [("gradient error", dtype, [_error(f.errors.gradient[dtype]) for f in found]) for dtype in options.dtypes]
    rows.append(("second derivative error", "float64", [_error(f.errors.second_derivative) for f in found]))

    residuals = [{r.name: r for r in f.kept.trace.residuals} for f in found]
    names = dict.fromkeys(name for by_name in residuals for name in by_name)
    rows += [(f"residuals, {last}", name, [_residual(by_name.get(name)) for by_name in residuals]) for name in names]

    elements = math.prod(next(iter(entry.call.arrays.values())).shape)
    rows.append(("framework's own", "op", [side.own_name or "–" for side in sides] + rest))
    ways: list[tuple[str, list[Kept | None]]] = [
        ("this rule", [f.kept for f in found]),
        ("plain autodiff", [side.plain.kept for side in sides]),
        ("framework's own", [side.own for side in sides]),
        ("checkpoint, the floor", [side.checkpoint for side in sides]),
    ]
    for group, shown in (("saved bytes", ways), ("new bytes", ways[:3])):
        for way, kept in shown:
            if any(kept):
                cells = [_bytes(k and getattr(k, group.replace(" ", "_")), elements) for k in kept]
                rows.append((group, way, cells + rest * (way != "this rule")))
    for way, kept in ways[:3]:
        if any(kept):
            cells = [_bytes(k and k.chain_bytes, elements) for k in kept]
            rows.append(("added to linear→op→linear", way, cells + rest * (way != "this rule")))
    for way, kept in (*ways[:2], ("checkpoint", ways[3][1])):
        rows.append(("backward repeats", way, [repeats(k) for k in kept] + rest * (way != "this rule")))

    for source in ("numpy", *entry.sides):
        cells = [_error(entry.exchange[source, name]) for name in entry.sides]
        rows.append((f"exchange, {first}", f"{TITLES[source]}'s residuals", cells + [""] * bool(target)))
    return heads, rows


def _between(difference: Errors, options: Options) -> str:
    """How far the frameworks are from each other, in one line."""
    parts = [
        f"value {_error(difference.value[dtype])}, gradient {_error(difference.gradient[dtype])} ({dtype})"
        for dtype in options.dtypes
    ]
    return f"JAX − PyTorch: {'; '.join(parts)}; second derivative {_error(difference.second_derivative)}"


def _verdict(comparison: Comparison) -> str:
    ops = len(comparison.entries)
    pairs = sum(len(entry.exchange) for entry in comparison.entries)
    return f"{ops} {'op' if ops == 1 else 'ops'}, all as they should be; {pairs} exchanges of residuals, all agree."


def _error(value: float | None) -> str:
    return "none" if value is None else "0" if value == 0 else f"{value:.1e}"


def _residual(r: Residual | None) -> str:
    return "–" if r is None else f"{size(r.storage_bytes)}  {r.value}  {r.kind}"


def _bytes(nbytes: int | None, elements: int) -> str:
    if not nbytes:
        return "–" if nbytes is None else "0 B"
    return f"{size(nbytes)}  {nbytes / max(elements, 1):.3g} B an element"


def repeats(kept: Kept | None) -> str:
    """The operations that the backward repeats."""
    return "–" if kept is None else ", ".join(kept.trace.repeats()) or "nothing"


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"

"""A comparison in brief: one table, a row an op, and in it a line a framework."""

from collections.abc import Iterator

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from residuals_lab.compare import Comparison
from residuals_lab.compare.table import repeats, show_verdict
from residuals_lab.frameworks import TITLES


def show(comparison: Comparison, console: Console) -> None:
    """Print the table, what its columns mean, and the verdict."""
    options = comparison.options
    versions = dict.fromkeys(side.title for entry in comparison.entries for side in entry.sides.values())
    for line in (
        f"{', '.join(versions)}; {options.device}, seed {options.seed}",
        f"error: of the gradient, {options.dtypes[0]}. saved, new, chain: bytes in units of the op's first",
        f"array, {options.dtypes[-1]}, each of this rule, plain autodiff, and the framework's own op;",
        "chain is what linear → op → linear saves beyond what the linear layers save.",
        "0 is nothing at all, .00 next to nothing, – that the framework has no such op.",
    ):
        console.print(line)
    console.print()
    rows = list(_rows(comparison))
    table = _table(rows)
    if Measurement.get(console, console.options.update(max_width=10_000), table).maximum > console.width:
        table = _table([row[:-1] for row in rows])  # without the exchange: the verdict sums it up
    console.print(table)
    console.print()
    show_verdict(comparison, console, f"One in detail: residuals compare {comparison.entries[0].call.op.name}")


def _table(rows: list[list[str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in rows[0]:
        table.add_column(head, no_wrap=True)
    for row in rows[1:]:
        table.add_row(*row)
    return table


def _rows(comparison: Comparison) -> Iterator[list[str]]:
    """The heads of the columns, then a line for each op and framework."""
    yield ["", "", "error", "saved", "new", "chain", "repeats", "exchange"]
    for entry in comparison.entries:
        op, differs = entry.call.op.name, any(finding.rule == "exchange-differs" for finding in entry.findings)
        agree = "differs" if differs else "agrees"
        for name, side in entry.sides.items():
            error = side.rule.errors.gradient[comparison.options.dtypes[0]]
            ways = side.rule.kept, side.plain.kept, side.own
            triples = [
                " ".join(_units(kept and getattr(kept, f"{what}_bytes"), entry.first_array_bytes) for kept in ways)
                for what in ("saved", "new", "chain")
            ]
            yield [op, TITLES[name], f"{error:.0e}" if error else "0", *triples, repeats(side.rule.kept), agree]
            op = agree = ""


def _units(nbytes: int | None, unit: int) -> str:
    """Three characters: `1.0`, `.25`; `0` is exactly nothing, and `.00` is not."""
    if not nbytes:
        text = "–" if nbytes is None else "0"
    elif nbytes < 0.995 * unit:
        text = f"{nbytes / unit:.2f}"[1:]
    else:
        text = f"{nbytes / unit:.1f}" if nbytes < 9.95 * unit else f"{nbytes / unit:.0f}"
    return f"{text:>3}"

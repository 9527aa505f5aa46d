"""The document of `compare` in brief: one table, a row an op, and in it a line a framework."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from residuals_lab.compare.table import repeats, show_verdict
from residuals_lab.frameworks import TITLES

Record = dict[str, Any]

RULES = ("", "autodiff_", "own_")


def show(document: Record, console: Console) -> None:
    """Print the table, what its columns mean, and the verdict."""
    first, last = document["dtypes"][0], document["dtypes"][-1]
    versions = dict.fromkeys(r["version"] for entry in document["ops"] for r in entry["frameworks"].values())
    for line in (
        f"{', '.join(versions)}; {document['device']}, seed {document['seed']}",
        f"error: of the gradient, {first}. held, new, chain: bytes in units of the op's first",
        f"array, {last}, each of this rule, plain autodiff, and the framework's own op;",
        "chain is what linear → op → linear holds beyond what the linear layers hold.",
        "0 is nothing at all, .00 next to nothing, – that the framework has no such op.",
    ):
        console.print(line)
    console.print()
    rows = list(_rows(document))
    table = _table(rows)
    if Measurement.get(console, console.options.update(max_width=10_000), table).maximum > console.width:
        table = _table([row[:-1] for row in rows])  # the verdict says it of all exchanges at once
    console.print(table)
    console.print()
    show_verdict(document, console, f"One in detail: residuals compare {document['ops'][0]['op']}")


def _table(rows: list[list[str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in rows[0]:
        table.add_column(head, no_wrap=True)
    for row in rows[1:]:
        table.add_row(*row)
    return table


def _rows(document: Record) -> Iterator[list[str]]:
    """The heads of the columns, then a line for each op and framework."""
    yield ["", "", "error", "held", "new", "chain", "repeats", "exchange"]
    for entry in document["ops"]:
        op, differs = entry["op"], any(": exchange " in failure for failure in entry["failures"])
        agree = "differs" if differs else "agrees"
        for name, record in entry["frameworks"].items():
            error = record["gradient_error"][document["dtypes"][0]]
            triples = [
                " ".join(_units(record.get(f"{rule}{what}_bytes"), entry["first_array_bytes"]) for rule in RULES)
                for what in ("saved", "new", "chain")
            ]
            yield [op, TITLES[name], f"{error:.0e}" if error else "0", *triples, repeats(record), agree]
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

"""Two ports side by side: tables that fit a terminal, and what is not the same."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from residuals_lab.compare.beside import Beside, Difference
from residuals_lab.show import fits, say, size
from residuals_lab.trace import Residual


def show(found: Beside, console: Console) -> None:
    """Print what both compute, what each keeps, and the verdict."""
    first, second = found.ports
    arrays = ", ".join(f"{a.name} {list(a.array.shape)}" for a in first.inputs)
    say(console, Text.assemble((first.title, "bold")))
    say(console, Text.assemble("beside ", (second.title, "bold")))
    say(console, f"{arrays}; {found.options.device}, seed {found.options.seed}", indent=2)
    say(console, _verdict(found), indent=4)
    console.print()
    rows = [_difference(d) for d in found.differences] + [_difference(d, ", at 0") for d in found.at_zero]
    _show_rows(["", "", "difference", "allowed"], rows, console)
    console.print()
    _show_rows(["", "", "first", "second"], _bytes(found), console)
    console.print()
    dtype = found.options.dtypes[-1]
    head = [f"residuals, {dtype}", "of the first", "of the second"]
    kept = [[_named(m.first, m.second), _kept(m.first), _kept(m.second)] for m in found.matches]
    _show_rows(head, kept, console)
    if found.findings:
        console.print()
    for finding in found.findings:
        say(console, Text.assemble(("FAILED", "red"), f" {finding.line}"), indent=4)


def _verdict(found: Beside) -> Text:
    """What one looks for, in one line; the reasons stand at the end."""
    if not found.findings:
        equal = sum(None not in m for m in found.matches)
        of_all = f"{equal} of {len(found.matches)} residuals are equal in value."
        return Text.assemble(("ok", "green"), f" Nothing differs on these arguments; {of_all}")
    rules = ", ".join(dict.fromkeys(finding.rule for finding in found.findings))
    return Text.assemble(("FAILED", "red"), f" {rules}: said below")


def _show_rows(head: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    """Print a table, or, where a line is too short for it, a few lines a row."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for title in head:
        table.add_column(title, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    if fits(console, table):
        console.print(table)
        return
    if head[0]:
        say(console, Text(head[0], "bold"))
    for row in rows:
        say(console, "  ".join(cell for cell, title in zip(row, head, strict=True) if cell and title in ("", head[0])))
        for cell, title in zip(row, head, strict=True):
            if cell != "–" and title not in ("", head[0]):
                say(console, f"    {title}: {cell}", indent=6)


def _difference(d: Difference, where: str = "") -> list[str]:
    found = "one has none" if d.error is None else "0" if d.error == 0 else f"{d.error:.1e}"
    return [d.what + where, d.dtype, found, f"{d.allowed:.1e}"]


def _bytes(found: Beside) -> list[list[str]]:
    first, second = found.traces
    dtype = found.options.dtypes[-1]
    return [
        ["new bytes", dtype, size(first.new_bytes), size(second.new_bytes)],
        ["saved bytes", dtype, size(first.saved_bytes), size(second.saved_bytes)],
        ["peak bytes", dtype, *map(size, found.peaks)],
    ]


def _named(first: Residual | None, second: Residual | None) -> str:
    """What the two call a residual, each name once."""
    return " = ".join(dict.fromkeys(r.name for r in (first, second) if r))


def _kept(r: Residual | None) -> str:
    return "–" if r is None else f"{size(r.storage_bytes)}  {r.value}  {r.kind}{', never read' * r.is_unused}"

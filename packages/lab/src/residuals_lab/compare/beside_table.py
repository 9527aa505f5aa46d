"""Two ports side by side: tables that fit a terminal, and what is not the same."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from residuals_lab.compare.beside import Beside, Difference
from residuals_lab.show import fits, say, size
from residuals_lab.trace import Residual

TOP = 12  # residuals, as in an audit


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
    kept = [[_named(m.first, m.second), _kept(m.first), _kept(m.second)] for m in found.matches[:TOP]]
    _show_rows(head, kept, console)
    if rest := found.matches[TOP:]:
        sides = [sum(r.storage_bytes for m in rest if (r := m[i])) for i in (0, 1)]
        say(
            console,
            f"and {len(rest)} more, {size(sides[0])} of the first, {size(sides[1])} of the second; --json has all",
        )
    if found.findings or found.notes:
        console.print()
    for finding in found.findings:
        say(console, Text.assemble(("FAILED", "red"), f" {finding.line}"), indent=4)
    for note in found.notes:
        say(console, note, indent=2)


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
        below = {title: cell for cell, title in zip(row, head, strict=True) if title not in ("", head[0])}
        if len({*below.values()}) == 1 and len(below) > 1:  # both have it
            below = {"both": next(iter(below.values()))}
        for title, cell in below.items():
            if cell not in ("–", ""):
                say(console, f"    {title}: {cell}", indent=6)


def _difference(d: Difference, where: str = "") -> list[str]:
    if d.error is None:
        return [d.what, d.dtype, d.known.text.partition(":")[0] if d.known else "", ""]
    return [d.what + where, d.dtype, "0" if d.error == 0 else f"{d.error:.1e}", f"{d.allowed:.1e}"]


def _bytes(found: Beside) -> list[list[str]]:
    first, second = found.traces
    dtype = found.options.dtypes[-1]
    return [
        ["new bytes", dtype, size(first.new_bytes), size(second.new_bytes)],
        ["saved bytes", dtype, size(first.saved_bytes), size(second.saved_bytes)],
        ["peak bytes", dtype, *map(size, found.peaks)],
    ]


def _named(first: Residual | None, second: Residual | None) -> str:
    """What the two call a residual, each name once; that of an operation with the line that makes it."""
    some = [r for r in (first, second) if r]
    names = " = ".join(dict.fromkeys(r.name for r in some))
    lines = dict.fromkeys(r.line.rpartition("/")[2] for r in some if r.name == r.op and r.line)
    return f"{names} at {', '.join(lines)}" if lines else names


def _kept(r: Residual | None) -> str:
    return "–" if r is None else f"{size(r.storage_bytes)}  {r.value}  {r.kind}{', never read' * r.is_unused}"

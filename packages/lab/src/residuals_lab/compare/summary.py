"""A comparison in brief: one table, a row an op, and in it a line a framework."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from residuals_lab.compare import Comparison, Entry
from residuals_lab.compare.measure import Options
from residuals_lab.compare.table import repeats, show_verdict
from residuals_lab.frameworks import TITLES
from residuals_lab.show import fits, say, units

WAYS = "our  ad own"  # above three numbers of three characters
HEADS = ["error", f"saved\n{WAYS}", f"new\n{WAYS}", f"chain\n{WAYS}", "repeats", "exchange"]


def show(comparison: Comparison, console: Console) -> None:
    """Print the table, what its columns mean, and the verdict.

    Where a line of a terminal is too short for a row, the op, what it repeats and the exchange stand above the row's
    numbers.
    """
    options = comparison.options
    versions = dict.fromkeys(side.title for entry in comparison.entries for side in entry.sides.values())
    for sentence in (
        f"{', '.join(versions)}; {options.device}, seed {options.seed}",
        f"error: of the gradient, {options.dtypes[0]}. saved, new, chain: bytes in units of the op's first array, "
        f"{options.dtypes[-1]}, each of our rule, plain autodiff (ad), and the framework's own op; "
        "chain is what linear → op → linear saves beyond what the linear layers save. "
        "0 is nothing at all, .00 next to nothing, – that the framework has no such op.",
    ):
        say(console, sentence)
    console.print()
    rows = [(entry, [*_rows(entry, options)]) for entry in comparison.entries]
    whole = _table(["", "", *HEADS])
    for entry, lines in rows:
        for op, line in zip([entry.call.op.name, ""], lines, strict=False):
            whole.add_row(op, *(line if op else line[:-1]))
    if fits(console, whole):
        console.print(whole)
    else:
        _show_narrow(rows, console)
    console.print()
    show_verdict(comparison, console, f"One in detail: residuals compare {comparison.entries[0].call.op.name}")


def _table(heads: list[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        table.add_column(head, no_wrap=True)
    return table


def _show_narrow(rows: Sequence[tuple[Entry, list[list[str]]]], console: Console) -> None:
    numbers = _table(["", *HEADS[:4]])
    for _, lines in rows:
        for line in lines:
            numbers.add_row(f"  {line[0]}", *line[1:5])
    with console.capture() as captured:
        console.print(numbers)
    printed = captured.get().rstrip("\n").split("\n")
    for _ in range(2):  # the heads have two lines
        console.print(Text.from_ansi(printed.pop(0)))
    for entry, lines in rows:
        repeated = {line[0]: line[5] for line in lines if line[5] != "nothing"}
        same = len({*repeated.values()}) == 1 and len(repeated) == len(lines)
        what = [*repeated.values()][:1] if same else [f"{ops} in {name}" for name, ops in repeated.items()]
        said = [f"repeats {' and '.join(what)}"] if what else []
        op = Text.assemble((entry.call.op.name, "bold"), f"  {'; '.join([*said, f'exchange {lines[0][6]}'])}")
        say(console, op, indent=4)
        for _ in lines:
            console.print(Text.from_ansi(printed.pop(0)))


def _rows(entry: Entry, options: Options) -> Iterator[list[str]]:
    """A line for each framework: its name, and what `HEADS` says."""
    differs = any(finding.rule == "exchange-differs" for finding in entry.findings)
    for name, side in entry.sides.items():
        error = side.rule.errors.gradient[options.dtypes[0]]
        ways = side.rule.kept, side.plain.kept, side.own
        triples = [
            " ".join(units(kept and getattr(kept, f"{what}_bytes"), entry.first_array_bytes) for kept in ways)
            for what in ("saved", "new", "chain")
        ]
        agree = "differs" if differs else "agrees"
        yield [TITLES[name], f"{error:.0e}" if error else "0", *triples, repeats(side.rule.kept), agree]

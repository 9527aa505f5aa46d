"""The document of `compare` as tables, one an op."""

import math
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from residuals_lab.frameworks import TITLES
from residuals_lab.show import size

Record = dict[str, Any]


def show(document: Record, console: Console) -> None:
    """Print every op's table, and then what it comes to."""
    for entry in document["ops"]:
        console.print(_title(entry, document))
        console.print(_table(entry, document))
        for line in _between(entry, document):
            console.print(line)
        console.print()
    for failure in document["failures"]:
        console.print(f"[red]FAILED[/red] {failure}", markup=True)
    if not document["failures"]:
        console.print(_verdict(document))


def _title(entry: Record, document: Record) -> Text:
    shapes = ", ".join(f"{name} {_shape(shape)}" for name, shape in entry["shapes"].items())
    return Text.assemble((entry["op"], "bold"), f"  {shapes}; {document['device']}, seed {document['seed']}")


def _table(entry: Record, document: Record) -> Table:
    columns = {record["version"]: record for record in entry["frameworks"].values()}
    if "target" in entry:
        columns[entry["target"]["name"]] = entry["target"]
    records = list(columns.values())
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for head in ("", "", *columns):
        table.add_column(head, no_wrap=True)

    def row(group: str, label: str, cells: list[str]) -> None:
        table.add_row(group, label, *cells, style=None)

    for what in ("value", "gradient"):
        for i, dtype in enumerate(document["dtypes"]):
            row("" if i else f"{what} error", dtype, [_error(r[f"{what}_error"][dtype]) for r in records])
    first, last = document["dtypes"][0], document["dtypes"][-1]
    row("second derivative error", "float64", [_error(r["second_derivative_error"]) for r in records])

    residuals = [{r["name"]: r for r in record["residuals"]} for record in records]
    names = list(dict.fromkeys(name for found in residuals for name in found))
    for i, name in enumerate(names):
        row("" if i else f"residuals, {last}", name, [_residual(found.get(name)) for found in residuals])

    elements = math.prod(next(iter(entry["shapes"].values())))
    for key, label in (("", "this rule"), ("autodiff_", "plain autodiff"), ("checkpoint_", "checkpoint, the floor")):
        row("" if key else "bytes held", label, [_held(r.get(f"{key}saved_bytes"), elements) for r in records])
    for key, label in (("", "this rule"), ("autodiff_", "plain autodiff"), ("checkpoint_", "checkpoint")):
        row("" if key else "backward repeats", label, [_names(r.get(f"{key}recomputed")) for r in records])

    for i, source in enumerate(["numpy", *entry["frameworks"]]):
        cells = [_error(entry["exchange"][f"{source}->{name}"]) for name in entry["frameworks"]]
        row("" if i else f"exchange, {first}", f"{TITLES[source]}'s residuals", cells + [""] * ("target" in entry))
    return table


def _between(entry: Record, document: Record) -> list[str]:
    """How far the frameworks are from each other, in one line."""
    difference = entry["difference"]
    if difference is None:
        return []
    parts = [
        f"{what} {_error(difference[what][dtype])} ({dtype})"
        for what in ("value", "gradient")
        for dtype in document["dtypes"]
    ]
    parts.append(f"second derivative {_error(difference['second_derivative'])}")
    return [f"JAX − PyTorch: {', '.join(parts)}"]


def _verdict(document: Record) -> str:
    ops = len(document["ops"])
    pairs = sum(len(entry["exchange"]) for entry in document["ops"])
    return (
        f"{ops} {'op' if ops == 1 else 'ops'}, all as they should be; {pairs} exchanges of residuals, all agree. "
        "Next: residuals learn extra_residual"
    )


def _error(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def _residual(residual: Record | None) -> str:
    if residual is None:
        return "–"
    return f"{size(residual['bytes'])}  {residual['dtype']}{_shape(residual['shape'])}  {residual['kind']}"


def _held(nbytes: int | None, elements: int) -> str:
    return "–" if nbytes is None else f"{size(nbytes)}  {nbytes / max(elements, 1):.3g} B an element"


def _names(names: list[str] | None) -> str:
    return "–" if names is None else ", ".join(names) or "nothing"


def _shape(shape: list[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"

"""The document of `compare` in detail: a table an op."""

import math
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from residuals_lab.frameworks import TITLES
from residuals_lab.show import size

Record = dict[str, Any]
Row = tuple[str, str, list[str]]


def show(document: Record, console: Console) -> None:
    """Print every op's table, and the verdict."""
    for entry in document["ops"]:
        console.print(_title(entry, document))
        heads, rows = _rows(entry, document)
        table = _table(heads, rows)
        needed = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
        if needed <= console.width:
            console.print(table)
        else:  # one framework under the other
            for i, head in enumerate(heads):
                console.print(_table([head], [(group, label, [cells[i]]) for group, label, cells in rows]))
        for line in _between(entry, document):
            console.print(line)
        console.print()
    framework, *_ = document["ops"][0]["frameworks"]
    show_verdict(document, console, f"Next: residuals learn extra_residual --framework {framework}")


def show_verdict(document: Record, console: Console, following: str) -> None:
    """Print what it comes to: what failed, or that all is well, and how to go on."""
    for failure in document["failures"]:
        console.print(Text.assemble(("FAILED", "red"), f" {failure}"))
    if not document["failures"]:
        console.print(f"{_verdict(document)} {following}")


def _title(entry: Record, document: Record) -> Text:
    shapes = ", ".join(f"{name} {_shape(shape)}" for name, shape in entry["shapes"].items())
    return Text.assemble((entry["op"], "bold"), f"  {shapes}; {document['device']}, seed {document['seed']}")


def _table(heads: list[str], rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for head in ("", "", *heads):
        table.add_column(head, no_wrap=True)
    before = None
    for group, label, cells in rows:
        table.add_row("" if group == before else group, label, *cells)
        before = group
    return table


def _rows(entry: Record, document: Record) -> tuple[list[str], list[Row]]:
    """The heads of the columns, and each row as its group, its label and a cell a column."""
    columns = {record["version"]: record for record in entry["frameworks"].values()}
    if "target" in entry:
        columns[entry["target"]["name"]] = entry["target"]
    records = list(columns.values())
    first, last = document["dtypes"][0], document["dtypes"][-1]
    rows: list[Row] = [
        (f"{what} error", dtype, [_error(r[f"{what}_error"][dtype]) for r in records])
        for what in ("value", "gradient")
        for dtype in document["dtypes"]
    ]
    rows.append(("second derivative error", "float64", [_error(r["second_derivative_error"]) for r in records]))

    residuals = [{r["name"]: r for r in record["residuals"]} for record in records]
    names = dict.fromkeys(name for found in residuals for name in found)
    rows += [(f"residuals, {last}", name, [_residual(found.get(name)) for found in residuals]) for name in names]

    elements = math.prod(next(iter(entry["shapes"].values())))
    rules, own = {"": "this rule", "autodiff_": "plain autodiff"}, {"own_": "framework's own"}
    rows.append(("framework's own", "op", [r.get("own") or "–" for r in records]))
    for group, key, shown in (
        ("bytes held", "saved_bytes", rules | own | {"checkpoint_": "checkpoint, the floor"}),
        ("new bytes", "new_bytes", rules | own),
        ("added to linear→op→linear", "chain_bytes", rules | own),
    ):
        for k, rule in shown.items():
            if any(k + key in r for r in records):
                rows.append((group, rule, [_bytes(r.get(k + key), elements) for r in records]))
    rules |= {"checkpoint_": "checkpoint"}
    rows += [("backward repeats", rule, [repeats(r, k) for r in records]) for k, rule in rules.items()]

    for source in ("numpy", *entry["frameworks"]):
        cells = [_error(entry["exchange"][f"{source}->{name}"]) for name in entry["frameworks"]]
        rows.append((f"exchange, {first}", f"{TITLES[source]}'s residuals", cells + [""] * ("target" in entry)))
    return list(columns), rows


def _between(entry: Record, document: Record) -> list[str]:
    """How far the frameworks are from each other, in one line."""
    difference = entry["difference"]
    if difference is None:
        return []
    parts = [
        f"value {_error(difference['value'][dtype])}, gradient {_error(difference['gradient'][dtype])} ({dtype})"
        for dtype in document["dtypes"]
    ]
    return [f"JAX − PyTorch: {'; '.join(parts)}; second derivative {_error(difference['second_derivative'])}"]


def _verdict(document: Record) -> str:
    ops = len(document["ops"])
    pairs = sum(len(entry["exchange"]) for entry in document["ops"])
    return f"{ops} {'op' if ops == 1 else 'ops'}, all as they should be; {pairs} exchanges of residuals, all agree."


def _error(value: float | None) -> str:
    return "none" if value is None else "0" if value == 0 else f"{value:.1e}"


def _residual(residual: Record | None) -> str:
    if residual is None:
        return "–"
    return f"{size(residual['bytes'])}  {residual['dtype']}{_shape(residual['shape'])}  {residual['kind']}"


def _bytes(nbytes: int | None, elements: int) -> str:
    if not nbytes:
        return "–" if nbytes is None else "0 B"
    return f"{size(nbytes)}  {nbytes / max(elements, 1):.3g} B an element"


def repeats(record: Record, key: str = "") -> str:
    """What the backward computes again."""
    if f"{key}recomputed" not in record:
        return "–"
    return ", ".join(record[f"{key}recomputed"]) or "nothing"


def _shape(shape: list[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"

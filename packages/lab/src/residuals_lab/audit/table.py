"""An audit for people: tables on a terminal, and text."""

import io
import re
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from residuals_lab.audit import Audit, titled
from residuals_lab.audit.advice import Advice
from residuals_lab.audit.matching import explained, matched
from residuals_lab.show import can_draw, size
from residuals_lab.trace import Residual, Trace
from residuals_lab.trace.groups import Branch, By, by, rows, tree

COLOURS = {"new": "yellow", "hidden": "red", "view": "magenta", "input": "blue", "output": "green", "parameter": "dim"}
DEPTH = 4  # of modules in modules


def show(report: Audit, console: Console, top: int = 12, group: By | None = None) -> None:
    """Print the report: the totals, the largest arrays, the modules, then waste, repeats and advice."""
    trace: Trace = report.trace
    console.print(Text.assemble((report.target, "bold"), f"  {report.framework}, before compilation"))
    console.print(_totals(report))
    console.print()
    console.print(_groups(trace, group, top) if group else _largest(trace, top))
    if not group and len(trace.residuals) > top and (modules := tree(trace)).branches:
        console.print()
        console.print(_modules(modules))
    parts: dict[str, Sequence[str | Text]] = {
        "Wasted": _waste(report),
        "Repeated": _repeats(report, top),
        "Advice": _advice(report),
        "After compilation": _after(report),
    }
    for title, lines in parts.items():
        if lines:
            console.print()
            console.print(Text(title, "bold"))
            for line in lines:
                console.print(line)
    for op, line in trace.unsure.items():
        console.print()
        console.print(f"Not exact: what {op} at {line} saves shows only in a real run; add --concrete.")
    if not trace.boundary:
        console.print()
        console.print("A real run of JAX does not show how arrays are made; an audit without --concrete says more.")
    elif not report.findings and not report.advice and not any(r.is_kept for r in report.repeats):
        console.print()
        console.print("Nothing that this looks for: every array is read, is kept once, and is not cheap to make again.")


def _after(report: Audit) -> list[str]:
    """The arrays that are kept after compilation, if that was asked for."""
    if report.compiled is None:
        return []
    what, new_bytes, arrays = report.compiled
    lines = [f"{size(new_bytes)} by {what}, where the program as it is written keeps {size(report.new_bytes)}"]
    new = sorted((a for a in arrays if a.is_new), key=lambda a: -a.storage_bytes)
    lines += [f"{size(a.storage_bytes):>10}  {a.name}  {a.dtype}[{', '.join(map(str, a.shape))}]" for a in new[:12]]
    return [*lines, *([f"{'':>10}  and {len(new) - 12} more"] if len(new) > 12 else [])]


def text(report: Audit) -> str:
    """The report as plain text."""
    console = Console(file=io.StringIO(), width=200, highlight=False, markup=False, soft_wrap=True)
    with console.capture() as captured:
        show(report, console)
    return _without_padding(captured.get()).rstrip()


def _without_padding(lines: str) -> str:
    """Lines without the blanks with which a table fills its last column."""
    return re.sub(" +$", "", lines, flags=re.MULTILINE)


def show_all(reports: Sequence[Audit], console: Console, top: int, group: By | None) -> None:
    """Print one report, or two and their differences."""
    if console.is_terminal or console.record:
        _show_all(reports, console, top, group)
        return
    with console.capture() as captured:
        _show_all(reports, console, top, group)
    console.file.write(_without_padding(captured.get()))


def _show_all(reports: Sequence[Audit], console: Console, top: int, group: By | None) -> None:
    for report in reports:
        show(report, console, top, group)
        console.print()
    if len(reports) == 2:
        _show_beside(reports[0], reports[1], console, top)
    elif not console.record:  # a page has the picture
        every = len(rows(reports[0].trace))
        more = f"--top {every} shows every array, " if not group and every > top else ""
        more += "--plot lanes.svg draws it, " if can_draw() else ""
        console.print(f"Next: {more}--beside TARGET compares, --by module sums up")


def _show_beside(left: Audit, right: Audit, console: Console, top: int) -> None:
    titles = list(titled([left, right]))
    console.print(Text("Side by side: new memory by the operation that makes it", "bold"))
    short = [title.rpartition("/")[2] for title in titles]
    table = _table(
        "difference", *(short if short[0] != short[1] else titles), "made by", "dtype", "at", "why", right=(0, 1, 2)
    )
    found = matched(left.trace, right.trace)
    for m in found[:top]:
        sign = "+" if m.difference > 0 else "−" if m.difference else ""
        sides = [f"{size(side.nbytes)} {side.count:>4} ×" if side.count else "–" for side in (m.left, m.right)]
        lines = [side.lines[0] if side.lines else "–" for side in (m.left, m.right) if side.count]
        at = " | ".join(line.rpartition("/")[2] for line in lines)
        table.add_row(f"{sign}{size(abs(m.difference))}", *sides, m.name, m.dtype, at, explained(m))
    console.print(table)
    difference = right.new_bytes - left.new_bytes
    what = "as much" if not difference else f"{size(abs(difference))} {'more' if difference > 0 else 'less'}"
    console.print(
        f"{titles[1]} keeps {what} new memory{f'; {len(found) - top} more rows' if len(found) > top else ''}."
    )


def _totals(report: Audit) -> str:
    trace: Trace = report.trace
    alive = trace.saved_bytes - trace.new_bytes
    arrays = len({r.storage for r in trace.residuals if r.is_new})
    return (
        f"{size(trace.new_bytes)} of new memory in {arrays:,} array{'' if arrays == 1 else 's'}; "
        f"{size(trace.saved_bytes)} saved, {size(alive)} of it alive anyway; "
        f"peak {size(report.peak_bytes)}; {trace.boundary:,} operation{'' if trace.boundary == 1 else 's'} forward, "
        f"{len(trace.steps) - trace.boundary:,} backward"
    )


# The columns that wrap where a terminal is narrow; bytes, counts and lines are never cut.
_WRAPS = {"residual", "array", "read by", "why"}


def _table(*heads: str, right: Iterable[int] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for i, head in enumerate(heads):
        table.add_column(
            head, no_wrap=head not in _WRAPS, overflow="fold", max_width=44, justify="right" if i in right else "left"
        )
    return table


def _largest(trace: Trace, top: int) -> Table:
    found = rows(trace)
    table = _table("saved", "", "residual", "kind", "array", "made at", "read by", right=(0, 1))
    for row in found[:top]:
        r = row.residual
        table.add_row(
            size(row.nbytes),
            f"{row.count} ×" if row.count > 1 else "",
            r.name if r.name == r.op or not r.op else f"{r.name} = {r.op}",
            Text(r.kind, COLOURS[r.kind]),
            str(r.value),
            r.line or "–",
            "nothing" if r.is_unused else _readers(trace, r),
        )
    if rest := found[top:]:
        more = f"more, {size(sum(row.new_bytes for row in rest))} new"
        table.add_row(size(sum(row.nbytes for row in rest)), f"{sum(row.count for row in rest)} ×", more)
    return table


def _readers(trace: Trace, r: Residual) -> str:
    names = [name.removesuffix(" backward") for name in trace.readers(r)]
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _groups(trace: Trace, group: By, top: int) -> Table:
    table = _table("new", "saved", "arrays", group, right=(0, 1, 2))
    found = by(trace, group)
    for label, count, nbytes, new in found[:top]:
        table.add_row(size(new), size(nbytes), f"{count:,}", label)
    if rest := found[top:]:
        new, nbytes = sum(g.new_bytes for g in rest), sum(g.nbytes for g in rest)
        table.add_row(size(new), size(nbytes), f"{sum(g.arrays for g in rest):,}", f"({len(rest)} more)")
    return table


def _modules(root: Branch) -> Tree:
    """The tree of modules, by the new memory of the arrays that they make."""
    shown = Tree(Text("New memory by module", "bold"), guide_style="dim")

    def grow(onto: Tree, branch: Branch, depth: int) -> None:
        inside = sorted(branch.branches.values(), key=lambda b: -b.new_bytes)
        for b in inside:
            if b.new_bytes < 0.01 * root.new_bytes:
                continue
            name, alike = b.title, len(b.paths)
            while len(b.branches) == 1 and _only(b):
                b = next(iter(b.branches.values()))
                name, alike = f"{name}/{b.title}", len(b.paths)
            many = f"  ({alike} alike)" if alike > 1 else ""
            node = onto.add(Text.assemble((f"{size(b.new_bytes):>9}", "yellow"), f"  {name}{many}"))
            if depth < DEPTH:
                grow(node, b, depth + 1)

    grow(shown, root, 1)
    return shown


def _only(branch: Branch) -> bool:
    """Whether all arrays of a module are made in the one module inside it."""
    (inside,) = branch.branches.values()
    return inside.count == branch.count


def _waste(report: Audit) -> list[Text]:
    lines, copies = [], [f.nbytes for f in report.findings if f.is_copy_of_parameters]
    for f in report.findings:
        names = list(dict.fromkeys(f.names))
        what = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        many = f" ({len(f.names)} arrays)" if len(f.names) > 1 else ""
        where = f" at {f.line}" if f.line else ""
        lines.append(Text.assemble((f"{f.what:>10}", "red"), f"  {size(f.nbytes):>9}  {what}{many}{where}: {f.why}"))
    if len(copies) > 1:
        lines.append(Text(f"{'':>10}  {size(sum(copies)):>9}  are copies of parameters"))
    return lines


def _repeats(report: Audit, top: int) -> list[str]:
    found = report.repeats
    lines = []
    for r in found[:top]:
        what = f"{r.op}{f' {r.count} ×' if r.count > 1 else ''}{f' at {r.line}' if r.line else ''}"
        kept = "repeated although it is kept, " if r.is_kept else "to save it would keep "
        lines.append(f"{r.cost:>15}  {what}; {kept}{size(r.nbytes)}")
    return [*lines, *([f"{'':>15}  and {len(found) - top} more"] if len(found) > top else [])]


def _advice(report: Audit) -> list[str]:
    return [f"{size(a.freed):>10} less  {_instead(a, report)}" for a in report.advice]


def _instead(a: Advice, report: Audit) -> str:
    arrays = f"{a.arrays} array{'' if a.arrays == 1 else 's'}, {size(a.nbytes)}"
    keeps = f"{size(a.instead)} at most" if a.instead else "what is alive anyway"
    op = f"residuals_{report.adapter.NAME}.{a.op}"
    return f"{a.what} at {a.line or report.target} keeps {arrays}; {op} keeps {keeps}"

"""An audit for people: tables on a terminal, and text."""

import io
import re
from collections.abc import Sequence
from itertools import zip_longest

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from residuals_lab.audit import Audit, titled
from residuals_lab.audit.advice import Advice
from residuals_lab.audit.matching import explained, matched
from residuals_lab.show import can_draw, fits, say, size
from residuals_lab.trace import Residual, Trace
from residuals_lab.trace.groups import Branch, By, by, rows, tree

COLOURS = {"new": "yellow", "hidden": "red", "view": "magenta", "input": "blue", "output": "green", "parameter": "dim"}
DEPTH = 4  # of modules in modules
LEAST = 0.01  # of the new memory: what is less is summed up


def show(report: Audit, console: Console, top: int = 12, group: By | None = None) -> None:
    """Print the report: the totals, the largest arrays, the modules, then waste, repeats and advice."""
    trace: Trace = report.trace
    say(console, Text.assemble((report.target, "bold"), f"  {report.framework}{_device(trace)}, before compilation"))
    say(console, totals(report))
    console.print()
    if group:  # one more view of the arrays, for somebody who has read the rest
        _show_groups(trace, group, top, console)
        return
    _show_largest(trace, top, console)
    if len(trace.residuals) > top and (modules := tree(trace)).branches:
        console.print()
        console.print(_modules(modules))
    wasted = size(sum(f.nbytes for f in report.findings))
    parts: dict[str, tuple[int, Sequence[str | Text]]] = {  # with the indent of what has no room on the first line
        f"Wasted: {wasted} of {size(trace.new_bytes)}": (23, _waste(report, top)),
        "Repeated": (17, _repeats(report, top)),
        "Advice": (17, _advice(report)),
        "Advice taken": (17, _taken(report)),
        "After compilation": (12, _after(report)),
    }
    for title, (indent, lines) in parts.items():
        if lines:
            console.print()
            console.print(Text(title, "bold"))
            for line in lines:
                say(console, line, indent)
    for op, line in trace.unsure.items():
        console.print()
        say(console, f"Not exact: what {op} at {line} saves shows only in a real run; add --concrete.")
    if trace.elsewhere:
        console.print()
        sources = ", ".join(dict.fromkeys(trace.elsewhere.values()))
        what = ", ".join(trace.elsewhere)
        say(console, f"On a GPU {what} may keep something else ({sources}); add --device gpu there.")
    for note in trace.notes:
        console.print()
        say(console, note)
    if not trace.boundary:
        console.print()
        say(console, "A real run of JAX does not show how arrays are made; an audit without --concrete says more.")
    elif not report.findings and not report.advice and not any(r.is_kept for r in report.repeats):
        console.print()
        say(console, "Nothing that this looks for: every array is read, is kept once, and is not cheap to make again.")


def _device(trace: Trace) -> str:
    """The device whose kernels ran, or would run, where it matters."""
    return f" on a {trace.device.upper()}" if trace.device else ""


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


def show_all(reports: Sequence[Audit], console: Console, top: int, group: By | None, is_drawn: bool = False) -> None:
    """Print one report, or two and their differences."""
    if console.is_terminal or console.record:
        _show_all(reports, console, top, group, is_drawn)
        return
    with console.capture() as captured:
        _show_all(reports, console, top, group, is_drawn)
    console.file.write(_without_padding(captured.get()))


def _show_all(reports: Sequence[Audit], console: Console, top: int, group: By | None, is_drawn: bool) -> None:
    if len(reports) == 2:  # what one looks for comes first
        say(console, Text(_verdict(*reports), "bold"))
        console.print()
    for report in reports:
        show(report, console, top, group)
        console.print()
    if len(reports) == 2:
        _show_beside(reports[0], reports[1], console, top)
    elif not console.record:  # a page has the picture
        every = len(rows(reports[0].trace))
        more = [f"--top {every} shows every array"] if not group and every > top else []
        more += ["--plot lanes.svg draws it"] if can_draw() and not is_drawn else []
        more += ["--beside TARGET compares", *([] if group else ["--by module sums up"])]
        say(console, f"Next: {', '.join(more)}")


def _show_beside(left: Audit, right: Audit, console: Console, top: int) -> None:
    titles = list(titled([left, right]))
    console.print(Text("Side by side: new memory by the operation that makes it", "bold"))
    short = [report.target.rpartition("/")[2] for report in (left, right)]
    found = matched(left.trace, right.trace)
    shown = []
    for m in found[:top]:
        sign = "+" if m.difference > 0 else "−" if m.difference else ""
        sides = [f"{size(side.nbytes)} {side.count:>4} ×" if side.count else "–" for side in (m.left, m.right)]
        lines = [side.lines[0] if side.lines else "–" for side in (m.left, m.right) if side.count]
        at = " | ".join(line.rpartition("/")[2] for line in lines)
        shown.append([f"{sign}{size(abs(m.difference))}", *sides, m.name, m.dtype, at, explained(m)])
    heads = ["difference", *(short if short[0] != short[1] else titles), "made by", "dtype", "at", "why"]
    show_rows(console, heads, shown, 3, 5, ("at ", ""))
    if (rest := len(found) - top) > 0:
        say(console, f"{rest} more row{'' if rest == 1 else 's'}")


def _verdict(left: Audit, right: Audit) -> str:
    """Which of two keeps more."""
    first, second = titled([left, right])
    difference = right.new_bytes - left.new_bytes
    what = "as much" if not difference else f"{size(abs(difference))} {'more' if difference > 0 else 'less'}"
    return f"{second} keeps {what} new memory {'as' if not difference else 'than'} {first}."


def totals(report: Audit) -> str:
    """The sums in one line."""
    trace: Trace = report.trace
    alive = trace.saved_bytes - trace.new_bytes
    arrays = len({r.storage for r in trace.residuals if r.is_new})
    return (
        f"{size(trace.new_bytes)} of new memory in {arrays:,} array{'' if arrays == 1 else 's'}; "
        f"{size(trace.saved_bytes)} saved, {size(alive)} of it alive anyway; "
        f"{trace.boundary:,} operation{'' if trace.boundary == 1 else 's'} forward, "
        f"{len(trace.steps) - trace.boundary:,} backward"
    )


Cell = str | Text


def show_rows(
    console: Console,
    heads: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    numbers: int,
    above: int,
    words: Sequence[str],
) -> None:
    """A table of some numbers, a name, and what else is known.

    Where a terminal is too narrow for the table, a row is two lines: `above` cells, or as many of them as stand side by
    side, and below them the others, the last of them with a word of `words` before each.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for i, head in enumerate(heads):
        table.add_column(head, no_wrap=True, justify="right" if i < numbers else "left")
    for row in rows:
        table.add_row(*row)
    if fits(console, table):
        console.print(table)
        return
    words = [*[""] * (len(heads) - len(words)), *words]
    named = [
        head if len(head) <= n else f"({i})" for i, (head, n) in enumerate(zip(heads, _wide(rows), strict=True), 1)
    ]
    ways = [(use, n) for use in (list(heads), [*named[:numbers], *heads[numbers:]]) for n in range(above, numbers, -1)]
    if sum(_wide([heads, *rows])[:numbers]) > console.width / 2:  # which leaves no room for what stands below
        ways = ways[len(ways) // 2 :]
    heads_above, above = next(((use, n) for use, n in ways if _fit([use, *rows], n, console)), (ways[-1]))
    for short, head in zip(heads_above, heads, strict=True):
        if short != head:
            say(console, f"{short} {head}", indent=4)
    wide = _wide([heads_above, *rows])
    indent = sum(wide[:numbers]) + 2 * numbers
    for row in [[Text(head, "bold") for head in heads_above[:above]], *rows]:
        cells = [Text.assemble(cell) for cell in row[:above]]
        for i, cell in enumerate(cells):
            blanks = Text(" " * (wide[i] - cell.cell_len))
            cells[i] = blanks + cell if i < numbers else cell + blanks if i < above - 1 else cell
        say(console, Text("  ").join(cells), indent)
        below = [
            f"{word}{cell}" for word, cell in zip(words[above:], row[above:], strict=False) if str(cell) not in "–"
        ]
        if below:
            say(console, " " * indent + ", ".join(below), indent)


def _wide(rows: Sequence[Sequence[Cell]]) -> list[int]:
    """The width of each column."""
    most = max(map(len, rows))
    rows = [row if len(row) == most else row[:-1] for row in rows]  # the last cell of a short one may be of any length
    return [max(map(len, map(str, column))) for column in zip_longest(*rows, fillvalue="")]


def _fit(rows: Sequence[Sequence[Cell]], n: int, console: Console) -> bool:
    """Whether the first `n` columns stand side by side on a line."""
    return sum(_wide(rows)[:n]) + 2 * (n - 1) <= console.width


def _show_largest(trace: Trace, top: int, console: Console) -> None:
    found = rows(trace)
    shown = list[list[Cell]]()
    for row in found[:top]:
        r = row.residual
        shown.append(
            [
                size(row.nbytes),
                f"{row.count} ×" if row.count > 1 else "",
                r.name if r.name == r.op or not r.op else f"{r.name} = {r.op}",
                Text(r.kind, COLOURS[r.kind]),
                row.array,
                r.line or "–",
                "nothing" if r.is_unused else _readers(trace, r),
            ]
        )
    if rest := found[top:]:
        more = f"more, {size(sum(row.new_bytes for row in rest))} new"
        shown.append([size(sum(row.nbytes for row in rest)), f"{sum(row.count for row in rest)} ×", more])
    heads = ["saved", "", "residual", "kind", "array", "made at", "read by"]
    show_rows(console, heads, shown, 2, 5, ("made at ", "read by "))


def _readers(trace: Trace, r: Residual) -> str:
    names = [name.removesuffix(" backward") for name in trace.readers(r)]
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _show_groups(trace: Trace, group: By, top: int, console: Console) -> None:
    found = by(trace, group)
    shown = [[size(new), size(nbytes), f"{count:,}", label] for label, count, nbytes, new in found[:top]]
    if rest := found[top:]:
        new, nbytes = sum(g.new_bytes for g in rest), sum(g.nbytes for g in rest)
        shown.append([size(new), size(nbytes), f"{sum(g.arrays for g in rest):,}", f"({len(rest)} more)"])
    show_rows(console, ["new", "saved", "arrays", group], shown, 3, 4, ())


def _modules(root: Branch) -> Tree:
    """The tree of modules, by the new memory of the arrays that they make."""
    shown = Tree(Text("New memory by module", "bold"), guide_style="dim")

    def grow(onto: Tree, branch: Branch, depth: int) -> None:
        inside = sorted(branch.branches.values(), key=lambda b: -b.new_bytes)
        large = [b for b in inside if b.new_bytes >= LEAST * root.new_bytes]
        for b in large:
            name, alike = b.title, len(b.paths)
            while len(b.branches) == 1 and _only(b):
                b = next(iter(b.branches.values()))
                name, alike = f"{name}/{b.title}", len(b.paths)
            many = f"  ({alike} alike)" if alike > 1 else ""
            node = onto.add(Text.assemble((f"{size(b.new_bytes):>9}", "yellow"), f"  {name}{many}"))
            if depth < DEPTH:
                grow(node, b, depth + 1)
        itself = branch.new_bytes - sum(b.new_bytes for b in inside)
        small = branch.new_bytes - itself - sum(b.new_bytes for b in large)
        rest = (itself, "itself" if branch is not root else "in no module"), (small, "in smaller ones")
        for nbytes, name in rest if large else ():
            if nbytes >= LEAST * root.new_bytes:
                onto.add(Text(f"{size(nbytes):>9}  {name}"))

    grow(shown, root, 1)
    return shown


def _only(branch: Branch) -> bool:
    """Whether all arrays of a module are made in the one module inside it."""
    (inside,) = branch.branches.values()
    return inside.count == branch.count


def _waste(report: Audit, top: int) -> list[Text]:
    lines, copies = [], [f.nbytes for f in report.findings if f.is_copy_of_parameters]
    shown = [f for f in report.findings if f.nbytes >= LEAST * report.trace.new_bytes or not f.nbytes][:top]
    rest = [f for f in report.findings if f not in shown]
    if len(rest) == 1:  # which takes as much room by itself
        shown, rest = report.findings, []
    for f in shown:
        names = list(dict.fromkeys(f.names))
        what = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        many = f" ({len(f.names)} arrays)" if len(f.names) > 1 else ""
        where = f" at {f.line}" if f.line else ""
        lines.append(Text.assemble((f"{f.what:>10}", "red"), f"  {size(f.nbytes):>9}  {what}{many}{where}: {f.why}"))
    if rest:
        lines.append(Text(f"{'':>10}  {size(sum(f.nbytes for f in rest)):>9}  in {len(rest)} more"))
    if len(copies) > 1:
        lines.append(Text(f"{'':>10}  {size(sum(copies)):>9}  are copies of parameters"))
    return lines


def _repeats(report: Audit, top: int) -> list[str]:
    found = report.repeats
    lines = []
    for r in found[:top]:
        what = f"{r.op}{f' {r.count} ×' if r.count > 1 else ''}{f' at {r.line}' if r.line else ''}"
        kept = "repeated although it is kept, " if r.is_kept else f"to save it would keep {'at most ' * r.is_at_most}"
        lines.append(f"{r.cost:>15}  {what}; {kept}{size(r.nbytes)}")
    return [*lines, *([f"{'':>15}  and {len(found) - top} more"] if len(found) > top else [])]


def _advice(report: Audit) -> list[str]:
    return [f"{size(a.freed):>10} less  {_instead(a, report)}" for a in report.advice]


def _taken(report: Audit) -> list[str | Text]:
    """What the advice frees when it is taken, if that was asked for."""
    proof = report.proof
    if proof is None:
        return []
    lines = list[str | Text]()
    for one in proof.taken:
        what = f"{one.advice.what} at {one.advice.line or report.target}"
        if one.freed is None:
            lines.append(f"{'':>10}       {what}: not proved, {_because(one.why)}")
        else:
            said = f"said {size(one.advice.freed)}"
            lines.append(Text.assemble(f"{size(one.freed):>10} less  {what}: {said}", *_mark(one.is_true)))
    if proof.freed is None:
        return [*lines, f"{'':>10}       not proved, {_because(proof.why)}"]
    lines.append(f"{size(proof.freed):>10} less  with all of it in place: said {size(proof.said)}")
    if proof.error is not None:
        is_same = proof.error <= proof.allowed
        same = "results and gradients are the same" if is_same else "results or gradients DIFFER"
        lines.append(f"{'':>10}       {same}: the largest error is {proof.error:.1e}, {proof.allowed:.1e} is allowed")
    return lines


def _because(why: str) -> str:
    return why if why.startswith("there is") else f"because {why}"


def _mark(is_true: bool) -> list[tuple[str, str]]:
    return [] if is_true else [("  FALSE", "red")]


def _instead(a: Advice, report: Audit) -> str:
    arrays = f"{a.arrays} array{'' if a.arrays == 1 else 's'}, {size(a.nbytes)}"
    keeps = f"{size(a.instead)} at most" if a.instead else "what is alive anyway"
    op = a.call(report.adapter.NAME)
    return f"{a.what} at {a.line or report.target} keeps {arrays}; {op} keeps {keeps}"

"""An audit as HTML: for a notebook, and as a page of its own, `page.html`, with nothing from outside."""

import io
import re
from collections.abc import Hashable, Sequence
from html import escape
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from residuals_lab.audit import Audit, said, titled
from residuals_lab.audit.advice import Advice
from residuals_lab.audit.table import show_all, totals
from residuals_lab.show import can_draw, size
from residuals_lab.trace.groups import Branch, Row, alike, rows, tree

_HUES = (0, 0, 0), (214, 54, 120), (30, 160, 100), (224, 108, 20), (40, 130, 220), (170, 130, 0), (0, 150, 150)
_THEME = TerminalTheme((255, 255, 255), (0, 0, 0), [*_HUES, (128, 128, 128)])  # black, red, green ..., near the lanes'


def html(reports: Sequence[Audit], top: int = 30) -> str:
    """The reports as HTML, to be put into a page, light or dark: its colours lean to that of the text around."""
    console = Console(file=io.StringIO(), record=True, width=200, highlight=False, markup=False)
    show_all(reports, console, top, None)
    style = (
        "font-size: 13px; font-family: ui-monospace, Menlo, Consolas, monospace; line-height: 1.35; overflow-x: auto; "
        "color: inherit; background: none"
    )
    found = console.export_html(theme=_THEME, inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>')
    mixed = r"color: \1; color: color-mix(in srgb, currentColor 30%, \1)"  # the first is for an old browser
    return re.sub(r"color: (#\w{6}); text-decoration-color: \1", mixed, found)


def page(audits: Sequence[Audit]) -> str:
    """A page of its own, light or dark as its reader has it: it needs no script but to sort, to search and to point."""
    drawn = ""
    if can_draw():
        from residuals_lab import lanes

        pictures = {title: audit.picture for title, audit in titled(audits).items()}
        for look in ("light", "dark"):
            picture = lanes.svg(pictures, is_dark=look == "dark", is_live=True)
            drawn += f'<div class="{look} lanes">{picture}</div>\n'
    sections = [_section(title, audit, i) for i, (title, audit) in enumerate(titled(audits).items())]
    text = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    title = escape(" and ".join(titled(audits)))
    return text.replace("{title}", title).replace("{lanes}", drawn).replace("{sections}", "\n".join(sections))


def _section(title: str, audit: Audit, number: int) -> str:
    """One audit: its totals, what is wasted and advised, its arrays, its modules."""
    found = rows(audit.trace)
    places: dict[Hashable, tuple[str, str]] = {}  # storage → the row of the table that has it, and its name
    for i, row in enumerate(found):
        places |= dict.fromkeys((r.storage for r in row.residuals), (f"row-{number}-{i}", alike(row.residual.name)))
    waste = [
        _line(
            f"{f.what}, {size(f.nbytes)}", f"{', '.join(dict.fromkeys(f.names))}: {f.why}", f.line, f.storages, places
        )
        for f in audit.findings
    ]
    advice = [_line(f"{size(a.freed)} less", _advised(a, audit), a.line, a.storages, places) for a in audit.advice]
    repeated = [
        _line(r.cost, f"{r.op}{f' {r.count} ×' if r.count > 1 else ''}, {size(r.nbytes)}", r.line, frozenset(), places)
        for r in audit.repeats
    ]
    lists = [
        f"<h3>{head}</h3>\n<ul class='findings'>{''.join(lines)}</ul>"
        for head, lines in (("Advice", advice), ("Wasted", waste), ("Repeated", repeated))
        if lines
    ]
    table = "\n".join(_row(row, audit, f"row-{number}-{i}") for i, row in enumerate(found))
    heads = "".join(
        f'<th aria-sort="none"><button>{head}</button></th>'
        for head in ("saved", "new", "arrays", "residual", "kind", "array", "made at", "read by")
    )
    return f"""<section>
<h2>{escape(title)}</h2>
<p class="totals">{escape(totals(audit))}</p>
{"".join(lists)}
<h3>Saved arrays</h3>
<label>Search <input type="search" placeholder="a name, a line, a shape"></label> <output></output>
<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>
{table}
</tbody></table></div>
<h3>New memory by module</h3>
{_modules(tree(audit.trace))}
</section>"""


def _advised(a: Advice, audit: Audit) -> str:
    return f"{a.what}: {said(a).replace(a.op, a.call(audit.adapter.NAME), 1)}"


def _line(
    head: str, text: str, line: str, storages: frozenset[Hashable], places: dict[Hashable, tuple[str, str]]
) -> str:
    """One finding, with links to the rows of its arrays."""
    links = dict.fromkeys(places[s] for s in sorted(storages, key=str) if s in places)
    shown = ", ".join(f'<a href="#{place}">{escape(name)}</a>' for place, name in links)
    where = f" at <code>{escape(line)}</code>" if line else ""
    which = f": {shown}" if shown else ""
    return f"<li><b>{escape(head)}</b> {escape(text)}{where}{which}</li>"


def _row(row: Row, audit: Audit, place: str) -> str:
    """A row of the table; where it is of several arrays, it opens into them."""
    r = row.residual
    name = escape(r.name if r.name == r.op or not r.op else f"{r.name} = {r.op}")
    if row.count > 1:
        arrays = "".join(
            f"<li>{size(a.storage_bytes)} {escape(a.name)} <code>{a.value}</code> {escape(a.module)}</li>"
            for a in row.residuals
        )
        name = f"<details><summary>{name}</summary><ul>{arrays}</ul></details>"
    readers = "nothing" if r.is_unused else ", ".join(audit.trace.readers(r)) or "–"
    cells = (
        f'<td class="number" data-value="{row.nbytes}">{size(row.nbytes)}</td>',
        f'<td class="number" data-value="{row.new_bytes}">{size(row.new_bytes)}</td>',
        f'<td class="number" data-value="{row.count}">{row.count:,}</td>',
        f"<td>{name}</td>",
        f'<td><span class="kind {r.kind}">{r.kind}</span></td>',
        f"<td><code>{escape(row.array)}</code></td>",
        f"<td><code>{escape(r.line or '–')}</code></td>",
        f"<td>{escape(readers)}</td>",
    )
    return f'<tr id="{place}" tabindex="-1">{"".join(cells)}</tr>'


def _modules(branch: Branch) -> str:
    """The tree of modules, to be opened."""
    inside = sorted(branch.branches.values(), key=lambda b: -b.new_bytes)
    many = f" ({len(branch.paths)} alike)" if len(branch.paths) > 1 else ""
    label = f"<b>{size(branch.new_bytes)}</b> {escape(branch.title or 'all')}{many}"
    if not inside:
        return f"<p class='leaf'>{label}</p>"
    is_open = " open" if not branch.title else ""
    return f"<details class='tree'{is_open}><summary>{label}</summary>{''.join(map(_modules, inside))}</details>"

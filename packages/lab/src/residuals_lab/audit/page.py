"""An audit as HTML: for a notebook, and as a page of its own, `page.html`, with nothing from outside."""

import io
import re
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from html import escape
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from residuals_lab.audit import Audit, said, titled
from residuals_lab.audit.advice import Advice
from residuals_lab.audit.table import show_all, totals
from residuals_lab.lanes import colour_of, colours, svg
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
    named = titled(audits)
    values = {
        "light": colours(is_dark=False),
        "dark": colours(is_dark=True),
        "title": escape(" and ".join(named)),
        "head": escape(next(iter(named))) if len(named) == 1 else "side by side",
        "totals": "\n".join(
            f'<p class="totals">{f"<b>{escape(title)}</b> " if len(named) > 1 else ""}{escape(totals(audit))}</p>'
            for title, audit in named.items()
        ),
        "lanes": _lanes(named) if can_draw() else "",
        "sections": "\n".join(
            _section(title, audit, i, len(named) > 1) for i, (title, audit) in enumerate(named.items())
        ),
    }
    text = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), text)


def _lanes(named: Mapping[str, Audit]) -> str:
    """The picture for a wide screen, and for a narrow one a picture of each audit; a single one needs no name."""
    pictures = {title if len(named) > 1 else "": audit.picture for title, audit in named.items()}
    drawn = [f'<div class="wide lanes">{svg(pictures)}</div>']
    for i, (title, picture) in enumerate(pictures.items(), 1):
        drawn.append(f'<div class="narrow lanes">{svg({title: picture}, narrow=i)}</div>')
    return "\n".join(drawn)


def _section(title: str, audit: Audit, number: int, has_title: bool) -> str:
    """One audit: what is wasted and advised, its arrays, its modules."""
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
{f"<h2>{escape(title)}</h2>" if has_title else ""}
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
        name = f"<details><summary>{name}</summary><ul>{_arrays(row)}</ul></details>"
    readers = "nothing" if r.is_unused else ", ".join(audit.trace.readers(r)) or "–"
    colour = f"border-color: var(--{colour_of(r.is_new, r.kind)})"
    cells = (
        f'<td class="number" data-value="{row.nbytes}">{size(row.nbytes)}</td>',
        f'<td class="number" data-value="{row.new_bytes}">{size(row.new_bytes)}</td>',
        f'<td class="number" data-value="{row.count}">{row.count:,}</td>',
        f"<td>{name}</td>",
        f'<td><span class="kind" style="{colour}">{r.kind}</span></td>',
        f"<td><code>{escape(row.array)}</code></td>",
        f"<td><code>{escape(r.line or '–')}</code></td>",
        f"<td>{escape(readers)}</td>",
    )
    return f'<tr id="{place}" tabindex="-1">{"".join(cells)}</tr>'


def _arrays(row: Row) -> str:
    """The arrays of a row: those of all layers in one line, from the first module to the last."""
    found: dict[tuple[int, str, str], list[str]] = defaultdict(list)
    for a in row.residuals:
        found[a.storage_bytes, str(a.value), alike(a.module)].append(a.module)
    return "".join(
        f'<li data-count="{len(modules)}">{f"{len(modules):,} × " if len(modules) > 1 else ""}{size(nbytes)} '
        f"<code>{array}</code> {escape(' … '.join(dict.fromkeys((modules[0], modules[-1]))))}</li>"
        for (nbytes, array, _), modules in found.items()
    )


def _modules(branch: Branch, is_open: bool = True) -> str:
    """The tree of modules, opened down to the first that has several in it; what a module has by itself is a line."""
    inside = sorted(branch.branches.values(), key=lambda b: -b.new_bytes)
    many = f" ({len(branch.paths)} alike)" if len(branch.paths) > 1 else ""
    label = f"<b>{size(branch.new_bytes)}</b> {escape(branch.title or 'all')}{many}"
    if not inside:
        return f"<p class='leaf'>{label}</p>"
    own = branch.new_bytes - sum(b.new_bytes for b in inside)
    lines = [_modules(b, is_open and len(inside) == 1) for b in inside]
    lines += [f"<p class='leaf'><b>{size(own)}</b> itself</p>"] if own else []
    return f"<details class='tree'{' open' * is_open}><summary>{label}</summary>{''.join(lines)}</details>"

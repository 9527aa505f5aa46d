"""An audit as a page of HTML."""

import io
import re
from collections.abc import Sequence
from html import escape

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from residuals_lab.audit import Audit, titled
from residuals_lab.audit.table import show_all
from residuals_lab.show import can_draw

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


def page(reports: Sequence[Audit], top: int = 30) -> str:
    """A page of its own, with the lanes where matplotlib is installed; light or dark, as its reader has it."""
    drawn = []
    if can_draw():
        from residuals_lab import lanes

        pictures = {title: report.picture for title, report in titled(reports).items()}
        for look in ("light", "dark"):
            picture = lanes.svg(pictures, is_dark=look == "dark")
            drawn.append(f'<div class="{look}">{picture}</div>')
    title = escape(" and ".join(titled(reports)))
    return PAGE.format(title=title, pictures="\n".join(drawn), report=html(reports, top))


PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Residuals of {title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ margin: 2rem auto; max-width: 80rem; padding: 0 1rem }}
svg {{ max-width: 100%; height: auto }}
.dark {{ display: none }}
@media (prefers-color-scheme: dark) {{
  body {{ background: #0d1117; color: #e6edf3 }}
  .dark {{ display: block }}
  .light {{ display: none }}
}}
</style>
{pictures}
{report}
</html>
"""

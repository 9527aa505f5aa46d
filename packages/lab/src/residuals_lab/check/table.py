"""A check for people."""

import textwrap
from collections.abc import Sequence

from residuals_lab.check import Check
from residuals_lab.check.rules import FAMILIES, Rule

CODES = {name.replace("_", "-") for names in FAMILIES.values() for name in names}
LABELS = (("expected", "expected"), ("got", "got"), ("why", "why"), ("mend", "mend"))


def text(check: Check, width: int = 100, is_told: bool = False) -> str:
    """The whole check: its families in a line each, unless they are told; what is wrong; what is worth knowing."""
    verdict = "passed" if check.passed else f"{len(check.failures)} wrong"
    about = "; ".join(part for part in (check.framework, check.truth) if part)
    lines = [_wrapped(f"{check.target}  {about}: {verdict}", width)]
    lines += [] if is_told else ["", *(f"  {family:<11} {line}" for family, line in _families(check))]
    for finding in check.failures:
        lines += ["", _wrapped(f"✗ {finding.title}  [{finding.rule}]", width)]
        for label, name in LABELS:
            lines.append(_labelled(label, getattr(finding, name), width))
        lines += [_labelled("and so", also, width) for also in check.also.get(finding.rule, ())]
    lines += ["", *(_wrapped(f"note: {note}", width) for note in check.notes)] if check.notes else []
    explained = [f.rule for f in check.failures if f.rule in CODES]
    if explained:
        lines += ["", f"More about a rule: residuals check --explain {explained[0]}"]
    return "\n".join(lines)


def _families(check: Check) -> list[tuple[str, str]]:
    """Each family that was looked at, and what was found in it."""
    found = []
    not_run = dict(check.not_run)
    for family, names in FAMILIES.items():
        codes = [name.replace("_", "-") for name in names]
        wrong = [f.rule for f in check.failures if f.rule in codes]
        reasons = [not_run[code] for code in codes if code in not_run]
        if wrong:
            found.append((family, f"✗ {', '.join(wrong)}"))
        elif family in check.ran:
            found.append((family, "✓"))
        elif reasons:
            found.append((family, f"– {reasons[0]}"))
    return found


def rules(found: Sequence[Rule]) -> str:
    """The list of rules: code, family, title."""
    return "\n".join(f"{rule.code:<26} {rule.family:<11} {rule.title}" for rule in found)


def explanation(rule: Rule) -> str:
    """The page of a rule, with its example."""
    parts = [f"{rule.code}  ({rule.family})", "", rule.page]
    for framework in rule.examples:
        wrong = rule.example(framework, is_right=False)
        parts += [
            "",
            f"{framework}:",
            textwrap.indent(wrong.strip("\n"), "    ") if wrong else rule.examples[framework],
        ]
    return "\n".join(parts)


def _labelled(label: str, what: str, width: int) -> str:
    return textwrap.fill(
        what, width, initial_indent=f"    {label:<9} ", subsequent_indent=" " * 14, break_on_hyphens=False
    )


def _wrapped(what: str, width: int) -> str:
    return textwrap.fill(what, width, subsequent_indent="      ", break_on_hyphens=False)

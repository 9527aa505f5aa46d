"""The page of the check's rules, `docs/check.md`: made of the rules' own files, nothing by hand.

`python docs/check_page.py` writes it; with `--check` it writes nothing and says whether it is what it would write.
"""

import sys
from pathlib import Path

from residuals_lab.check import rules

PAGE = Path(__file__).resolve().parent / "check.md"
NOTE = "<!-- Written by docs/check_page.py from packages/lab/src/residuals_lab/check/rules. Change those. -->"
HEAD = """\
# The check's rules

`residuals check TARGET --arg SPEC …` looks at a custom gradient by these rules, in this order: a cause is before what
follows from it, and the first failure of a family stands for those after it where they have one cause. `residuals check
--explain CODE` prints one of them with an example, which is wrong in one line.

In Python `residuals_lab.check.check(fn, *args, reference=…)` gives the same; in a test, `assert_gradient(fn, *args)` of
`residuals_lab.testing`, which is a pytest fixture too.

What is right is what `--vjp-reference` says, or autodiff of `--reference` or `--like`, or else differences of the
function itself in float64. A rule that needs something that is not there says so, and is not run."""


def page():
    """The text of the page."""
    parts = [NOTE, "", HEAD]
    found = rules.load()
    for family in dict.fromkeys(rule.family for rule in found):
        parts += ["", f"## {family}"]
        for rule in (rule for rule in found if rule.family == family):
            parts += ["", f"### `{rule.code}`", "", rule.page]
            parts += ["", *(f"- {framework}: {why}" for framework, why in rule.examples.items() if "\n" not in why)]
    return "\n".join(parts).replace("\n\n\n", "\n\n").rstrip() + "\n"


def main(arguments):
    """Write the page, or say that it is stale."""
    if "--check" not in arguments:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    is_stale = not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page()
    if is_stale:
        print("docs/check.md is not what the rules say; run: python docs/check_page.py")
    return int(is_stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Changes for people."""

import shlex
from collections.abc import Sequence

from residuals_lab.frameworks import TITLES
from residuals_lab.lock.changes import Change
from residuals_lab.show import size


def show(found: Sequence[Change]) -> None:
    """Print the changes, each under its target."""
    last = None
    for c in found:
        if c.entry.place != last:
            arguments = shlex.join(word for argument in c.entry.arguments for word in argument.split(" ", 1))
            print(f"{c.entry.target}  {TITLES[c.entry.framework]}  {arguments}")
            last = c.entry.place
        print(f"  {c.how:<8}  {size(c.before):>9} -> {size(c.after):<9}  {c.what}")


def counted(targets: int) -> str:
    """`1 target`, `2 targets`."""
    return f"{targets} target{'' if targets == 1 else 's'}"

"""The differences between the lock file and what targets keep now."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from residuals_lab.errors import MissingFramework, UsageError
from residuals_lab.lock import Amount, Entry, Key, now

How = Literal["grew", "appears", "replaced", "less", "is gone"]


class Change(NamedTuple):
    """One difference from the file."""

    entry: Entry  # as it is now
    how: How
    what: str  # in words
    before: int
    after: int
    key: Key | None = None  # of a residual; a total has none
    total: Literal["new_bytes", "saved_bytes"] | None = None

    @property
    def is_worse(self) -> bool:
        return self.how in ("grew", "appears", "replaced")


def changes(before: Entry, after: Entry) -> list[Change]:
    """All differences: totals before residuals, worse before better, larger before smaller."""
    found = list[Change]()
    totals: dict[Literal["new_bytes", "saved_bytes"], tuple[str, int, int]] = {
        "new_bytes": ("new bytes", before.new_bytes, after.new_bytes),
        "saved_bytes": ("saved bytes", before.saved_bytes, after.saved_bytes),
    }
    for total, (what, was, is_now) in totals.items():
        if was != is_now:
            found.append(Change(after, "grew" if is_now > was else "less", what, was, is_now, total=total))
    gone = {key: amount for key, amount in before.residuals.items() if key not in after.residuals}
    for key, amount in after.residuals.items():
        locked = before.residuals.get(key, Amount())
        where = f" at {after.lines[key]}" if after.lines.get(key) else ""
        twin = next((k for k in gone if not locked.arrays and (k[1:], gone[k]) == (key[1:], amount)), None)
        if twin:  # renamed, or another array in its place: the two cannot be told apart
            del gone[twin]
            what = f"{twin.name} by {_said(key)}{where}"
            found.append(Change(after, "replaced", what, amount.nbytes, amount.nbytes, key))
        elif not locked.arrays:
            found.append(Change(after, "appears", f"{_said(key)}{where}", 0, amount.nbytes, key))
        elif locked != amount:
            counts = f", {locked.arrays} arrays before and {amount.arrays} now"
            how: How = "grew" if (amount.nbytes, amount.arrays) > (locked.nbytes, locked.arrays) else "less"
            found.append(Change(after, how, f"{_said(key)}{where}{counts}", locked.nbytes, amount.nbytes, key))
    found += [Change(after, "is gone", _said(key), amount.nbytes, 0, key) for key, amount in gone.items()]
    return sorted(found, key=lambda c: (c.key is not None, not c.is_worse, c.before - c.after))


def _said(key: Key) -> str:
    return f"{key.name}, {key.kind} {key.array}"


def check(
    entries: Iterable[Entry], framework: str | None = None
) -> tuple[list[Change], list[MissingFramework], list[UsageError]]:
    """All changes, and why there may be more: frameworks that are missing, targets that cannot be audited."""
    found: list[Change] = []
    missing: list[MissingFramework] = []
    unclear: list[UsageError] = []
    for entry in entries:
        if framework in (None, entry.framework):
            try:
                found += changes(entry, now(entry.target, entry.arguments, entry.framework))
            except MissingFramework as problem:
                missing += [problem] * (str(problem) not in map(str, missing))
            except UsageError as problem:
                unclear.append(UsageError(f"{problem}; to forget this target, delete its entry"))
    return found, missing, unclear

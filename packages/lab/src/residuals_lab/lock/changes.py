"""The differences between the lock file and what targets keep now, and which of them fail the check.

Arrays that came are paid for by arrays that went, byte by byte, whatever their names, shapes and operations. There are
three purses: new memory (views of it too), memory that is alive anyway, and what is hidden. New memory that went pays
for memory that is alive anyway, too; nothing else pays for another purse.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from residuals_lab.errors import MissingFramework, UsageError
from residuals_lab.lock import Amount, Entry, Key, again

How = Literal["grew", "appears", "replaced", "less", "is gone"]
PURSES = {"new": "new", "view": "new", "hidden": "hidden"}  # kind → purse; that of other kinds is "alive"


class Change(NamedTuple):
    """One difference from the file."""

    before: Entry  # as the file has it
    entry: Entry  # as it is now
    how: How
    what: str  # in words
    before_bytes: int
    after_bytes: int
    is_worse: bool = False  # the check fails for it
    key: Key | None = None  # of a residual; a total has none
    total: Literal["new_bytes", "saved_bytes"] | None = None


def changes(before: Entry, after: Entry) -> list[Change]:
    """All differences: the totals, then the residuals, worse before better, larger before smaller."""
    found = list[Change]()
    gone = {key: amount for key, amount in before.residuals.items() if key not in after.residuals}
    came = {key: amount for key, amount in after.residuals.items() if key not in before.residuals}
    twins, unpaid = _twins(gone, came), _unpaid(before, after)
    for key, amount in after.residuals.items():
        twin = twins.get(key, key)
        locked = before.residuals.get(twin, Amount())
        if (twin, locked) != (key, amount):
            what = _renamed(twin, key) + (f" at {after.lines[key]}" if key in after.lines else "")
            if locked.arrays not in (0, amount.arrays):
                what += f", {locked.arrays} -> {amount.arrays} arrays"
            is_worse = amount.nbytes > locked.nbytes and _purse(key) in unpaid
            found.append(Change(before, after, _how(locked, amount), what, locked.nbytes, amount.nbytes, is_worse, key))
    for key in gone.keys() - {*twins.values()}:
        found.append(Change(before, after, "is gone", _said(key), gone[key].nbytes, 0, key=key))
    found.sort(key=lambda c: (not c.is_worse, c.before_bytes - c.after_bytes, c.what))
    return [*_totals(before, after), *found]


def _totals(before: Entry, after: Entry) -> Iterator[Change]:
    totals: dict[Literal["new_bytes", "saved_bytes"], tuple[int, int]] = {
        "new_bytes": (before.new_bytes, after.new_bytes),
        "saved_bytes": (before.saved_bytes, after.saved_bytes),
    }
    for total, (was, is_now) in totals.items():
        if was != is_now:
            how: How = "grew" if is_now > was else "less"
            yield Change(before, after, how, total.replace("_", " "), was, is_now, is_now > was, total=total)


def _how(locked: Amount, amount: Amount) -> How:
    if not locked.arrays:
        return "appears"
    if locked.nbytes == amount.nbytes:
        return "replaced"
    return "grew" if locked.nbytes < amount.nbytes else "less"


def _said(key: Key) -> str:
    return f"{key.name}, {key.kind} {key.array}"


def _renamed(twin: Key, key: Key) -> str:
    """A residual, and before it the one that it stands in for, as far as that one is another."""
    before = f"{twin.name if twin[1:] == key[1:] else _said(twin)} by "
    return f"{before if twin != key else ''}{_said(key)}"


def _purse(key: Key) -> str:
    return PURSES.get(key.kind, "alive")


def _unpaid(before: Entry, after: Entry) -> set[str]:
    """The purses in which more bytes came than went."""
    grown = Counter[str]()
    for entry, sign in ((after, 1), (before, -1)):
        for key, amount in entry.residuals.items():
            grown[_purse(key)] += sign * amount.nbytes
    grown["alive"] += min(grown["new"], 0)
    return {purse for purse, nbytes in grown.items() if nbytes > 0}


def _twins(gone: Mapping[Key, Amount], came: Mapping[Key, Amount]) -> dict[Key, Key]:
    """Came → gone: arrays of as many bytes, which most likely have only been renamed, reshaped or exchanged.

    The closest looks are tried first. Where more such arrays came than went, nothing tells which of them is the one
    too many: none of them has a twin then.
    """
    looks = [
        lambda key: (re.split(r"[.\[]", key.name)[-1], key.array),  # a module was renamed, or wrapped
        lambda key: key.name,
        lambda key: key.array,
        lambda key: None,
    ]
    twins: dict[Key, Key] = {}
    for look in looks:
        groups: dict[Hashable, tuple[list[Key], list[Key]]] = defaultdict(lambda: ([], []))
        taken = {*twins, *twins.values()}
        for side, amounts in enumerate((came, gone)):
            for key, amount in amounts.items():
                if key not in taken:
                    groups[_purse(key), amount.nbytes, look(key)][side].append(key)
        for those, went in groups.values():
            if len(those) <= len(went):
                twins |= zip(sorted(those), sorted(went), strict=False)
    return twins


def check(entries: Iterable[Entry], folder: Path) -> tuple[list[Change], list[UsageError | MissingFramework]]:
    """All changes, and why there may be more: targets that cannot be audited, frameworks that are missing."""
    found = list[Change]()
    problems = list[UsageError | MissingFramework]()
    for entry, result in again(entries, folder):
        if isinstance(result, Entry):
            found += changes(entry, result)
        else:
            problems.append(result)
    return found, problems

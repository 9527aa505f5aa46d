"""Two audits side by side: the residuals of one matched with those of the other."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from residuals_lab.trace import Trace
from residuals_lab.trace.groups import stored


@dataclass
class Side:
    """The residuals that one audit has in a row."""

    count: int = 0
    nbytes: int = 0
    lines: list[str] = field(default_factory=list)
    readers: list[str] = field(default_factory=list)


@dataclass
class Match:
    """Residuals of two audits that stand for each other, of one dtype."""

    name: str  # the operation that makes them
    dtype: str
    left: Side
    right: Side

    @property
    def difference(self) -> int:
        return self.right.nbytes - self.left.nbytes


def matched(left: Trace, right: Trace) -> list[Match]:
    """What both keep as new memory, the largest differences first.

    Arrays of one operation, dtype and size are a row. The rows of the two sides are matched in three rounds: by the
    operation and the size of an array; by all their bytes together, so that `silu` there may stand for `sigmoid` here;
    by the operation alone. Of several rows that match, one that the same operations read is taken first, then one of
    as many arrays.
    """
    rows = [_rows(left), _rows(right)]
    found: list[Match] = []
    for is_alike in (_same_arrays, _same_bytes, _same_operation):
        for key, side in [*rows[0].items()]:
            alike = [other for other in rows[1] if is_alike(key, side, other, rows[1][other])]
            if alike:
                other = max(alike, key=lambda other: _common(side, rows[1][other]))
                name = key.op if key.op == other.op else f"{key.op} | {other.op}"
                found.append(Match(name, key.dtype, rows[0].pop(key), rows[1].pop(other)))
    found += [Match(key.op, key.dtype, side, Side()) for key, side in rows[0].items()]
    found += [Match(key.op, key.dtype, Side(), side) for key, side in rows[1].items()]
    return sorted(found, key=lambda m: (-abs(m.difference), -m.left.nbytes, m.name))


class _Key(NamedTuple):
    op: str
    dtype: str
    nbytes: int  # of one array


def _rows(trace: Trace) -> dict[_Key, Side]:
    rows: dict[_Key, Side] = defaultdict(Side)
    for r in stored(trace):
        if r.is_new:
            side = rows[_Key(r.op or r.name, r.value.dtype, r.storage_bytes)]
            side.count += 1
            side.nbytes += r.storage_bytes
            side.lines += [r.line] if r.line and r.line not in side.lines else []
            side.readers += [op for op in trace.readers(r) if op not in side.readers]
    return dict(rows)


def _same_arrays(key: _Key, side: Side, other: _Key, its: Side) -> bool:
    return key == other


def _same_bytes(key: _Key, side: Side, other: _Key, its: Side) -> bool:
    return (key.dtype, side.nbytes) == (other.dtype, its.nbytes)


def _same_operation(key: _Key, side: Side, other: _Key, its: Side) -> bool:
    return key[:2] == other[:2]


def _common(side: Side, other: Side) -> tuple[bool, bool]:
    return not {*side.readers}.isdisjoint(other.readers), side.count == other.count


def explained(match: Match) -> str:
    """Why the two differ, in a few words."""
    if not match.left.count or not match.right.count:
        side = match.left if match.left.count else match.right
        return f"only here: read by {', '.join(side.readers[:3])}" if side.readers else "only here: read by nothing"
    if match.left.count != match.right.count:
        return f"{match.left.count} arrays against {match.right.count}"
    return "" if match.left.nbytes == match.right.nbytes else "other shapes"

"""Two audits side by side: what one keeps and the other does not."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from residuals_lab.audit_document import stored
from residuals_lab.trace import Residual, Trace


@dataclass
class Side:
    """The residuals of one report in a row."""

    count: int = 0
    nbytes: int = 0
    lines: list[str] = field(default_factory=list)
    readers: list[str] = field(default_factory=list)


@dataclass
class Match:
    """Residuals of both reports that are made by the same operation in the same dtype."""

    name: str
    dtype: str
    left: Side
    right: Side

    @property
    def difference(self) -> int:
        return self.right.nbytes - self.left.nbytes


def matched(left: Trace, right: Trace) -> list[Match]:
    """What both keep as new memory, the largest differences first.

    The traces have one word for an operation in both frameworks. What is left over on both sides is matched where its
    bytes are equal, so that `silu` there may stand beside `sigmoid` here.
    """
    found: dict[tuple[str, str], Match] = {}
    for trace, side in ((left, "left"), (right, "right")):
        for r in stored(trace):
            if r.is_new:
                name = r.op or r.name
                match = found.setdefault((name, r.value.dtype), Match(name, r.value.dtype, Side(), Side()))
                _add(getattr(match, side), trace, r)
    return sorted(_paired(list(found.values())), key=lambda m: (-abs(m.difference), -m.left.nbytes, m.name))


def _add(side: Side, trace: Trace, r: Residual) -> None:
    side.count += 1
    side.nbytes += r.nbytes
    side.lines += [r.line] if r.line and r.line not in side.lines else []
    side.readers += [op for op in dict.fromkeys(trace.steps[i].op for i in r.reads) if op not in side.readers]


def _paired(matches: Sequence[Match]) -> list[Match]:
    """The same, where a row of the left alone and one of the right alone with as many bytes have become one."""
    kept = [m for m in matches if m.left.count and m.right.count]
    lonely = [m for m in matches if not m.left.count]
    for m in (m for m in matches if not m.right.count):
        twin = next((o for o in lonely if (o.dtype, o.right.nbytes) == (m.dtype, m.left.nbytes)), None)
        if twin is None:
            kept.append(m)
        else:
            lonely.remove(twin)
            kept.append(Match(f"{m.name} | {twin.name}", m.dtype, m.left, twin.right))
    return kept + lonely


def explained(match: Match) -> str:
    """Why the two differ, in a few words."""
    if not match.left.count or not match.right.count:
        side = match.left if match.left.count else match.right
        return f"only here: read by {', '.join(side.readers[:3])}" if side.readers else "only here: read by nothing"
    if match.left.count != match.right.count:
        return f"{match.left.count} arrays against {match.right.count}"
    return "" if match.left.nbytes == match.right.nbytes else "other shapes"


def document(left: Any, right: Any) -> list[dict[str, Any]]:
    """The matches as plain data."""
    return [
        {
            "made_by": m.name,
            "dtype": m.dtype,
            "left": {"arrays": m.left.count, "bytes": m.left.nbytes, "lines": m.left.lines},
            "right": {"arrays": m.right.count, "bytes": m.right.nbytes, "lines": m.right.lines},
            "difference": m.difference,
            "why": explained(m),
        }
        for m in matched(left.trace, right.trace)
    ]

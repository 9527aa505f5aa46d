"""More is kept for the backward than was said.

Looked at where `names` or `new_bytes` are given: the new arrays are those of these names, and take at most so many
bytes beyond what is alive anyway.
"""

from collections import Counter

from residuals_lab.check.subject import NotRun, Subject
from residuals_lab.finding import Finding
from residuals_lab.show import size

EXAMPLES = {
    "torch": "There is no fault to plant without names or bytes; the tests of the check give them.",
    "jax": "There is no fault to plant without names or bytes; the tests of the check give them.",
}


def find(subject: Subject) -> Finding | None:
    names, bound = subject.names, subject.new_bytes
    if names is None and bound is None:
        raise NotRun("neither names nor new_bytes are given")
    kept = {r.storage: r for r in subject.audited.residuals if r.is_new}
    listed = ", ".join(f"{r.name} ({size(r.storage_bytes)})" for r in kept.values()) or "nothing"
    more = Counter(r.name for r in kept.values()) - Counter(names) if names is not None else Counter[str]()
    new_bytes = subject.audited.new_bytes
    if not more and (bound is None or new_bytes <= bound):
        return None
    what = ", ".join(sorted(more.elements())) if more else size(new_bytes - (bound or 0))
    return Finding(
        "too-much-kept",
        f"{what} more than expected {'is' if len(more) < 2 else 'are'} kept for the backward",
        f"the new arrays {', '.join(names) or 'none'}" if more and names is not None else f"at most {bound} B",
        listed if more else f"{new_bytes} B: {listed}",
        "every array is kept from the forward to the backward, where memory is scarcest",
        "save less, or say that it is meant to be kept",
    )

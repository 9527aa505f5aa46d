"""An array is saved that is there anyway, or that follows cheaply from what is.

The backward can do without it: a copy of an argument, the same values a second time, a mask beside the array that it
is made of. That is a choice between bytes and a cheap operation, so that it is a note, with the bytes.
"""

from residuals_lab.check.subject import PLAIN, NotRun, Subject
from residuals_lab.finding import Finding
from residuals_lab.show import size

EXAMPLES = {"torch": "This is a note and no failure.", "jax": "This is a note and no failure."}


def find(subject: Subject) -> Finding | None:
    if not subject.has_rule:
        raise NotRun(PLAIN)
    for waste in subject.audited.findings:
        if waste.what in ("duplicate", "derivable") and waste.nbytes:
            names = ", ".join(waste.names)
            subject.notes.append(f"saved, and could be left out: {names}, {size(waste.nbytes)}: {waste.why}")
    return None

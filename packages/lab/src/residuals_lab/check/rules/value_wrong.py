"""The value differs from that of the reference.

Looked at only where a reference is given. A gradient can only be right for the function that is computed.
"""

from residuals_lab.check.subject import NotRun, Subject, apart
from residuals_lab.finding import Finding

EXAMPLES = {
    "torch": "There is no fault to plant without a reference; the tests of the check give one.",
    "jax": "There is no fault to plant without a reference; the tests of the check give one.",
}


def find(subject: Subject) -> Finding | None:
    reference = subject.reference
    if reference.fn is not None:
        expected = subject.with_fn(reference.fn).values()
    elif reference.in_numpy is not None:
        expected = subject.numpy_values(subject.numbers)
    else:
        raise NotRun("no reference is given")
    if len(expected) != len(subject.outs):
        wanted, got = f"{len(expected)} arrays", f"{len(subject.outs)}"
    else:
        names = [f"output {i}" for i in range(len(expected))]
        wrong = apart(subject.outs, expected, names, max(subject.tolerance, subject.loose))
        if wrong is None:
            return None
        wanted, got = wrong.is_expected, wrong.is_got
    return Finding(
        "value-wrong",
        f"the value is not that of {reference.title}",
        wanted,
        got,
        "a gradient can only be right for the function that is computed",
        "compare the forward with the reference, term by term",
    )

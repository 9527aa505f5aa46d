"""What is kept grows as the square of an axis, and the arguments do not.

Scores of all pairs of positions, a one-hot array of all labels, an outer product: at the size of a test they are small,
and at the size of a model they are what fills the memory. A note, for some functions cannot help it; attention can, by
making the scores again block by block.
"""

from collections.abc import Iterator

import numpy as np

from residuals_lab.check.subject import NotRun, Raised, Subject
from residuals_lab.finding import Finding
from residuals_lab.show import size

EXAMPLES = {"torch": "This is a note and no failure.", "jax": "This is a note and no failure."}


def find(subject: Subject) -> Finding | None:
    if subject.is_quick:
        raise NotRun("it takes seconds")
    for where, numbers in _wider(subject):
        try:
            small, twice, four = (subject.audit_at(n) for n in numbers)
        except Raised:
            continue  # the function does not take other sizes
        square = (four.new_bytes - 3 * twice.new_bytes + 2 * small.new_bytes) / 6  # of a + b·n + c·n², the last term
        if square > 0.1 * small.new_bytes:
            subject.notes.append(
                f"the new arrays that are kept grow as the square of {where}: {size(small.new_bytes)} here, "
                f"{size(twice.new_bytes)} at twice and {size(four.new_bytes)} at four times that size"
            )
    return None


def _wider(subject: Subject) -> Iterator[tuple[str, list[list[np.ndarray]]]]:
    """For each size of an axis: where it is, and the numbers with all axes of that size as they are, 2 and 4 times as
    long. Where one argument has two axes of that size it grows as the square itself.
    """
    sizes = dict.fromkeys(s for i in subject.wrt for s in subject.numbers[i].shape if s > 1)
    for s in [*sizes][:4]:
        axes = [[k for k, length in enumerate(n.shape) if length == s] for n in subject.numbers]
        if max(map(len, axes)) > 1:
            continue
        first = next(i for i, found in enumerate(axes) if found)
        where = f"axis {axes[first][0]} of {subject.inputs[first].name}"
        yield (
            where,
            [
                [
                    np.concatenate([n] * k, found[0]) if found else n
                    for n, found in zip(subject.numbers, axes, strict=True)
                ]
                for k in (1, 2, 4)
            ],
        )

"""The factors of a product as matrices: rows times columns, behind the axes that both have."""

import ast
import re
from typing import Any, NamedTuple

from residuals_lab.audit.advice.forward import Forward
from residuals_lab.frameworks.sites import Unplaced
from residuals_lab.trace import Step


class Factor(NamedTuple):
    """How the axes of a factor are: those of a batch, those of its own, and the one that is summed."""

    batch: tuple[int, ...]
    free: tuple[int, ...]
    summed: int
    is_left: bool

    def matrix(self, a: Any) -> Any:
        """(..., rows, summed) of a left factor, (..., summed, columns) of a right one; several axes of rows are one."""
        inner = (*self.free, self.summed) if self.is_left else (self.summed, *self.free)
        axes = (*self.batch, *inner)
        a = a if axes == tuple(range(a.ndim)) else a.transpose(axes)
        if len(self.free) == 1:
            return a
        n, size = len(self.batch), a.shape
        rest = (-1, size[-1]) if self.is_left else (size[n], -1)
        return a.reshape(*size[:n], *rest)


def factors(forward: Forward, product: Step) -> tuple[Factor, Factor]:
    """The two factors of a product."""
    left, right = (len(forward.values[n].shape) for n in product.ins[-2:])
    text = str(forward.keys.get(product.outs[0], ("", ""))[1])
    found = re.search(r"'dimension_numbers': (\(\(\([\d, ]*\), \([\d, ]*\)\), \(\([\d, ]*\), \([\d, ]*\)\)\))", text)
    if not found:
        if not left == right >= 2:
            raise Unplaced("a product has a vector")
        batch = tuple(range(left - 2))
        return Factor(batch, (left - 2,), left - 1, True), Factor(batch, (right - 1,), right - 2, False)
    (of_left, of_right), batches = ast.literal_eval(found[1])
    if len(of_left) != 1:
        raise Unplaced("a product sums several axes")
    made = [
        Factor(batch, tuple(i for i in range(n) if i not in (*batch, *summed)), summed[0], is_left)
        for n, batch, summed, is_left in ((left, batches[0], of_left, True), (right, batches[1], of_right, False))
    ]
    if not all(factor.free for factor in made):
        raise Unplaced("a product has a vector")
    return made[0], made[1]

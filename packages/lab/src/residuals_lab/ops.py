"""The table of ops. A row names a call's arrays and their axes; all else is read from the op's own files."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from residuals_lab.errors import UsageError

Axes = dict[str, tuple[int, ...]]  # what each letter of an op stands for; `...` may stand for any number of axes


class Op(NamedTuple):
    """`name` is the module in every ops package; `arrays` maps each array argument to its axes, in order.

    Axes are letters, and `...` is any number of them: `{"x": "... d", "weight": "d"}`. `static` holds the other
    arguments, in the order in which `fwd` takes them after the arrays, with the values `compare` uses.
    """

    name: str
    arrays: dict[str, str]
    static: Mapping[str, Any] = MappingProxyType({})

    def shape(self, name: str, axes: Axes) -> tuple[int, ...]:
        """The shape of the array `name` where the letters stand for `axes`."""
        return tuple(n for letter in self.arrays[name].split() for n in axes[letter])

    def axes(self, name: str, shape: tuple[int, ...]) -> Axes:
        """What the letters of the array `name` stand for in `shape`; UsageError if it has the wrong rank."""
        letters = self.arrays[name].split()
        spare = len(shape) - len(letters) + 1
        if spare < 0 or ("..." not in letters and spare != 1):
            raise UsageError(f"{name}: {self.name} expects axes ({self.arrays[name]}), got shape {shape}")
        found: Axes = {}
        rest = list(shape)
        for letter in letters:
            count = spare if letter == "..." else 1
            found[letter], rest = tuple(rest[:count]), rest[count:]
        return found

    def default_axes(self, size: int) -> Axes:
        """Axes that give the first array about `size` elements: up to 64 along each of its own axes but one."""
        letters = next(iter(self.arrays.values())).split()
        rest = "..." if "..." in letters else letters[0]
        axes: Axes = {}
        for letter in (letter for letter in letters if letter != rest):
            axes[letter] = (min(size, 64),)
            size //= axes[letter][0]
        return {**axes, rest: (size,)}


OPS = (
    Op("x_sin_x", {"x": "n"}),
    Op("scaled", {"x": "... d", "scale": "d"}),
    Op("relu", {"x": "..."}),
    Op("relu_bits", {"x": "..."}),
    Op("sigmoid", {"x": "..."}),
    Op("tanh", {"x": "..."}),
    Op("silu", {"x": "..."}),
    Op("gelu", {"x": "..."}, {"approximate": "none"}),
    Op("rms_norm", {"x": "... d", "weight": "d"}, {"eps": 1e-6}),
)
BY_NAME = {op.name: op for op in OPS}

"""The table of ops. A row names a call's arrays and their axes; all else is read from the op's own files."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from residuals_lab.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

Axes = dict[str, tuple[int, ...]]  # what each letter of an op stands for; `...` may stand for any number of axes
Draw = Callable[["np.random.Generator", Axes], "np.ndarray"]


class Op(NamedTuple):
    """`name` is the module in every ops package; `arrays` maps each array argument to its axes, in order.

    Axes are letters, and `...` is any number of them: `{"x": "... d", "weight": "d"}`. `static` holds the other
    arguments, in the order in which `fwd` takes them after the arrays, with the values `compare` uses. `constants` are
    arrays that are never differentiated, such as a key or labels, which `fwd` takes between the two: how to draw each.
    """

    name: str
    arrays: dict[str, str]
    static: Mapping[str, Any] = MappingProxyType({})
    constants: Mapping[str, Draw] = MappingProxyType({})

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

    def draw(self, rng: "np.random.Generator", axes: Axes) -> "dict[str, np.ndarray]":
        """A random array for every array and constant."""
        arrays = {name: rng.standard_normal(self.shape(name, axes)) for name in self.arrays}
        return arrays | {name: draw(rng, axes) for name, draw in self.constants.items()}

    def default_axes(self, size: int) -> Axes:
        """Axes that give the first array about `size` elements: all alike up to 64, but one, which has the rest."""
        letters = next(iter(self.arrays.values())).split()
        rest = "..." if "..." in letters else letters[0]
        alike = min(64, round(size ** (1 / len(letters))))
        axes: Axes = {letter: (alike,) for letter in letters if letter != rest}
        return {**axes, rest: (size // alike ** (len(letters) - 1),)}


def _key(rng: "np.random.Generator", axes: Axes) -> "np.ndarray":
    return rng.integers(2**32, size=2, dtype="uint32")


def _channel_mean(rng: "np.random.Generator", axes: Axes) -> "np.ndarray":
    return rng.standard_normal(axes["c"])


def _channel_var(rng: "np.random.Generator", axes: Axes) -> "np.ndarray":
    return 0.5 + rng.random(axes["c"])


OPS = (
    Op("x_sin_x", {"x": "n"}),
    Op("scaled", {"x": "... d", "scale": "d"}),
    Op("relu", {"x": "..."}),
    Op("relu_bits", {"x": "..."}),
    Op("sigmoid", {"x": "..."}),
    Op("tanh", {"x": "..."}),
    Op("silu", {"x": "..."}),
    Op("gelu", {"x": "..."}, {"approximate": "none"}),
    Op("swiglu", {"gate": "...", "up": "..."}),
    Op("geglu", {"gate": "...", "up": "..."}),
    Op("softmax", {"x": "... d"}, {"axis": -1}),
    Op("dropout", {"x": "... d"}, {"rate": 0.5}, {"key": _key}),
    Op("dropout_remat", {"x": "... d"}, {"rate": 0.5}, {"key": _key}),
    Op("layer_norm", {"x": "... d", "weight": "d", "bias": "d"}, {"eps": 1e-5}),
    Op("rms_norm", {"x": "... d", "weight": "d"}, {"eps": 1e-6}),
    Op(
        "batch_norm",
        {"x": "b c ...", "weight": "c", "bias": "c"},
        {"training": True, "momentum": 0.1, "eps": 1e-5},
        {"running_mean": _channel_mean, "running_var": _channel_var},
    ),
    Op("group_norm", {"x": "b c ...", "weight": "c", "bias": "c"}, {"num_groups": 1, "eps": 1e-5}),
)
BY_NAME = {op.name: op for op in OPS}

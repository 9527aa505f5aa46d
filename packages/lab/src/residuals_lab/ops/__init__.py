"""The table of ops. A row names a call's arrays and their axes; all else is read from the op's own files."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from residuals_lab.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

Axes = dict[str, tuple[int, ...]]  # a letter of an op → the sizes of its axes: one, or any number for `...`


class Constant(NamedTuple):
    """An array that is never differentiated: its axes, in the letters of the arrays, and how to draw one."""

    axes: str
    draw: Callable[["np.random.Generator", Axes], "np.ndarray"]


class Op(NamedTuple):
    """`name` is the module in every ops package; `arrays` maps each array argument to its axes, in order.

    Axes are letters, and `...` is any number of them: `{"x": "... d", "weight": "d"}`. `static` holds the other
    arguments, in the order in which `fwd` takes them after the arrays, with the values `compare` uses. `constants` are
    arrays that are never differentiated, such as a key or labels, which `fwd` takes between the two.
    `optional` names arrays and constants that most calls, and those that are measured, do without. `sizes` are those of
    letters where bytes are measured, if the usual ones are not typical of the op. `soft` has the axes of a constant
    where it is floating, and then an array like the others: labels that are probabilities.
    """

    name: str
    arrays: dict[str, str]
    static: Mapping[str, Any] = MappingProxyType({})
    constants: Mapping[str, Constant] = MappingProxyType({})
    optional: tuple[str, ...] = ()
    sizes: Mapping[str, int] = MappingProxyType({})
    soft: Mapping[str, str] = MappingProxyType({})

    @property
    def letters(self) -> list[str]:
        """The letters of all arrays, each once, those of the first array first."""
        return list(dict.fromkeys(letter for axes in self.arrays.values() for letter in axes.split()))

    def of(self, arguments: Mapping[str, Any]) -> "Op":
        """The op as it is for these arguments: with the floating ones of `soft` among its arrays."""
        floating = {name for name, a in arguments.items() if hasattr(a, "dtype") and a.dtype.kind == "f"}
        soft = {name: axes for name, axes in self.soft.items() if name in floating}
        constants = {name: constant for name, constant in self.constants.items() if name not in soft}
        return self._replace(arrays=self.arrays | soft, constants=constants) if soft else self

    def axes_of(self, name: str) -> str:
        """The axes of an array or a constant, as the table has them."""
        return self.arrays[name] if name in self.arrays else self.constants[name].axes

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

    def draw(self, rng: "np.random.Generator", axes: Axes, *, whole: bool = False) -> "dict[str, np.ndarray]":
        """A random array for every array and constant; for the optional ones only if `whole`."""
        import numpy as np

        absent = () if whole else self.optional
        arrays = {
            name: np.array(rng.standard_normal(self.shape(name, axes))) for name in self.arrays if name not in absent
        }
        return arrays | {
            name: constant.draw(rng, axes) for name, constant in self.constants.items() if name not in absent
        }

    def default_axes(self, size: int) -> Axes:
        """Axes that give the first array about `size` elements: all alike up to 64, but one, which has the rest."""
        letters = next(iter(self.arrays.values())).split()
        rest = "..." if "..." in letters else letters[0]
        alike = min(64, round(size ** (1 / len(letters))))
        axes: Axes = {letter: (alike,) for letter in self.letters if letter != rest}
        return {**axes, rest: (size // alike ** (len(letters) - 1),)}

    def typical_axes(self, size: int) -> Axes:
        """Axes as a model has them, which give the first array about `size` elements: its last is 1024, or all are as
        `sizes` says, but one, which has the rest; the others are 32.
        """
        letters = next(iter(self.arrays.values())).split()
        free = "..." if "..." in letters else letters[0]
        axes: Axes = dict.fromkeys(self.letters, (32,))
        axes |= {letters[-1]: (1024,)} | {letter: (n,) for letter, n in self.sizes.items()}
        rest = math.prod(axes[letter][0] for letter in letters if letter != free)
        return {**axes, free: (max(1, size // rest),)}


def _labels(classes: str) -> Constant:
    """A label for each row; where there is no class, every row is ignored."""

    def draw(rng: "np.random.Generator", axes: Axes) -> "np.ndarray":
        (n,) = axes[classes]
        return rng.integers(n, size=axes["..."], dtype="int32") if n else rng.integers(-100, -99, axes["..."], "int32")

    return Constant("...", draw)


def _weights(classes: str) -> Constant:
    """A weight for each class."""
    return Constant(classes, lambda rng, axes: 0.5 + rng.random(axes[classes]))


KEY = Constant("words", lambda rng, axes: rng.integers(2**32, size=2, dtype="uint32"))
QKV = {"q": "... h s d", "k": "... h t d", "v": "... h t e", "bias": "h s t"}
QKV_SCALE = {"q": "... h s d", "k": "... h t d", "v": "... h t e", "scale": "", "bias": "h s t"}
ATTENTION = {"is_causal": False, "scale": None, "softcap": None, "window": None}
MASK = Constant("s t", lambda rng, axes: rng.random((*axes["s"], *axes["t"])) < 0.7)
TOKENS = {"...": 2, "h": 4, "s": 256, "t": 256, "d": 64, "e": 64}

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
    Op("geglu", {"gate": "...", "up": "..."}, {"approximate": "none"}),
    Op("softmax", {"x": "... d"}, {"axis": -1}),
    Op("dropout", {"x": "... d"}, {"rate": 0.5, "broadcast": ()}, {"key": KEY}),
    Op("dropout_remat", {"x": "... d"}, {"rate": 0.5, "broadcast": ()}, {"key": KEY}),
    Op("layer_norm", {"x": "... d", "weight": "d", "bias": "d"}, {"axis": -1, "eps": 1e-5}),
    Op("rms_norm", {"x": "... d", "weight": "d"}, {"axis": -1, "offset": 0.0, "eps": 1e-6}),
    Op(
        "batch_norm",
        {"x": "b c ...", "weight": "c", "bias": "c"},
        {"training": True, "momentum": 0.1, "eps": 1e-5},
        {
            "running_mean": Constant("c", lambda rng, axes: rng.standard_normal(axes["c"])),
            "running_var": Constant("c", lambda rng, axes: 0.5 + rng.random(axes["c"])),
        },
    ),
    Op("group_norm", {"x": "b c ...", "weight": "c", "bias": "c"}, {"num_groups": 1, "axis": 1, "eps": 1e-5}),
    Op("attention", QKV, ATTENTION | {"dropout": 0.0}, {"mask": MASK, "key": KEY}, ("bias", "mask", "key"), TOKENS),
    Op("qk_norm_attention", QKV_SCALE, {"is_causal": False}, {"mask": MASK}, ("bias", "mask"), TOKENS),
    Op("flash_attention", QKV, ATTENTION, {"mask": MASK}, ("bias", "mask"), TOKENS),
    Op(
        "cross_entropy",
        {"logits": "... c"},
        {"ignore_index": -100, "reduction": "mean", "label_smoothing": 0.0, "z_loss": 0.0, "axis": -1},
        {"labels": _labels("c"), "weight": _weights("c")},
        ("weight",),
        soft={"labels": "... c"},
    ),
    Op(
        "linear_cross_entropy",
        {"x": "... d", "weight": "v d", "bias": "v"},
        {"ignore_index": -100, "reduction": "mean", "chunk": 2048, "label_smoothing": 0.0, "z_loss": 0.0},
        {"labels": _labels("v"), "class_weight": _weights("v")},
        ("bias", "class_weight"),
        sizes={"...": 256, "d": 64, "v": 4096},
    ),
)
BY_NAME = {op.name: op for op in OPS}

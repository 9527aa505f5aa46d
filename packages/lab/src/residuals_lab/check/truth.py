"""What a gradient should be: a reference's, or what differences of the function itself say.

A truth answers one question, `along`: by how much the function, weighted with cotangents, changes along a direction in
one argument. Right gradients, paired with the same direction, say the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

Arrays = Sequence[np.ndarray]
FLOAT64 = 1e-7  # relative error allowed to a gradient where differences in float64 are the truth
_SAFETY = 16.0  # by which rounding in differences may be worse than estimated


class Along(NamedTuple):
    """A derivative along a direction in one argument, and the error allowed to it."""

    value: float
    allowed: float


class Truth(Protocol):
    """Where a right gradient comes from."""

    title: str

    def along(self, place: int, direction: np.ndarray, gs: Arrays) -> Along:
        """The derivative of Σ g·output along `direction` in the differentiated argument at `place`."""


def pair(a: np.ndarray, v: np.ndarray, conjugates: bool) -> float:
    """A gradient or a cotangent, paired with a change, by the framework's convention for complex numbers."""
    a, v = np.asarray(a), np.asarray(v)
    used = v != 0  # a direction does not go where the gradient is infinite
    return float(np.real(np.sum((np.conj(a[used]) if conjugates else a[used]) * v[used])))


@dataclass
class Gradients:
    """The gradients that a reference gives for cotangents."""

    title: str
    of: Callable[[Arrays], list[np.ndarray]]
    conjugates: bool
    tolerance: float = FLOAT64
    _known: dict[bytes, list[np.ndarray]] = field(default_factory=dict)

    def along(self, place: int, direction: np.ndarray, gs: Arrays) -> Along:
        key = b"".join(np.ascontiguousarray(g).tobytes() for g in gs)
        if key not in self._known:
            self._known[key] = self.of(gs)
        d = self._known[key][place]
        size = float(np.sum(np.abs(np.where(direction != 0, d, 0) * direction)))
        most = max((float(np.abs(a[np.isfinite(a)]).max(initial=0)) for a in self._known[key]), default=0.0)
        return Along(pair(d, direction, self.conjugates), self.tolerance * max(size, 1e-5 * most) + 1e-30)


class _Change(NamedTuple):
    """The derivative of each output along a direction, its error, and where there is a derivative at all."""

    outs: list[np.ndarray]
    errors: list[np.ndarray]
    is_smooth: list[np.ndarray]


@dataclass
class Differences:
    """Central differences of a function of NumPy arrays, at two steps, of which the error is known.

    Where the changes to both sides do not approach each other there is a kink, and an output is taken for constant. A
    function that computes in less than float64 inside is recognised by outputs that do not move with a small step; the
    steps are then larger, and so is the error allowed.
    """

    title: str
    forward: Callable[[list[np.ndarray]], list[np.ndarray]]
    arrays: list[np.ndarray]
    wrt: Sequence[int]
    conjugates: bool
    eps: float = 2.0**-52  # of the least precise numbers that the function computes with

    def __post_init__(self) -> None:
        self._center = self.forward(list(self.arrays))
        self._known: dict[tuple[int, bytes], _Change] = {}

    def along(self, place: int, direction: np.ndarray, gs: Arrays) -> Along:
        change = self.change(place, direction)
        value = sum(pair(g, d, self.conjugates) for g, d in zip(gs, change.outs, strict=True))
        parts = zip(gs, change.outs, change.errors, strict=True)
        size = sum(float(np.sum(np.abs(g) * (self.tolerance * np.abs(d) + e))) for g, d, e in parts)
        return Along(value, size + 1e-30)

    @property
    def tolerance(self) -> float:
        return FLOAT64 if self.eps < 1e-12 else 4 * self.eps**0.7

    def change(self, place: int, direction: np.ndarray) -> _Change:
        """The derivative of each output along a direction in one argument."""
        key = place, np.ascontiguousarray(direction).tobytes()
        if key not in self._known:
            self._known[key] = self._change(place, direction)
        return self._known[key]

    def _change(self, place: int, direction: np.ndarray) -> _Change:
        wide = self._step(place, direction)
        narrow = wide / 4
        right, left = self._moved(place, direction, wide), self._moved(place, direction, -wide)
        near_right, near_left = self._moved(place, direction, narrow), self._moved(place, direction, -narrow)
        outs, errors, smooth = [], [], []
        most = max(map(_typical, self._center), default=0.0)
        for center, r, le, nr, nl in zip(self._center, right, left, near_right, near_left, strict=True):
            with np.errstate(invalid="ignore", over="ignore"):
                coarse, fine = (r - le) / (2 * wide), (nr - nl) / (2 * narrow)
                rounding = _SAFETY * self.eps * (np.abs(center) + max(_typical(center), 1e-3 * most)) / narrow
                jump, near_jump = np.abs(r - 2 * center + le) / wide, np.abs(nr - 2 * center + nl) / narrow
                apart = np.abs(coarse - fine)
                is_smooth = np.isfinite(apart) & np.isfinite(jump)
                is_smooth &= (near_jump <= jump / 2 + rounding) & (apart <= 1e-2 * np.abs(fine) + rounding)
                refined = (16 * fine - coarse) / 15
                # A quarter of it where the second derivative jumps, as that of elu does at 0; almost nothing elsewhere.
                error = rounding + apart * (1.0 if self.eps < 1e-12 else self.eps**0.25)
            outs.append(np.where(is_smooth, refined, 0))
            errors.append(np.where(is_smooth, error, 0))
            smooth.append(is_smooth)
        return _Change(outs, errors, smooth)

    def _step(self, place: int, direction: np.ndarray) -> float:
        x = self.arrays[self.wrt[place]]
        size = _typical(np.where(direction != 0, x, 0)) or 1.0
        return size * (1e-4 if self.eps < 1e-12 else self.eps**0.2)

    def _moved(self, place: int, direction: np.ndarray, step: float) -> list[np.ndarray]:
        moved = list(self.arrays)
        i = self.wrt[place]
        moved[i] = np.where(direction != 0, self.arrays[i] + step * direction, self.arrays[i])
        with np.errstate(invalid="ignore", over="ignore"):
            return self.forward(moved)

    def is_stiff(self, directions: Sequence[tuple[int, np.ndarray]]) -> bool:
        """Whether most outputs do not move with a tiny step in one of the arguments, though they move with a larger
        one: then they are rounded to less than float64 somewhere inside.
        """
        for place, direction in directions:
            step, still, moving = 1e-5 * self._step(place, direction), 0, 0
            here = self._moved(place, direction, step)
            for center, near, slope in zip(self._center, here, self.change(place, direction).outs, strict=True):
                moves = np.abs(slope) * step > 1e-12 * (np.abs(center) + _typical(center))
                with np.errstate(invalid="ignore"):
                    still += int(np.sum(moves & (np.abs(near - center - step * slope) > 0.1 * np.abs(step * slope))))
                moving += int(np.sum(moves))
            if moving and still > moving / 2:
                return True
        return False


def _typical(a: np.ndarray) -> float:
    """The root mean square of the finite numbers, without zeros."""
    finite = np.abs(a[np.isfinite(a) & (a != 0)]) if np.ndim(a) else np.abs(np.atleast_1d(a))
    finite = finite[np.isfinite(finite)]
    return float(np.sqrt(np.mean(np.square(finite.astype(np.float64))))) if finite.size else 0.0


def directions(rng: np.random.Generator, x: np.ndarray, count: int) -> list[np.ndarray]:
    """Random directions in an argument, which leave alone what is not finite, such as a mask of −inf."""
    found = []
    for _ in range(count):
        v = rng.standard_normal(x.shape)
        v = v + 1j * rng.standard_normal(x.shape) if np.iscomplexobj(x) else v
        found.append(np.where(np.isfinite(x), v, 0))
    return found

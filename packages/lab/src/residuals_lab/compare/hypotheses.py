"""Why two ports differ: each known difference is a hypothesis that is tried on the numbers.

What is proved on the numbers "is" so; what only behaves like it "looks like" it.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from residuals_lab.ops.tolerance import FLOAT64_LIMIT

ERF_OPS, TANH_OPS = {"erf", "erfc", "gelu"}, {"tanh", "gelu_tanh"}
SCALES = (1.0, 8.0, 64.0, 4096.0)  # of an input: an eps fades as it grows; at the last one it is gone
BETWEEN_GELUS = 0.01  # two gelus are 5e-4 apart, and what is made of them is not much farther apart
SMALL = 0.1  # two eps are farther apart only beside arguments that are as small as they
FADED = 1e-6  # an eps of 1e-2 beside squares of 4096² is below it


class Known(NamedTuple):
    """A difference with a name."""

    rule: str  # "conjugate": its meaning never changes
    text: str  # what the second's is, after "the second's gradient of x "


@dataclass(frozen=True)
class Case:
    """One array of the first port and the same of the second, which differ."""

    first: np.ndarray
    second: np.ndarray
    inputs: dict[str, np.ndarray]  # those of floating numbers, by name
    weights: Sequence[np.ndarray]  # of the results, in the gradients
    ops: tuple[set[str], set[str]]  # the operations of each port's forward
    scaled: Callable[[str, float], tuple[np.ndarray, np.ndarray]]  # both, with an input so many times as large
    exact: float = FLOAT64_LIMIT  # equal numbers are that close, relative to the largest


def explained(case: Case) -> Known | None:
    """The first hypothesis that holds."""
    if not (np.isfinite(case.first).all() and np.isfinite(case.second).all()):
        return Known("not-finite", _not_finite(case))
    with np.errstate(all="ignore"):  # an input that is many times as large may overflow
        return _first_that_holds(case)


def _first_that_holds(case: Case) -> Known | None:
    for hypothesis in (_conjugate, _nothing, _factor, _gelus, _variance, _eps, _rounding):
        if found := hypothesis(case):
            return found
    return None


def near(a: np.ndarray, b: np.ndarray, tolerance: float = FLOAT64_LIMIT) -> bool:
    """Whether two arrays of one shape are equal within a tolerance that is relative to the larger's largest entry."""
    scale = max(np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0))
    return bool(np.abs(a - b).max(initial=0.0) <= tolerance * scale)


def _not_finite(case: Case) -> str:
    first, second = (int((~np.isfinite(a)).sum()) for a in (case.first, case.second))
    return f"has {second} numbers that are NaN or infinite, where the first's has {first}"


def _conjugate(case: Case) -> Known | None:
    if np.iscomplexobj(case.first) and near(np.conj(case.second), case.first, case.exact):
        return Known("conjugate", "is the conjugate of the first's")
    return None


def _nothing(case: Case) -> Known | None:
    for a, text in ((case.second, "is 0, where the first's is not"), (case.first, "is not 0, as the first's is")):
        if not a.any():
            return Known("zero", text)
    return None


def _factor(case: Case) -> Known | None:
    """One is a multiple of the other."""
    factor = _ratio(case.first, case.second, case.exact)
    if factor is None:
        return None
    if of := _bessel(factor, case.inputs, case.exact):
        return Known("biased-variance", f"has {of}")
    if near(np.array(factor), np.array(-1.0), case.exact):
        return Known("factor", "is minus the first's")
    named = ""
    for name, a in case.inputs.items():
        for n in _counts(a):
            if n > 2 and math.isclose(abs(math.log(abs(factor))), math.log(n), rel_tol=case.exact):
                named = named or f", as a sum and a mean over {n} elements of {name} would be"
    if case.first.size == 1 and not named:  # one number is a multiple of any other
        return None
    return Known("factor", f"is {factor:.6g} times the first's{named}")


def _ratio(first: np.ndarray, second: np.ndarray, tolerance: float) -> float | None:
    """The number c for which the second is c times the first."""
    if np.iscomplexobj(first) or not (square := float((first * first).sum())):
        return None
    factor = float((first * second).sum()) / square
    return factor if factor and near(factor * first, second, tolerance) else None


def _counts(a: np.ndarray) -> list[int]:
    """How many elements a reduction of some neighbouring axes may go over."""
    bounds = itertools.combinations(range(a.ndim + 1), 2)
    return sorted({math.prod(a.shape[i:j]) for i, j in bounds} - {0, 1})


def _bessel(factor: float, inputs: dict[str, np.ndarray], tolerance: float) -> str:
    """What a factor says of a variance, if it is a power of n / (n - 1)."""
    if abs(factor - 1) <= 2 * tolerance:
        return ""
    for name, a in inputs.items():
        for n in _counts(a):
            for power in (1.0, 0.5):
                for sign in (1, -1):
                    if abs(factor - (n / (n - 1)) ** (sign * power)) <= tolerance * factor:
                        return f"a variance over n - 1 where the first's is over n, or the reverse: n is {n}, of {name}"
    return ""


def _gelus(case: Case) -> Known | None:
    """One takes the error function, the other its approximation by tanh."""
    difference = case.second - case.first
    for (name, x), function in itertools.product(case.inputs.items(), (_between_gelus, _between_gelu_gradients)):
        if x.shape != difference.shape or np.iscomplexobj(x):
            continue
        for factor in _factors(case, x.shape):
            expected = function(x) * factor
            for sign, which in (
                (1, "tanh, where the first's has erf"),
                (-1, "erf, where the first's has tanh"),
            ):
                if near(difference, sign * expected, 1e-6):
                    return Known("two-gelus", f"has the gelu of {name} with {which}")
    with_tanh, with_erf = ([bool(ops & of) for ops in case.ops] for of in (TANH_OPS, ERF_OPS))
    is_one_of_each = with_erf == with_tanh[::-1] and with_tanh[0] != with_tanh[1]
    if is_one_of_each and near(case.first, case.second, BETWEEN_GELUS):
        which = "tanh, where the first's has erf" if with_tanh[1] else "erf, where the first's has tanh"
        return Known("two-gelus", f"looks like the other gelu: it has {which}")
    return None


def _factors(case: Case, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """What a gelu may be multiplied by: another input, and in a gradient the weight of the result."""
    one = np.ones(shape)
    weights = [one, *(w for w in case.weights if w.shape == shape)]
    others = [one, *(a for a in case.inputs.values() if a.shape == shape)]
    return (a * b for a, b in itertools.product(weights, others))


def _between_gelus(x: np.ndarray) -> np.ndarray:
    """The gelu with tanh minus the gelu with erf."""
    return 0.5 * x * (np.tanh(_inner(x)) - _erf(x))


def _between_gelu_gradients(x: np.ndarray) -> np.ndarray:
    """The derivative of the gelu with tanh minus that of the gelu with erf."""
    tanh = np.tanh(_inner(x))
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return 0.5 * (tanh - _erf(x)) + 0.5 * x * (1 - tanh**2) * slope - x * density


def _inner(x: np.ndarray) -> np.ndarray:
    return math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2))


def _variance(case: Case) -> Known | None:
    """Where an input is so large that an eps is nothing beside it, one is a power of n / (n - 1) times the other, but
    for an input that is added last, such as a bias.
    """
    for name in case.inputs:
        first, second = case.scaled(name, SCALES[-1])
        for bias in (np.zeros(()), *case.inputs.values()):
            if bias.shape != first.shape[first.ndim - bias.ndim :]:
                continue
            factor = _ratio(first - bias, second - bias, FADED)
            if factor and (of := _bessel(factor, case.inputs, FADED)):
                return Known("biased-variance", f"looks as if it had {of}")
    return None


def _eps(case: Case) -> Known | None:
    """The difference is small, and fades as a power of an input's size, as that of two eps does beside it; and it fades
    beside the numbers themselves by the first or second power, as those of two eps in a norm or in its square do.
    """
    if not near(case.first, case.second, SMALL):
        return None
    for name in case.inputs:
        steps, sizes = list[float](), list[float]()
        for scale in SCALES[:3]:
            first, second = case.scaled(name, scale)
            steps.append(float(np.abs(first - second).max(initial=0.0)))
            sizes.append(float(np.abs(first).max(initial=0.0)))
        if not all(steps) or not all(sizes) or not all(math.isfinite(a) for a in (*steps, *sizes)):
            continue
        relative = [a / b for a, b in zip(steps, sizes, strict=True)]
        if _fades(steps, (1, 2, 3)) and _fades(relative, (1, 2)):
            return Known("another-eps", f"looks like another eps: the difference fades as {name} grows")
    return None


def _fades(steps: Sequence[float], powers: Sequence[int]) -> bool:
    """Whether numbers, one for each scale of an input, fall as one of these powers of the scale."""
    found = [math.log(a / b, SCALES[1]) for a, b in itertools.pairwise(steps)]
    return any(all(abs(p - power) < 0.1 for p in found) for power in powers)


def _rounding(case: Case) -> Known | None:
    if case.exact == FLOAT64_LIMIT and near(case.first, case.second, 1e-5):
        return Known("rounding", "looks as if one of the two were computed in float32")
    return None

"""The cases of the shared tests, op × framework × device × dtype × sample: from the lab's table and NumPy's samples."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from types import ModuleType
from typing import Any

import numpy as np

from residuals_lab import frameworks
from residuals_lab.ops import OPS
from residuals_lab.ops.call import Call, samples
from residuals_lab.ops.tolerance import error

DTYPES = {"float64": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16"}


@dataclass(frozen=True)
class Case:
    """One sample call of an op in one framework, on one device, in one dtype."""

    source: Call
    sample: str
    dtype: str
    adapter: ModuleType
    device: str
    first: bool  # of the op's samples: for tests that need one ordinary call, or are slow
    novel: bool  # no earlier sample has its structure: for transformations, which see no values
    telling: bool  # novel, or of numbers that are not of ordinary size: for what other shapes and strides add little to

    def __str__(self) -> str:
        return f"{self.source.op.name}-{self.sample}-{DTYPES[self.dtype]}-{self.adapter.NAME}:{self.device}"

    def is_before(self, twin: "Case") -> bool:
        """Whether `twin` is the same call in a later framework."""
        return self.source is twin.source and self.dtype == twin.dtype and self.adapter.NAME < twin.adapter.NAME

    @cached_property
    def call(self) -> Call:
        """The call as this case's dtype has it: the truth starts from the rounded arrays."""
        return replace(self.source.rounded(self.adapter, self.dtype), device=self.device)

    def array(self, a: np.ndarray) -> Any:
        """`a` as a differentiable array of this case's framework, dtype and device."""
        return self.adapter.array(a, self.dtype, self.device)

    def noise(self, shape: tuple[int, ...], seed: int) -> np.ndarray:
        """Random numbers that never change, rounded to this case's dtype."""
        return self.adapter.to_numpy(self.array(np.random.default_rng(seed).standard_normal(shape)))

    @property
    def args(self) -> list[Any]:
        """The call's arrays; fresh ones each time."""
        return [self.array(a) for a in self.call.arrays.values()]

    def at_once(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn` as one program in JAX, which compiles sooner than its operations one by one."""
        if self.adapter.NAME != "jax":
            return fn
        import jax

        return jax.jit(fn)

    @cached_property
    def g(self) -> np.ndarray:
        """A random cotangent."""
        return self.noise(np.shape(self.call.forward()), 1)

    def vjp(self, fn: Callable[..., Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The value of `fn` at this case's arrays and its gradients for `g`, in NumPy."""
        y, gradients = self.adapter.value_and_vjp(fn, self.args, self.array(self.g))
        to_numpy = self.adapter.to_numpy
        return to_numpy(y), {name: to_numpy(d) for name, d in zip(self.call.arrays, gradients, strict=True)}

    @cached_property
    def autodiff(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """What plain autodiff of the same maths gives."""
        return self.vjp(self.call.plain(self.adapter))


def conditioning(call: Call, g: np.ndarray, ulp: float) -> dict[str, float]:
    """How much the value, under the name "", and each gradient feel if each number of the arrays moves by half an ulp.

    The most of several draws: a sum to one number may not feel the one or the other.
    """
    signs = np.random.default_rng(6)
    truth, felt = {"": call.forward(), **call.vjp(g)}, dict.fromkeys(("", *call.arrays), 0.0)
    for _ in range(8):
        moved = {name: a * (1 + ulp / 2 * signs.choice((-1, 1), a.shape)) for name, a in call.arrays.items()}
        nudged = replace(call, arrays=moved)
        for name, a in {"": nudged.forward(), **nudged.vjp(g)}.items():
            felt[name] = max(felt[name], error(a, truth[name]))
    return felt


def is_input(call: Call, name: str) -> bool:
    """Whether this residual is an array or a constant of the call, by its name or by its value: it costs no bytes."""
    truth = call.residuals()[name]
    return name in call.arrays | call.constants or any(
        a.size and a.dtype.kind == truth.dtype.kind and np.array_equal(truth, a) for a in call.constants.values()
    )


def only(**attributes: Any) -> Callable[[Any], Any]:
    """Decorate a test to run only on cases with these attributes, such as `dtype="float64"`; a tuple is a choice."""
    choices = {name: value if isinstance(value, tuple) else (value,) for name, value in attributes.items()}

    def mark(test: Any) -> Any:
        test.only = lambda case: all(getattr(case, name) in values for name, values in choices.items())
        return test

    return mark


def where(choice: Callable[[Case], bool]) -> Callable[[Any], Any]:
    """Decorate a test to run only on the cases that `choice` accepts."""

    def mark(test: Any) -> Any:
        test.only = choice
        return test

    return mark


def cases(names: Iterable[str], device: str) -> list[Case]:
    """Every case of these frameworks on this device."""
    return [case for name in names for case in _cases(name, device)]


@cache
def _cases(name: str, device: str) -> tuple[Case, ...]:
    adapter = frameworks.load(name)
    found = []
    for op in OPS:
        seen: set[Any] = set()
        for sample, call in _samples(op.name).items():
            kind = structure(call)
            first, novel, extreme = not seen, kind not in seen, has_extremes(call)
            telling = novel or extreme
            dtypes = DTYPES if first or extreme else ("float64", "bfloat16") if novel else ("float64",)
            found += [Case(call, sample, dtype, adapter, device, first, novel, telling) for dtype in dtypes]
            seen.add(kind)
    return tuple(found)


def has_extremes(call: Call) -> bool:
    """Whether the numbers are not of ordinary size, so that each dtype may round or overflow in its own way."""
    largest = [np.abs(a).max() for a in call.arrays.values() if a.size]
    return bool(largest) and not 0.1 < max(largest) < 100


def structure(call: Call) -> Any:
    """What of a call makes a difference to a transformation: which arrays there are, whether they are scalars or empty,
    whether leading axes broadcast, and the static arguments, but for numbers between 0 and 1 such as an epsilon.
    """
    arrays = tuple((name, a.ndim == 0, a.size == 0) for name, a in (call.arrays | call.constants).items())
    axes = {name: call.op.axes_of(name).split() for name in call.arrays}
    leads = {a.shape[: a.ndim - len(axes[name]) + 1] for name, a in call.arrays.items() if "..." in axes[name][:1]}
    return (
        arrays,
        len(leads) > 1,
        tuple((name, a) for name, a in call.static.items() if not (isinstance(a, float) and 0 < a < 1)),
    )


_samples = cache(samples)  # one call shared by the frameworks: their cases are twins

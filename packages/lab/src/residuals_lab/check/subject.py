"""The subject of a check: a function in a framework, at its arguments, and everything that a rule asks about it.

Each result is made once, when a rule first asks for it. Numbers are NumPy arrays; the function itself gets fresh arrays
of its framework for every run, in float64 if it can compute in that, so that no run can spoil another.
"""

import contextlib
import io
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from residuals_lab.audit import Audit, audit
from residuals_lab.check.truth import FLOAT64, Along, Differences, Gradients, Truth, directions, pair
from residuals_lab.frameworks.calls import Array, Calls, Function, Returned, Setting
from residuals_lab.frameworks.protocol import Framework
from residuals_lab.ops.tolerance import FLOAT64_LIMIT, ULP, error
from residuals_lab.targets.calls import Marked
from residuals_lab.trace import Input

Numbers = Sequence[np.ndarray]
NOISE = 1e-5  # a gradient that is smaller than the others by this may be rounding: that of a bias before a batch norm
Grads = Sequence[np.ndarray | None]


PLAIN = "the function has no rule of its own: this is the framework's affair"


class Raised(Exception):
    """Somebody's function, or a framework on its behalf, raised `problem`."""

    def __init__(self, problem: BaseException) -> None:
        super().__init__(said(problem))
        self.problem = problem


class _Heard(io.StringIO):
    """What somebody's code prints; it may close the stream, and prints again in the next run."""

    def close(self) -> None:
        pass


class NotRun(Exception):
    """A rule has nothing to say about this subject, for a reason that is worth telling."""


def said(problem: BaseException) -> str:
    """An exception in one line, or its type alone where its own class cannot tell its words."""
    text = ""
    with contextlib.suppress(Exception):
        text = " ".join(str(problem).split())
    return f"{type(problem).__name__}: {text[:240]}" if text else type(problem).__name__


class Ran(NamedTuple):
    """One forward and one backward."""

    outs: list[np.ndarray]
    grads: list[np.ndarray | None]
    out_dtypes: list[str]
    grad_dtypes: list[str | None]


class Wrong(NamedTuple):
    """The first number of a gradient, or of a value, that is not as expected."""

    name: str  # of the argument, or of the output
    where: str  # "x[0, 3]"
    expected: float | complex
    got: float | complex
    there: float | None = None  # what the argument itself is there

    @property
    def is_expected(self) -> str:
        return f"{self.where} = {number(self.expected, self._digits)}"

    @property
    def is_got(self) -> str:
        return f"{self.where} = {number(self.got, self._digits)}"

    @property
    def _digits(self) -> int:
        """As many as are worth reading, or else as many as tell the two apart."""
        return next((n for n in range(6, 17) if number(self.expected, n) != number(self.got, n)), 6)


def number(a: complex, digits: int = 6) -> str:
    """A number in so many digits."""
    a = complex(a)
    return f"{a.real:.{digits}g}" if not a.imag else f"{a.real:.{digits}g}{a.imag:+.{digits}g}j"


@dataclass(frozen=True)
class Reference:
    """What somebody says is right, as functions of the arrays of a call."""

    title: str = ""
    fn: Function | None = None  # in the framework
    in_numpy: Callable[..., Any] | None = None  # of NumPy arrays
    vjp: Callable[..., Any] | None = None  # (arrays, cotangents) → gradients of the differentiated arrays


@dataclass
class Subject:
    """A function of arrays in a framework, and its arguments."""

    adapter: Framework
    calls: Calls
    fn: Function
    inputs: Sequence[Input]
    original: tuple[Any, Sequence[Any], Mapping[str, Any]]  # the function, its arguments and keyword arguments
    reference: Reference = Reference()
    names: Sequence[str] | None = None
    new_bytes: int | None = None
    require: Sequence[str] = ()  # ways to use the function that it may not refuse
    seed: int = 0
    is_quick: bool = False
    numbers: list[np.ndarray] = field(default_factory=list)
    dtype: str = "float64"  # of what is computed
    notes: list[str] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)
    refusals: dict[str, list[str]] = field(default_factory=dict)  # reason → what the function openly refuses

    def __post_init__(self) -> None:
        if not self.numbers:
            with self.adapter.precision("float64"):
                self.numbers = [self.calls.to_numpy(a.array) for a in self.inputs]

    # The arguments.

    @cached_property
    def wrt(self) -> list[int]:
        """The places of the arguments that are differentiated."""
        return [i for i, a in enumerate(self.inputs) if a.role != "frozen" and self.calls.is_differentiable(a.array)]

    @cached_property
    def templates(self) -> list[Array]:
        """The arguments in the dtype of the computation, for their kinds alone."""
        with self.adapter.precision("float64"):
            return [self.calls.cast(a.array, self.dtype) for a in self.inputs]

    def at(self, numbers: Sequence[np.ndarray], dtype: str | None = None) -> "Subject":
        """The same function at other numbers, of other shapes too."""
        made = replace(self, numbers=list(numbers), dtype=dtype or self.dtype)
        made.notes, made.printed = self.notes, self.printed
        if "rounded" in self.__dict__:
            made.__dict__["rounded"] = self.rounded  # which few numbers cannot tell
        return made

    def with_fn(self, fn: Function) -> "Subject":
        """Another function at the same arguments."""
        return replace(self, fn=fn, numbers=list(self.numbers))

    def name(self, place: int) -> str:
        """The name of a differentiated argument."""
        return self.inputs[self.wrt[place]].name

    def fresh(self, numbers: Numbers | None = None) -> list[Array]:
        """New arrays of the framework."""
        with self.adapter.precision(self.dtype):
            return [self.calls.like(t, n) for t, n in zip(self.templates, numbers or self.numbers, strict=True)]

    def rng(self, salt: int = 0) -> np.random.Generator:
        """A generator for the check's own numbers."""
        return np.random.default_rng([self.seed, salt])

    # Runs.

    @contextmanager
    def guarded(self, seed: int = 0) -> Iterator[None]:
        """Around somebody's code: what it raises becomes `Raised`, what it prints is kept, and random states are put
        back.
        """
        # Python's and NumPy's global states: they are what somebody's code may draw from, so they are what is put back.
        states, out = (random.getstate(), np.random.get_state()), _Heard()  # noqa: NPY002
        settings = self.calls.settings()
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            with (
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(out),
                warnings.catch_warnings(),
                self.adapter.precision(self.dtype),
                self.calls.seeded(seed),
            ):
                warnings.simplefilter("ignore")
                yield
        except (KeyboardInterrupt, NotRun, Raised):
            raise
        except BaseException as problem:  # SystemExit too: the function is not ours
            raise Raised(problem) from problem
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            self._put_back(settings)
            if text := out.getvalue():
                self.printed.append(text)

    def _put_back(self, before: Mapping[str, Setting]) -> None:
        """The framework's settings as they were before somebody's code."""
        for name, now in self.calls.settings().items():
            if name in before and now.value != before[name].value:
                now.put(before[name].value)
                self.notes.append(f"the function changes {name} from {before[name].value} to {now.value}; that is "
                                  "put back here, and nowhere else")  # fmt: skip

    def values(self, numbers: Numbers | None = None, seed: int = 0) -> list[np.ndarray]:
        """The outputs of a forward alone."""
        with self.guarded(seed):
            return [self.calls.to_numpy(y) for y in self.calls.forward(self.fn, self.fresh(numbers))]

    def run(
        self,
        gs: Sequence[np.ndarray | None] | None = None,
        *,
        wrt: Sequence[int] | None = None,
        arrays: Sequence[Array] | None = None,
        cotangents: Sequence[Array | None] | None = None,
        seed: int = 0,
    ) -> Ran:
        """One forward and one backward: at the subject's numbers unless `arrays` are given, with its own cotangents
        unless there are others, as numbers or as arrays.
        """
        gs = self.gs if gs is None and cotangents is None else gs
        with self.guarded(seed):
            given = self.fresh() if arrays is None else arrays
            outs, pull = self.calls.vjp(self.fn, given, self.wrt if wrt is None else wrt)
            return self.ran(outs, pull(self.cotangents(outs, gs or ()) if cotangents is None else cotangents))

    def ran(self, outs: Sequence[Array], grads: Sequence[Array | None]) -> Ran:
        """What outputs and gradients are in numbers."""
        to_numpy, dtype_of = self.calls.to_numpy, self.adapter.dtype_of
        return Ran(
            [to_numpy(y) for y in outs],
            [None if d is None else to_numpy(d) for d in grads],
            [dtype_of(y) for y in outs],
            [None if d is None else dtype_of(d) for d in grads],
        )

    def cotangents(self, outs: Sequence[Array], gs: Sequence[np.ndarray | None]) -> list[Array | None]:
        """Cotangents of the outputs' kinds."""
        return [None if g is None else self.calls.like(y, g) for y, g in zip(outs, gs, strict=True)]

    # What a rule mostly starts from.

    @cached_property
    def outs(self) -> list[np.ndarray]:
        """The outputs of a forward alone, at the subject's numbers."""
        return self.values()

    @cached_property
    def is_random(self) -> bool:
        """Whether the outputs depend on the state of a global generator."""
        return not same(self.values(seed=1), self.values(seed=2))

    @cached_property
    def gs(self) -> list[np.ndarray]:
        """Random cotangents, zero where an output has a kink right here, and for outputs that have no gradient."""
        return [
            np.where(ok & is_out, g, 0)
            for ok, is_out, g in zip(self.is_smooth, self.has_gradient, self.noise(self.outs, 1), strict=True)
        ]

    @cached_property
    def has_gradient(self) -> list[bool]:
        """For each output whether it has a gradient, as far as the function says."""
        with self.guarded():
            return self.calls.differentiable_outputs(self.fn, self.fresh(), self.wrt)

    def noise(self, like: Sequence[np.ndarray], salt: int) -> list[np.ndarray]:
        """Random numbers of these shapes."""
        rng = self.rng(salt)
        found = [rng.standard_normal(np.shape(y)) for y in like]
        return [
            a + 1j * rng.standard_normal(a.shape) if np.iscomplexobj(y) else a for a, y in zip(found, like, strict=True)
        ]

    @cached_property
    def base(self) -> Ran:
        """The forward and backward that others are compared with."""
        return self.run()

    @cached_property
    def returned(self) -> list[Returned]:
        """What the rules inside return from their backwards."""
        with self.guarded():
            return self.calls.returned(self.fn, self.fresh(), self.wrt)

    @property
    def tolerance(self) -> float:
        """How far two runs that should be equal may be apart."""
        return FLOAT64_LIMIT if max(self._eps, self.rounded) < 1e-12 else 200 * max(self._eps, self.rounded)

    @cached_property
    def rounded(self) -> float:
        """The rounding of float32 where all gradients have its digits only: then they were computed in it."""
        try:
            grads = [d for d in self.run(self.noise(self.outs, 1)).grads if d is not None]
        except Raised:
            return 0.0
        real = np.concatenate([np.ravel(d.view(np.float64)) for d in grads] or [np.zeros(0)])
        real = real[np.isfinite(real) & (real != 0)]
        with np.errstate(over="ignore", under="ignore"):
            return ULP["float32"] if real.size > 3 and np.array_equal(real, real.astype(np.float32)) else 0.0

    # The truth.

    @cached_property
    def truth(self) -> Truth:
        reference, dtype = self.reference, self.dtype
        if reference.vjp is not None:
            return Gradients("the given vjp_reference", self._by_vjp, self.calls.CONJUGATES, self.loose)
        if reference.fn is not None:
            title = f"autodiff of {reference.title} in {dtype}"
            return Gradients(title, self._by_reference, self.calls.CONJUGATES, self.loose)
        return self._differences

    @property
    def loose(self) -> float:
        return 1e-8 if self._eps < 1e-12 else 4 * self._eps**0.7

    @property
    def _eps(self) -> float:
        return max(self._differences.eps, ULP.get(self.dtype, ULP["float32"]))

    def _by_vjp(self, gs: Numbers) -> list[np.ndarray]:
        assert self.reference.vjp is not None
        with self.guarded():
            outs = self.calls.forward(self.fn, self.fresh())
            found = self.reference.vjp(self.fresh(), self.cotangents(outs, gs))
            return [np.asarray(d if isinstance(d, np.ndarray) else self.calls.to_numpy(d)) for d in found]

    def _by_reference(self, gs: Numbers) -> list[np.ndarray]:
        assert self.reference.fn is not None
        grads = self.with_fn(self.reference.fn).run(gs).grads
        return [np.zeros_like(self.numbers[i]) if d is None else d for i, d in zip(self.wrt, grads, strict=True)]

    @cached_property
    def _differences(self) -> Differences:
        forward: Callable[[list[np.ndarray]], list[np.ndarray]] = self.values
        title = f"central differences in {self.dtype}"
        if self.reference.in_numpy is not None:
            forward, title = self.numpy_values, f"central differences of {self.reference.title} in NumPy"
        made = Differences(title, forward, self.numbers, self.wrt, self.calls.CONJUGATES, ULP.get(self.dtype, 2**-23))
        if made.eps < 1e-12 and made.is_stiff([(place, vs[0]) for place, vs in enumerate(self.directions)]):
            title += ", of a function that computes in less inside"
            made = Differences(title, forward, self.numbers, self.wrt, self.calls.CONJUGATES, ULP["float32"])
        return made

    def numpy_values(self, numbers: Sequence[np.ndarray]) -> list[np.ndarray]:
        assert self.reference.in_numpy is not None
        found = self.reference.in_numpy(*numbers)
        several = found if isinstance(found, (tuple, list)) else [found]
        return [np.asarray(y) for y in several if np.asarray(y).dtype.kind in "fc"]

    @cached_property
    def directions(self) -> list[list[np.ndarray]]:
        """Random directions in each differentiated argument."""
        rng = self.rng(2)
        return [directions(rng, self.numbers[i], 2 if self.is_quick else 3) for i in self.wrt]

    @cached_property
    def is_smooth(self) -> list[np.ndarray]:
        """Where each output has a derivative, as far as differences tell; all of it where a reference is the truth."""
        if not isinstance(self.truth, Differences):
            return [np.ones(np.shape(y), bool) for y in self.outs]
        return self._smooth_by(self.truth)

    @property
    def is_smooth_everywhere(self) -> bool:
        """Whether all outputs have a derivative, as far as differences of the function itself tell."""
        return all(np.all(ok) for ok in self._smooth_by(self._differences))

    def _smooth_by(self, differences: Differences) -> list[np.ndarray]:
        found = [np.isfinite(y) for y in self.outs]
        for place, vs in enumerate(self.directions):
            for v in vs:
                found = [a & b for a, b in zip(found, differences.change(place, v).is_smooth, strict=True)]
        return found

    @property
    def has_truth(self) -> bool:
        """Whether any output has a derivative here."""
        return any(np.any(ok) for ok in self.is_smooth)

    def along(self, grads: Grads, gs: Numbers) -> Iterator[tuple[int, float, Along]]:
        """For each differentiated argument and direction: its place, what the gradient says, and what is true."""
        for place, vs in enumerate(self.directions):
            for v in vs:
                d = grads[place]
                got = 0.0 if d is None or np.shape(d) != v.shape else pair(d, v, self.calls.CONJUGATES)
                value, allowed = self.truth.along(place, v, gs)
                size = 0.0 if d is None or np.shape(d) != v.shape else float(np.nansum(np.abs(d * v)))
                yield place, got, Along(value, allowed + 100 * self.rounded * size)

    def first_wrong(self, grads: Grads, gs: Numbers) -> Wrong | None:
        """The first argument whose gradient is not the true one, and a number of it."""
        directions = (v for vs in self.directions for v in vs)
        for (place, got, true), v in zip(self.along(grads, gs), directions, strict=True):
            if not abs(got - true.value) <= true.allowed:
                found = self.number(place, grads, gs) or self._narrowed(place, v, grads, gs)
                where = f"{self.name(place)}, along a random direction,"
                return found or Wrong(self.name(place), where, true.value, got)
        return None

    def _narrowed(self, place: int, v: np.ndarray, grads: Grads, gs: Numbers) -> Wrong | None:
        """A number of a gradient that is wrong along a direction: that one half of it is, and of that one half."""
        at, d = np.flatnonzero(v), grads[place]
        while at.size > 1:
            for half in (at[: at.size // 2], at[at.size // 2 :]):
                part = np.zeros_like(v)
                part.flat[half] = v.flat[half]
                got, true = (
                    0.0 if d is None else pair(d, part, self.calls.CONJUGATES),
                    self.truth.along(place, part, gs),
                )
                if not abs(got - true.value) <= true.allowed + 100 * self.rounded * abs(got):
                    at = half
                    break
            else:
                return None
        return self._at(place, int(at[0]), grads, gs) if at.size else None

    def _at(self, place: int, at: int, grads: Grads, gs: Numbers) -> Wrong | None:
        """One number of a gradient, if it is wrong."""
        x, d = self.numbers[self.wrt[place]], grads[place]
        v = np.zeros(x.shape, x.dtype)
        v.flat[at] = 1
        true = self.truth.along(place, v, gs)
        got = 0.0 if d is None else float(np.real(d.flat[at]))
        if not abs(got - true.value) <= true.allowed + 100 * self.rounded * abs(got):
            there = None if np.iscomplexobj(x) else float(x.flat[at])
            return Wrong(self.name(place), place_of(self.name(place), x.shape, at), true.value, got, there)
        return None

    def number(self, place: int, grads: Grads, gs: Numbers) -> Wrong | None:
        """The first of some numbers of a gradient that is wrong."""
        return next((w for at in self._some(place) if (w := self._at(place, at, grads, gs))), None)

    def _some(self, place: int) -> list[int]:
        """The places of some numbers of an argument."""
        size = self.numbers[self.wrt[place]].size
        return [int(at) for at in np.unique(np.linspace(0, size - 1, min(size, 48)).astype(int))] if size else []

    def how_often(self, wrong: Wrong) -> str:
        """How many of some numbers of an argument's gradient are wrong, and what the argument is where one is."""
        place = next(p for p in range(len(self.wrt)) if self.name(p) == wrong.name)
        some = self._some(place)
        count = sum(self._at(place, at, self.base.grads, self.gs) is not None for at in some)
        where = "" if wrong.there is None else f", where {wrong.where} itself is {number(wrong.there)}"
        return f"{where}; of {len(some)} numbers looked at, {count} {'is' if count == 1 else 'are'} wrong"

    @cached_property
    def wrong(self) -> Wrong | None:
        """What is wrong with the gradient at the subject's numbers and cotangents."""
        return self.first_wrong(self.base.grads, self.gs)

    def first_apart(
        self, grads: Grads, others: Grads, names: Sequence[str] | None = None, beside: Grads = ()
    ) -> Wrong | None:
        """The first number in which gradients, or values, differ from those expected.

        The size of those `beside` them tells what is rounding where all of them should be 0: an even cotangent of a
        normalisation gives such.
        """
        names = names or [self.name(place) for place in range(len(grads))]
        return apart(grads, others, names, self.tolerance, beside)

    # The second derivative, and what is kept.

    @cached_property
    def second(self) -> "Second":
        """The second derivative, beside differences of the first; NotRun where the function refuses one."""
        if self.is_random:
            raise NotRun("the function draws random numbers")
        if any(np.iscomplexobj(a) for a in (*self.outs, *(self.numbers[i] for i in self.wrt))):
            raise NotRun("second derivatives of complex numbers are not looked at")
        us = self.noise([self.numbers[i] for i in self.wrt], 6)
        try:
            with self.guarded():
                arrays = self.fresh()
                gs = self.cotangents(self.calls.forward(self.fn, arrays), self.gs)
                made = [self.calls.like(arrays[i], u) for i, u in zip(self.wrt, us, strict=True)]
                grads, d_gs = self.calls.second(self.fn, arrays, self.wrt, gs, made)
                found, by_gs = ([None if d is None else self.calls.to_numpy(d) for d in ds] for ds in (grads, d_gs))
        except Raised as problem:
            if "NoneType" in str(problem):  # a cotangent of None that the backward does not expect is no refusal
                raise
            why = self.calls.refuses(problem.problem) or str(problem)
            self.notes.append(f"second derivative: refused, {why}")
            raise NotRun(f"the second derivative is refused: {why}") from problem

        def first(numbers: list[np.ndarray]) -> list[np.ndarray]:
            grads = self.at(numbers).run(self.gs).grads
            return [np.zeros_like(numbers[i]) if d is None else d for i, d in zip(self.wrt, grads, strict=True)]

        eps = self._eps if isinstance(self.truth, Differences) else ULP.get(self.dtype, ULP["float32"])
        differences = Differences("differences", first, self.numbers, self.wrt, self.calls.CONJUGATES, eps)
        return Second(found, us, self.directions, differences, self._by_cotangents(by_gs, us))

    def _by_cotangents(self, found: Grads, us: Numbers) -> list[tuple[int, float, Along]]:
        """For each output the derivative of Σ u·gradient with respect to its cotangent, along a random one: what was
        found, and what is true. A gradient is linear in its cotangent, so this is Σ u·gradient of the random one.
        """
        made = list[tuple[int, float, Along]]()
        if self.reference.vjp is not None:  # it need not be linear: a clipped gradient is not
            return made
        for k, v in enumerate(self.noise(self.outs, 8)):
            if not self.has_gradient[k]:
                continue
            v = np.where(self.is_smooth[k], v, 0)
            grads = self.run([v if i == k else np.zeros_like(y) for i, y in enumerate(self.outs)]).grads
            parts = [np.zeros(0) if d is None else np.ravel(d * u) for d, u in zip(grads, us, strict=True)]
            parts = [a[np.isfinite(a)] for a in parts]
            true, size = (float(sum(f(a) for a in parts)) for f in (np.sum, lambda a: np.sum(np.abs(a))))
            d, tolerance = found[k], max(FLOAT64, self.loose, 100 * self.rounded)
            got = 0.0 if d is None else pair(d, v, self.calls.CONJUGATES)
            made.append((k, got, Along(true, tolerance * size + 1e-30)))
        return made

    def refused(self, what: str, problem: Raised) -> None:
        """Note that the function does not run under something."""
        if why := self.calls.refuses(problem.problem):
            self.refusals.setdefault(why, []).append(what)
        else:
            self.notes.append(f"under {what} it does not run: {problem}")

    def functional(self, batch: int = 0) -> Ran:
        """By the framework's function transformation; under `vmap`, over so many copies of the numbers, if there is a
        batch.
        """
        with self.guarded():
            arrays = self.fresh()
            outs = self.calls.forward(self.fn, arrays)
            if not batch:
                gs = self.cotangents(outs, self.gs)
                return self.ran(*self.calls.functional_vjp(self.fn, arrays, self.wrt, gs))
            stacked = [np.stack([n] * batch) if i in self.wrt else n for i, n in enumerate(self.numbers)]
            gs = self.cotangents(outs, [np.stack([g] * batch) for g in self.gs])
            axes = [0 if i in self.wrt else None for i in range(len(stacked))]
            return self.ran(*self.calls.batched_vjp(self.fn, self.fresh(stacked), self.wrt, gs, axes))

    @cached_property
    def has_rule(self) -> bool:
        """Whether the function has a custom rule in it."""
        with self.guarded():
            return self.calls.has_rule(self.fn, self.fresh(), self.wrt)

    @cached_property
    def audited(self) -> Audit:
        """The audit of the function at the arguments as they were given."""
        fn, args, kwargs = self.original
        before, self.dtype = self.dtype, "float32"  # so that nothing is computed wider than it was given
        try:
            return self._audit(fn, *args, **kwargs)
        finally:
            self.dtype = before

    def audit_at(self, numbers: Numbers) -> Audit:
        """The audit at other numbers, of other sizes too."""
        arrays = [
            a.requires_grad_() if i in self.wrt and hasattr(a, "requires_grad_") else a
            for i, a in enumerate(self.fresh(numbers))
        ]
        return self._audit(self.fn, *(Marked(a, given.role) for a, given in zip(arrays, self.inputs, strict=True)))

    def _audit(self, fn: Any, *args: Any, **kwargs: Any) -> Audit:
        how: dict[str, Any] = {"framework": self.adapter.NAME, "name": "the function"}
        with self.guarded():
            try:
                return audit(fn, *args, **how, **kwargs)
            except Exception:  # of any kind: what cannot be traced on shapes alone is run
                return audit(fn, *args, is_concrete=True, **how, **kwargs)


@dataclass
class Second:
    """The gradients of Σ u·gradient, beside differences of the gradient."""

    grads: list[np.ndarray | None]
    us: list[np.ndarray]
    directions: list[list[np.ndarray]]
    differences: Differences
    by_cotangents: list[tuple[int, float, Along]]  # place of an output, what was found and what is true

    def along(self) -> Iterator[tuple[int, float, Along]]:
        """For each argument and direction: its place, what was found, and what is true where there is a derivative."""
        for place, vs in enumerate(self.directions):
            for v in vs[:2]:
                ok = self.differences.change(place, v).is_smooth
                if all(a.all() for a in ok):
                    d = self.grads[place]
                    got = 0.0 if d is None else pair(d, v, self.differences.conjugates)
                    yield place, got, self.differences.along(place, v, self.us)


def apart(found: Grads, expected: Grads, names: Sequence[str], tolerance: float, beside: Grads = ()) -> Wrong | None:
    """The first number in which arrays differ from those expected; None counts as zeros."""
    sizes = [np.abs(a[np.isfinite(a)]).max(initial=0) for a in (*expected, *beside) if a is not None]
    floor = NOISE * max(sizes, default=0.0)
    for name, got, true in zip(names, found, expected, strict=True):
        if got is None and true is None:
            continue
        a = np.zeros_like(true) if got is None else np.asarray(got)
        b = np.zeros_like(a) if true is None else np.asarray(true)
        if a.shape != b.shape:
            return Wrong(name, f"the size of {name}", b.size, a.size)
        is_apart = error(a, b) > tolerance
        with np.errstate(invalid="ignore"):
            is_noise = (
                np.isfinite(a).all() and np.isfinite(b).all() and np.abs(a - b).max(initial=0) <= tolerance * floor
            )
        if is_apart and not is_noise:
            with np.errstate(invalid="ignore"):
                gap = np.where(np.isfinite(a) & np.isfinite(b), np.abs(a - b), np.where(a == b, 0, np.inf))
            gap = np.where(np.isnan(a) & np.isnan(b), 0, gap)
            at = int(np.argmax(gap.ravel() > max(tolerance * np.max(np.abs(b), initial=0, where=np.isfinite(b)), 0)))
            return Wrong(name, place_of(name, a.shape, at), b.flat[at], a.flat[at])
    return None


def same(found: Grads, expected: Grads) -> bool:
    """Whether arrays are bitwise equal."""
    return all(
        (a is None) == (b is None) and (a is None or np.array_equal(a, np.asarray(b), equal_nan=a.dtype.kind in "fc"))
        for a, b in zip(found, expected, strict=True)
    )


def place_of(name: str, shape: tuple[int, ...], at: int) -> str:
    """`x[0, 3]`, or the name alone for a single number."""
    index = np.unravel_index(at, shape) if shape else ()
    return f"{name}[{', '.join(map(str, index))}]" if index else name

"""What the check asks of a framework beside its adapter: a call of somebody's function, in all the ways of calling
it. `jax/calls.py` and `torch/calls.py` have these names.

A function here takes arrays and gives anything; only its results of floating or complex numbers, its *outputs*, count.
Numbers come and go as NumPy arrays in float64 or complex128, whatever the dtype of the framework's own array.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

if TYPE_CHECKING:
    import numpy as np

Array = Any  # of the framework
Function = Callable[..., Any]  # of arrays
Pull = Callable[[Sequence[Array | None]], list[Array | None]]  # cotangents, one an output → gradients


class Setting(NamedTuple):
    """A global setting of a framework."""

    value: Any
    put: Callable[[Any], None]  # sets another value


class Returned(NamedTuple):
    """A gradient as a rule's own backward returned it, before the framework made it fit."""

    rule: str  # the name of the class or function
    position: int  # among the rule's arguments
    shape: tuple[int, ...]
    dtype: str
    expected_shape: tuple[int, ...]
    expected_dtype: str


class Calls(Protocol):
    """One framework, as the check sees it."""

    CONJUGATES: bool  # whether a cotangent is paired with a change as conj(g)·v, and not as g·v
    LAYOUTS: Mapping[str, Callable[[Array], Array | None]]  # an array of other strides; None where there is none
    TRANSFORMS: Mapping[str, Callable[[Function], Function]]  # such as `jit`: the same function, run otherwise
    PARTIAL: tuple[str, ...]  # those under which the function sees a part of the arrays, so that its value may differ
    QUICK: tuple[str, ...]  # those of them that take no seconds
    CONSTANT_RESIDUALS: bool  # whether what a rule computes and saves is a constant to the second derivative
    under_autocast: Callable[[Function], Function] | None  # None where there is no autocast
    # The gradients where every output's cotangent is None though the backward runs; None where there is no such case.
    without_cotangents: "Callable[[Function, Sequence[Array], Sequence[int]], list[Array | None]] | None"
    FUNCTIONAL: bool  # whether `functional_vjp` is another way than `vjp`

    def parts(self, fn: Any) -> tuple[Function, Any]:
        """A module as a function of its parameters and its arguments, and these parameters; others as (fn, None)."""

    def is_differentiable(self, a: Array) -> bool:
        """Whether a gradient with respect to this array is asked for."""

    def is_inexact(self, a: Array) -> bool:
        """Whether this is an array of floating or complex numbers."""

    def to_numpy(self, a: Array) -> "np.ndarray":
        """The numbers of any array."""

    def like(self, a: Array, values: "np.ndarray") -> Array:
        """A new array of these numbers, with the dtype of `a`."""

    def share_memory(self, a: Array, b: Array) -> bool:
        """Whether two arrays are in the same memory."""

    def cast(self, a: Array, dtype: str) -> Array:
        """The array in another precision, complex if it is complex."""

    def forward(self, fn: Function, arrays: Sequence[Array]) -> list[Array]:
        """The outputs, where nothing is differentiated."""

    def differentiable_outputs(self, fn: Function, arrays: Sequence[Array], wrt: Sequence[int]) -> list[bool]:
        """For each output whether it has a gradient. Code may say that one has none: `ctx.mark_non_differentiable`,
        `jax.lax.stop_gradient`.
        """

    def vjp(self, fn: Function, arrays: Sequence[Array], wrt: Sequence[int]) -> tuple[list[Array], Pull]:
        """The outputs, and the backward with respect to the arrays at the places `wrt`.

        A cotangent of None says that the output is not used. A gradient of None says that the framework gives none.
        """

    def functional_vjp(
        self, fn: Function, arrays: Sequence[Array], wrt: Sequence[int], gs: Sequence[Array]
    ) -> tuple[list[Array], list[Array]]:
        """Outputs and gradients by the framework's function transformation, such as `torch.func.vjp`."""

    def batched_vjp(
        self,
        fn: Function,
        arrays: Sequence[Array],
        wrt: Sequence[int],
        gs: Sequence[Array],
        axes: Sequence[int | None],
    ) -> tuple[list[Array], list[Array]]:
        """The same under `vmap`: `axes` are those of the batch in `arrays`, and all else has it first."""

    def second(
        self, fn: Function, arrays: Sequence[Array], wrt: Sequence[int], gs: Sequence[Array], us: Sequence[Array]
    ) -> tuple[list[Array | None], list[Array | None]]:
        """The gradients of Σ u·gradient with respect to arrays and cotangents, each None if there is none."""

    def seeded(self, seed: int) -> AbstractContextManager[Any]:
        """A context with the framework's global generator in a known state, and afterwards as it was before."""

    def settings(self) -> "Mapping[str, Setting]":
        """The framework's global settings that somebody's code may change, by name."""

    def random_state(self) -> bytes:
        """The state of the framework's global generator."""

    def returned(self, fn: Function, arrays: Sequence[Array], wrt: Sequence[int]) -> list[Returned]:
        """What the rules that `fn` calls return from their backwards, where the framework makes it fit by itself."""

    def gradient_dtypes(self, fn: Function, arrays: Sequence[Array], wrt: Sequence[int]) -> list[str | None]:
        """The dtypes of the gradients, None where there is none."""

    def has_rule(self, fn: Function, arrays: Sequence[Array], wrt: Sequence[int]) -> bool:
        """Whether `fn` calls a custom rule, and is not differentiated by the framework alone."""

    def leaks(self, fn: Function, arrays: Sequence[Array], wrt: Sequence[int]) -> str:
        """The name of a rule whose node outlives its results, in a cycle of references; "" if there is none."""

    def refuses(self, problem: BaseException) -> str:
        """Why a rule openly does not support what was tried, with what to do about it; "" if it is no such refusal."""


def load(name: str) -> Calls:
    """The calls of a framework that is installed."""
    return cast(Calls, importlib.import_module(f"residuals_lab.frameworks.{name}.calls"))

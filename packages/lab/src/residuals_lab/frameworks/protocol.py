"""What the lab asks of a framework: the names that every adapter has, documented here once.

An adapter is a module. The arrays that it takes and gives are those of its framework.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from residuals_lab.frameworks.compiled import Compiled, Subject
from residuals_lab.frameworks.program import Program
from residuals_lab.frameworks.sites import Record
from residuals_lab.trace import Input, Role, Trace

if TYPE_CHECKING:
    import numpy as np

Array = Any  # of the framework
Function = Callable[..., Any]  # of arrays


class Framework(Protocol):
    """One framework, as its adapter shows it."""

    NAME: str  # "jax"
    TITLE: str  # with its version
    DTYPES: tuple[str, ...]  # those that the ops are tested in, the widest first
    OWN: dict[str, tuple[str, Function]]  # op → the framework's own op: its name, and a function of our op's arguments

    # The ops package.

    def op(self, name: str) -> ModuleType:
        """The op's module, with `Residuals`, `RECOMPUTES`, `fwd` and `bwd`."""

    def public(self, name: str) -> Function:
        """The op as its users call it."""

    def likes(self, *arrays: Array | None) -> Any:
        """What a `bwd` is told of its op's arrays, by which it makes gradients of arrays that it was not given."""

    # Arrays.

    def devices(self) -> tuple[str, ...]:
        """The kinds of device at hand, of "cpu" and "gpu"."""

    def placed(self, device: str) -> AbstractContextManager[Any]:
        """A context in which arrays are made on "cpu" or "gpu", where nobody says otherwise."""

    def precision(self, dtype: str) -> AbstractContextManager[Any]:
        """A context in which arrays of this dtype can be made and used."""

    def array(self, a: "np.ndarray", dtype: str | None = None, device: str = "cpu") -> Array:
        """A differentiable array on `device`, in `dtype` or `a`'s own."""

    def constant(self, a: "np.ndarray", device: str = "cpu") -> Array:
        """An array that is never differentiated, in `a`'s own dtype, to be used beside arrays on `device`."""

    def to_numpy(self, a: Array) -> "np.ndarray":
        """Any array in float64, a complex one in complex128."""

    def is_floating(self, a: Any) -> bool:
        """Whether this is one array of real floating numbers."""

    def dtype_of(self, a: Array) -> str:
        """The name of an array's dtype, "float32"."""

    def shaped(self, shape: tuple[int, ...], dtype: str) -> Array:
        """An array without numbers, for `trace`. The dtype "key" is a key of a random generator."""

    def random_like(self, a: Array) -> Array:
        """Random numbers in place of an array without any; zeros in place of integers."""

    # Trees of arrays.

    def arrays_in(self, tree: Any) -> tuple[dict[str, Array], Callable[[Sequence[Array]], Any]]:
        """The arrays in a tree by their paths, such as `['w']`, and a function that puts others in their places.

        What is not an array stays as it is.
        """

    def frozen(self, tree: Any) -> Any:
        """The tree with arrays that are not differentiated."""

    # Arrays that a function brings along.

    def carried(self, fn: Function, args: Sequence[Array]) -> list[Input]:
        """The parameters and buffers of the modules that run in `fn(*args)`; none in JAX, where they are arguments."""

    def cast(self, arrays: Sequence[Array], dtype: str, device: str) -> AbstractContextManager[None]:
        """A context in which carried arrays of floating numbers are of this dtype and on this device, and after which
        they are as they were; in JAX they stay, since operations bring them to the dtype of an argument.
        """

    # Derivatives.

    def value_and_vjp(self, fn: Function, args: Sequence[Array], g: Array) -> tuple[Array, tuple[Array, ...]]:
        """`fn(*args)`, and its gradients for the cotangent `g`."""

    def vjp(self, fn: Function, args: Sequence[Array]) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
        """`fn(*args)`, and the backward of this call: the gradients for a cotangent."""

    def second_vjp(self, fn: Function, args: Sequence[Array], g: Array, us: Sequence[Array]) -> tuple[Array, ...]:
        """The VJP of the VJP: the gradients of `Σ u·vjp(fn)(args, g)` with respect to `args` and `g`."""

    def checkpointed(self, fn: Function) -> Function:
        """`fn` with nothing saved but its inputs: the fewest bytes, at the price of running it again."""

    # Rules, in somebody's own code.

    def uncompiled(self) -> AbstractContextManager[Any]:
        """A context in which functions that somebody compiled run as they are written, on arrays of numbers."""

    def rule_of(self, fn: Function, x: Array) -> Any:
        """A custom rule that `fn(x)` calls, in JAX the first, in PyTorch the last; None if there is none."""

    def node_of(self, y: Any) -> Any:
        """The node of the last custom rule in PyTorch's graph of these outputs; None if there is none, as in JAX."""

    # What is saved.

    def trace(
        self,
        fn: Function,
        args: Sequence[Array],
        names: Sequence[str],
        fields: Function | None = None,
        *,
        roles: Sequence[Role] = (),
        around: Mapping[str, Any] = MappingProxyType({}),
        is_abstract: bool = ...,
        with_contents: bool = False,
    ) -> Trace:
        """Record one forward and one backward of `fn`.

        Args:
            fn: a function of arrays only.
            args: its arguments.
            names: the name of each argument.
            fields: a function of the same arguments whose result is a NamedTuple: a residual that has the value of one
                of its fields gets that field's name.
            roles: the role of each argument: "input", "parameter", or "frozen", which is not differentiated though of
                floating numbers. The default is "input" for all.
            around: variables around `fn`: a residual that is one of these arrays gets that variable's name.
            is_abstract: whether to trace shapes and dtypes alone, with nothing computed. Otherwise the forward runs on
                the numbers of `args`, for code whose path depends on them. The default is the form that shows all: in
                JAX True, as a run does not show how arrays are made; in PyTorch False.
            with_contents: whether the trace has the saved arrays themselves too, of a run on the numbers of `args`.
        """

    def record(
        self, fn: Function, args: Sequence[Array], *, roles: Sequence[Role] = (), is_abstract: bool = ...
    ) -> Record:
        """`fn` recorded, so that it can run again with ops in place of some of its steps; arguments as for `trace`."""

    def saved_bytes(self, fn: Function, args: Sequence[Array]) -> int:
        """The bytes that a real run saves between forward and backward, each storage once; measured without `trace`
        where the framework allows that.
        """

    def after_compilation(self, subject: Subject) -> Compiled:
        """What is saved once the framework's compiler has optimised the program."""

    # Time.

    def program(self, fn: Function, args: Sequence[Array], differentiated: Sequence[int], is_compiled: bool) -> Program:
        """`fn` at these arguments, ready to be timed; `differentiated` are the places of those that have gradients."""

    def fused(self) -> AbstractContextManager[None]:
        """A context in which an eager call of our op is one compiled function, where the framework has eager calls."""

    def copier(self, a: Array) -> Callable[[], None]:
        """A copy of an array, to be timed: the memory's speed."""

    def multiplier(self, a: Array) -> Callable[[], None]:
        """The product of a square matrix with itself, to be timed: the speed of matrix products."""

    # Functions of arrays without numbers.

    def abstractly(self) -> AbstractContextManager[None]:
        """A context in which a target and its arguments are made without computing anything, where that needs one."""

    def without_computing(self, make: Callable[[], Any]) -> Any:
        """What `make()` gives, with arrays without numbers in place of its arrays; called `abstractly`."""

    def outline(self, fn: Function, *args: Array) -> Any:
        """`fn(*args)`, or arrays without numbers that have its shapes and dtypes."""

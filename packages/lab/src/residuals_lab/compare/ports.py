"""Two functions that are ports of each other, ready to run on the same numbers."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from residuals_lab import frameworks
from residuals_lab.compare import blamed_on
from residuals_lab.errors import UsageError
from residuals_lab.frameworks.detect import framework_of
from residuals_lab.frameworks.protocol import Framework
from residuals_lab.targets.arguments import Argument
from residuals_lab.targets.calls import argument_names, flattened, loaded, variables_around
from residuals_lab.targets.functions import load_target
from residuals_lab.trace import Input, Trace


class Key(NamedTuple):
    """What an array of one port has in common with that of the other, whatever the two call their arguments."""

    argument: int  # 0 is the function itself, which may be a tree of arrays
    path: str  # in the argument's tree, "['w']"


@dataclass(frozen=True)
class Port:
    """One of the two functions, as a function of arrays alone."""

    name: str
    adapter: Framework
    fn: Callable[..., Any]
    inputs: tuple[Input, ...]
    keys: tuple[Key, ...]
    drawn: tuple[bool, ...]  # whether an input was given as a shape, so that its numbers are drawn
    around: Mapping[str, Any]
    carried: tuple[Input, ...] = ()  # the parameters of the modules that run in it, and the arrays around it

    @property
    def title(self) -> str:
        return f"{self.name} ({self.adapter.TITLE})"


@dataclass(frozen=True)
class Result:
    """What a port computes, in NumPy. Gradients of complex arrays are in PyTorch's convention.

    They are those of Σ weight·result for random weights, one for each array that is differentiated, the parameters that
    the port holds last; `seconds` are those of Σ u·gradient, None for a function that cannot be differentiated twice,
    or was not asked to be.
    """

    values: list[np.ndarray]
    gradients: list[np.ndarray]
    seconds: list[np.ndarray] | None
    weights: list[np.ndarray]
    refusal: str = ""  # why there are no `seconds`, where they were asked for


def load(
    target: str, arguments: Sequence[Argument], framework: str | None, ran: dict[Path, ModuleType] | None = None
) -> Port:
    """The function that a command line names, at arguments that it spells out; `ran` as in `load_target`."""
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the result, not for the file's own output
        ran = {} if ran is None else ran
        fn = load_target(target, ran)
        adapter = frameworks.load(framework or framework_of(fn, target))
        with adapter.precision("float64"):
            fn, args, kwargs = loaded(target, arguments, adapter, True, ran)
            flat, inputs = flattened(adapter, fn, args, kwargs)
    if not inputs:
        raise UsageError(f"{target}: expected arrays to run it on, as --arg 'f32[4,8]', got none")
    names = ["", *argument_names(fn, len(args)), *kwargs]
    keys = tuple(_key(a.name, names) for a in inputs)
    specs = [None, *sorted(arguments, key=_is_named)]
    drawn = tuple(_is_shape(specs[key.argument]) for key in keys)
    return Port(target, adapter, flat, tuple(inputs), keys, drawn, variables_around(fn))


def _key(name: str, arguments: Sequence[str]) -> Key:
    owners = [i for i, a in enumerate(arguments) if name.startswith(a) and name[len(a) : len(a) + 1] in ("", "[", ".")]
    owner = max(owners, key=lambda i: len(arguments[i]))
    return Key(owner, name[len(arguments[owner]) :])


def _is_named(argument: Argument) -> bool:
    return argument.how == "input" or re.match(r"[^\W\d]\w*=", argument.text) is not None


def _is_shape(argument: Argument | None) -> bool:
    return argument is not None and re.fullmatch(r"(\w+=)?\w+\[[\d, ]*\]", argument.text) is not None


def aligned(first: Port, second: Port) -> Port:
    """The second port as a function of arrays in the order of the first's.

    Raises:
        UsageError: if the two do not take the same arrays.
    """
    kinds = [{key: _kind(port, a) for key, a in zip(port.keys, port.inputs, strict=True)} for port in (first, second)]
    if kinds[0] != kinds[1]:
        raise UsageError(f"--beside: expected arrays as {_listed(first)}, got {_listed(second)}")
    order = [first.keys.index(key) for key in second.keys]
    places = [second.keys.index(key) for key in first.keys]
    fn = second.fn
    return replace(
        second,
        fn=lambda *arrays: fn(*(arrays[i] for i in order)),
        inputs=tuple(second.inputs[i] for i in places),
        keys=first.keys,
        drawn=first.drawn,
    )


def _kind(port: Port, a: Input) -> tuple[str, tuple[int, ...]]:
    """What has to be the same on both sides: the shape, and the kind of numbers, but not their precision."""
    dtype = port.adapter.dtype_of(a.array)
    return re.sub(r"\d+$", "", dtype.replace("bfloat", "float")), tuple(a.array.shape)


def _listed(port: Port) -> str:
    arrays = ", ".join(f"{a.name} {_kind(port, a)[0]}{list(a.array.shape)}" for a in port.inputs)
    return f"those of {port.name}: {arrays}"


def with_carried(port: Port) -> Port:
    """The port with what it holds, which one run of its forward shows."""
    adapter = port.adapter
    with adapter.precision("float64"), blamed_on(port.name), contextlib.redirect_stdout(sys.stderr):
        carried = {a.name: a for a in adapter.carried(port.fn, [a.array for a in port.inputs])}
        for name, around in port.around.items():
            if not callable(around) and not isinstance(around, ModuleType):
                found, _ = adapter.arrays_in(around)
                carried |= {name + path: Input(name + path, a, "frozen") for path, a in found.items()}
    taken = {a.name for a in port.inputs}
    return replace(
        port, carried=tuple(a for a in carried.values() if a.name not in taken and is_inexact(adapter, a.array))
    )


def carried_by_both(first: Port, second: Port) -> tuple[list[str], list[str]]:
    """The names of the parameters that both hold in one shape and differentiate, and of all that both hold with other
    numbers.
    """
    others = {a.name: a for a in second.carried}
    pairs = [(a, others[a.name]) for a in first.carried if a.name in others]
    same_shape = [(a, b) for a, b in pairs if tuple(a.array.shape) == tuple(b.array.shape)]
    differentiated = [a.name for a, b in same_shape if a.role == b.role == "parameter"]
    numbers = [(a.name, first.adapter.to_numpy(a.array), second.adapter.to_numpy(b.array)) for a, b in same_shape]
    return differentiated, [name for name, a, b in numbers if not np.array_equal(a, b, equal_nan=True)]


def is_inexact(adapter: Framework, a: Any) -> bool:
    """Whether an array is of real or complex floating numbers."""
    return any(kind in adapter.dtype_of(a) for kind in ("float", "complex"))


def numbers_of(port: Port, seed: int) -> list[Any]:
    """The numbers of its inputs, in NumPy: normal ones where only a shape is given, 0 or 1 where it is one of integers.

    A key of JAX stays what it is.
    """
    rng = np.random.default_rng(seed)
    return [
        a.array
        if "key" in port.adapter.dtype_of(a.array)
        else _numbers(rng, port.adapter.to_numpy(a.array), is_inexact(port.adapter, a.array), is_drawn)
        for a, is_drawn in zip(port.inputs, port.drawn, strict=True)
    ]


def _numbers(rng: np.random.Generator, given: np.ndarray, is_inexact: bool, is_drawn: bool) -> np.ndarray:
    if not is_drawn:
        return given
    return noise(rng, given) if is_inexact else rng.integers(0, 2, given.shape).astype(np.float64)


def noise(rng: np.random.Generator, like: np.ndarray) -> np.ndarray:
    """Normal numbers, complex ones where `like` is complex."""
    real = np.asarray(rng.standard_normal(like.shape))
    return real + 1j * rng.standard_normal(like.shape) if np.iscomplexobj(like) else real


def arrays_in(port: Port, numbers: Sequence[Any], dtype: str, device: str) -> list[Any]:
    """The numbers as arrays of the port's framework: floating ones in `dtype`, others in their own."""
    made = []
    for a, values in zip(port.inputs, numbers, strict=True):
        own = port.adapter.dtype_of(a.array)
        if "key" in own:
            made.append(values)
            continue
        chosen = dtype if "float" in own else _complex(dtype) if "complex" in own else own
        array = port.adapter.array(values, chosen, device)
        made.append(port.adapter.frozen(array) if a.role == "frozen" else array)
    return made


def _complex(dtype: str) -> str:
    return "complex128" if dtype == "float64" else "complex64"


def of_kind(dtype: str, a: np.ndarray) -> str:
    """The dtype, or the complex one of its precision where `a` is complex."""
    return _complex(dtype) if np.iscomplexobj(a) else dtype


def result(
    port: Port,
    numbers: Sequence[Any],
    differentiated: Sequence[int],
    dtype: str,
    device: str,
    seed: int,
    is_twice: bool = False,
    parameters: Sequence[str] = (),
) -> Result:
    """The results of a port; second derivatives among them only if `is_twice`. Of what it holds, `parameters` are
    differentiated.
    """
    adapter, rng = port.adapter, np.random.default_rng(seed + 1)
    with _ready(port, dtype, device):
        arrays = arrays_in(port, numbers, dtype, device)
        carried = {a.name: a.array for a in port.carried}
        some = [*(arrays[i] for i in differentiated), *(carried[name] for name in parameters)]

        def outputs(*given: Any) -> list[Any]:
            chosen = dict(zip(differentiated, given, strict=False))  # the parameters after them are where they are
            found, _ = adapter.arrays_in(port.fn(*(chosen.get(i, a) for i, a in enumerate(arrays))))
            return [y for _, y in sorted(found.items()) if is_inexact(adapter, y)]

        ys = outputs(*some)
        if not ys:
            raise UsageError(f"{port.name}: expected a result of floating numbers, got none")
        values = [adapter.to_numpy(y) for y in ys]
        weights = [noise(rng, y) for y in values]
        scales = [_array(adapter, w, dtype, device) for w in weights]

        def total(ys: Sequence[Any]) -> Any:
            terms = [(y * w).sum() for y, w in zip(ys, scales, strict=True)]
            return sum(term.real if "complex" in adapter.dtype_of(term) else term for term in terms)

        one = adapter.array(np.ones(()), adapter.dtype_of(total(ys)), device)
        us = [noise(rng, adapter.to_numpy(a)) for a in some]

        def loss(*given: Any) -> Any:
            return total(outputs(*given))

        _, found = adapter.value_and_vjp(loss, some, one)
        gradients = [_conventional(adapter, adapter.to_numpy(d)) for d in found]
        seconds, refusal = None, ""
        if is_twice:
            made = [_array(adapter, u, dtype, device) for u in us]
            try:
                twice = adapter.second_vjp(loss, some, one, made)[:-1]  # the last is of `one`
                seconds = [_conventional(adapter, adapter.to_numpy(d)) for d in twice]
            except Exception as problem:  # of any kind: that there are none is told
                refusal = " ".join(f"{type(problem).__name__}: {problem}".partition("\n")[0].split())
    return Result(values, gradients, seconds, weights, refusal)


@contextlib.contextmanager
def _ready(port: Port, dtype: str, device: str) -> Iterator[None]:
    """A context in which a port can run in a dtype on a device: what it holds is there, too."""
    adapter = port.adapter
    carried = [a.array for a in port.carried]
    quiet = contextlib.redirect_stdout(sys.stderr)
    with adapter.precision(dtype), blamed_on(port.name), quiet, adapter.cast(carried, dtype, device):
        yield


def _array(adapter: Framework, a: np.ndarray, dtype: str, device: str) -> Any:
    return adapter.frozen(adapter.array(a, of_kind(dtype, a), device))


def _conventional(adapter: Framework, a: np.ndarray) -> np.ndarray:
    """A gradient in PyTorch's convention: of a complex array, JAX gives the conjugate."""
    return np.conj(a) if adapter.NAME == "jax" and np.iscomplexobj(a) else a


def trace(port: Port, numbers: Sequence[Any], dtype: str, device: str) -> Trace:
    """What a port keeps for its backward, with the numbers in it."""
    with _ready(port, dtype, device):
        found: Trace = port.adapter.trace(
            port.fn,
            arrays_in(port, numbers, dtype, device),
            [a.name for a in port.inputs],
            roles=[a.role for a in port.inputs],
            around=port.around,
            with_contents=True,
        )
        return found

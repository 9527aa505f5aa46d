"""An op's cost in memory: the bytes that it saves for the backward, alone and between two linear layers.

A saved input is alive anyway if its op stands alone, but not inside of a model, where it is the output of another
layer; so an op's cost depends on its neighbours. A linear layer saves its input for its own backward. Between two of
them, a saved output is free, for the second saves it too, and a saved input is paid for, since nobody else keeps it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from residuals_lab.frameworks.protocol import Framework
from residuals_lab.ops import Axes, Op
from residuals_lab.ops.call import Call
from residuals_lab.trace import Trace

FEATURES = 8  # columns of the first layer's input and of the last layer's output, few: neither is counted


class Footprint(NamedTuple):
    """Bytes saved for the backward, each storage once."""

    saved: int  # by the op alone
    new: int  # those of them that nobody else keeps: not an input, a parameter, the output, or a view of one
    chain: int  # new bytes that the op adds to linear → op → linear


def call_of(op: Op, adapter: Framework) -> Call:
    """The call that footprints are given for: every axis is 8, but the last of the first array, which is 1024.

    `...` is two axes. So an array of one number a row, a group or a channel is at most a 64th of the first. An op may
    have other sizes that are typical of it.
    """
    axes: Axes = {letter: (8, 8) if letter == "..." else (8,) for letter in op.letters}
    last = next(iter(op.arrays.values())).split()[-1]
    axes[last] = (*axes[last][:-1], 1024)
    axes |= {letter: (size,) for letter, size in op.sizes.items()}
    return Call.of(op, op.draw(np.random.default_rng(0), axes)).rounded(adapter, "float32")


def measure(call: Call, adapter: Framework, fn: Callable[..., Any], dtype: str = "float32") -> Footprint:
    """The footprint of one of the functions that the call gives."""
    args = [adapter.array(a, dtype, call.device) for a in call.arrays.values()]
    alone = call.trace(adapter, fn, args)
    return Footprint(alone.saved_bytes, alone.new_bytes, chain_trace(call, adapter, fn, dtype).new_bytes)


def chain_trace(call: Call, adapter: Framework, fn: Callable[..., Any], dtype: str = "float32") -> Trace:
    """The trace of linear → op → linear. The op's y is one of its outputs, for the second linear saves it anyway."""
    chain, arrays = chained(call, fn)
    inputs = [adapter.array(a, dtype, call.device) for a in arrays.values()] + call.constants_in(adapter)
    trace: Trace = adapter.trace(chain, inputs, [*arrays, *call.constants])
    return trace


def chained(call: Call, fn: Callable[..., Any]) -> tuple[Callable[..., Any], dict[str, np.ndarray]]:
    """A function of arrays, and these by name: each activation is made by a linear layer of its own from one input, the
    op follows, then another linear layer. An op that returns a scalar ends the chain.

    Activations are the arrays that have the batch axes of the first; the others are parameters, and stay.
    """
    rng = np.random.default_rng(0)
    first, *_ = call.arrays
    batch = call.op.arrays[first].split()[0]
    activations = {name: a for name, a in call.arrays.items() if call.op.arrays[name].split()[:1] == [batch]}
    shape, out = call.arrays[first].shape, np.shape(call.forward())
    arrays = {"layer input": rng.standard_normal((*shape[:-1], FEATURES))}
    arrays |= {f"weight of {name}": rng.standard_normal((FEATURES, *a.shape[-1:])) for name, a in activations.items()}
    arrays |= {name: a for name, a in call.arrays.items() if name not in activations}
    if out:
        arrays["weight of the next layer"] = rng.standard_normal((*out[-1:], FEATURES))

    def chain(*given: Any) -> Any:
        named = dict(zip((*arrays, *call.constants), given, strict=True))
        for name in activations:
            named[name] = named["layer input"] @ named[f"weight of {name}"]
        y = fn(*(named[name] for name in (*call.arrays, *call.constants)))
        return (y @ named["weight of the next layer"], y) if out else y

    return chain, arrays

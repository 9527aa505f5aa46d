"""A sample call as functions of its arrays and constants. Nothing of NumPy is in this file, by which `check` would take
one of these for a reference in NumPy.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from residuals_lab.ops.call import Call


def called(public: Callable[..., Any], call: Call) -> Callable[..., Any]:
    """The op as a function of a call's arrays and constants."""
    names = [*call.arrays, *call.constants]

    def fn(*given: Any) -> Any:
        return public(**dict(zip(names, given, strict=True)), **call.static)

    return fn


def plain(module: ModuleType, call: Call) -> Callable[..., Any]:
    """The op's `fwd` alone, for the framework to differentiate: the results that have gradients."""
    names = [*call.arrays, *call.constants]

    def fn(*given: Any) -> Any:
        named = dict(zip(names, given, strict=True))
        return module.fwd(*(named.get(a) for a in (*call.op.arrays, *call.op.constants)), *call.static.values())[0]

    return fn

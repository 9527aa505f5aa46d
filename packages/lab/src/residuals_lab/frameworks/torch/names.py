"""A rule's names for the tensors that it makes and saves: those of its variables where it saves them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import CO_VARARGS
from types import FrameType

from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.utils._pytree import tree_leaves


@contextmanager
def told_names(tell: Callable[[Tensor, str], None]) -> Iterator[None]:
    """A context that calls `tell` with each tensor that a rule has made and saves, and its name."""
    save = FunctionCtx.save_for_backward

    def save_for_backward(ctx: FunctionCtx, *tensors: Tensor) -> None:
        names = _names(sys._getframe(1))
        for t in tensors:
            if id(t) in names:
                tell(t, names[id(t)])
        save(ctx, *tensors)

    FunctionCtx.save_for_backward = save_for_backward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        FunctionCtx.save_for_backward = save  # type: ignore[method-assign]


def _names(frame: FrameType) -> dict[int, str]:
    """`id` → name of the tensors among the variables of a `forward` or `setup_context`, and in its named tuples.

    Its arguments are left out: they have names of their own.
    """
    code, variables = frame.f_code, frame.f_locals
    parameters = code.co_varnames[1 : code.co_argcount + bool(code.co_flags & CO_VARARGS)]
    given = parameters[:1] if code.co_name == "setup_context" else parameters
    inputs = {id(t) for t in tree_leaves([variables.get(name) for name in given])}
    named = dict(variables)
    for a in variables.values():
        if isinstance(a, tuple) and hasattr(a, "_asdict"):
            named |= a._asdict()
    return {id(t): name for name, t in named.items() if isinstance(t, Tensor) and id(t) not in inputs}

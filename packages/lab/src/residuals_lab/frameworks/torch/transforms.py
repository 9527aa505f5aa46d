"""`torch.func.grad` and its like, which run only where no saved-tensor hooks are: for them, ours step aside."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

_hooks = torch._C._autograd


@contextmanager
def stepping_aside(around: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """A context inside of which the saved-tensor hooks that are set there are taken off for such a function, which then
    runs within `around()`.
    """
    # The compiler lists PyTorch's own function as one that it knows when it is first imported, which an audit does: not
    # while ours stands in its place, or `torch.compile` knows it no longer.
    import torch._dynamo.variables.torch

    disable = torch.autograd.graph.disable_saved_tensors_hooks
    ours = _hooks._top_saved_tensors_default_hooks(True)

    @contextmanager
    def disabled(error_message: str) -> Iterator[None]:
        if _hooks._top_saved_tensors_default_hooks(True) != ours:  # a function in another one, or somebody else's hooks
            with disable(error_message):
                yield
            return
        _hooks._pop_saved_tensors_default_hooks()
        try:
            with around(), disable(error_message):
                yield
        finally:
            _hooks._push_saved_tensors_default_hooks(*ours)

    torch.autograd.graph.disable_saved_tensors_hooks = disabled
    try:
        yield
    finally:
        torch.autograd.graph.disable_saved_tensors_hooks = disable

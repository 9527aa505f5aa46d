"""Fake tensors have no numbers and take no memory; here they can be copied and converted as usual, in models too."""

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from residuals_lab.frameworks.places import shown_as
from residuals_lab.frameworks.torch.layouts import as_in_a_run, grouped

_SMALL = 2**20  # bytes of an array whose numbers are computed where the program itself spells them out
_INSIDERS = ("torch", "residuals_lab")  # packages that have to know which tensors are fake
_UNSET = ("empty", "new_empty")  # the beginnings of the names of operations that make arrays of any numbers


class Fakes(FakeTensorMode):
    """The mode in which tensors are fake. A deep copy of a tensor, which copies its mode too, stays in this one.

    Small tensors that are computed of no argument and no random number, such as `torch.arange(n)`, have their numbers
    beside them, so that code may ask for one.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.asked: dict[str, str] = {}  # library that asked whether a tensor is fake → where
        self._numbers = WeakTensorKeyDictionary()  # fake tensor → a real one
        self._lost: dict[int, Any] = {}  # storages of real tensors that are no longer what the fake ones would be

    def __deepcopy__(self, memo: dict[int, Any]) -> "Fakes":
        return self

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The result of an operation; its numbers too, if those of all tensors that it reads are there."""
        kwargs = kwargs or {}
        given = _tensors(args, kwargs)
        if func is torch.ops.aten.lift_fresh.default and type(args[0]) is Tensor:  # of `torch.tensor([1, 2])`
            return self._with_numbers(args[0])
        is_known = _is_determined(func) and all(self.numbers(t) is not None for t in given)
        try:
            if func.overloadpacket.__name__ == "_grouped_mm" and args[0].dtype is not torch.bfloat16:
                return grouped(*args, **kwargs)
            out = as_in_a_run(func, super().dispatch(func, types, args, kwargs), args, kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            if not (is_known and given):
                raise
            real = self._computed(func, args, kwargs)
            return tree_map(lambda a: self._with_numbers(a) if isinstance(a, Tensor) else a, real)
        outs = [t for t in tree_leaves(out) if isinstance(t, FakeTensor)]
        if is_known and outs and all(_is_small(t) for t in outs):
            for t, number in zip(outs, tree_leaves(self._computed(func, args, kwargs)), strict=True):
                self._numbers[t] = number
        elif func._schema.is_mutable:
            self.forget(given)
        return out

    def numbers(self, t: Tensor) -> Tensor | None:
        """The real tensor that a fake one stands for, if it is known."""
        if not isinstance(t, FakeTensor):
            return None
        found = self._numbers.get(t)
        return None if found is None or found.untyped_storage()._cdata in self._lost else found

    def forget(self, given: Sequence[Tensor]) -> None:
        """Know the numbers of these tensors, and of all that shares their memory, no more."""
        for t in given:
            if (real := self.numbers(t)) is not None:
                storage = real.untyped_storage()
                self._lost[storage._cdata] = storage

    def _with_numbers(self, real: Tensor) -> Tensor:
        made = self.fake_tensor_converter.from_real_tensor(self, real)
        if _is_small(made):
            with _disable_current_modes():
                self._numbers[made] = real.clone()
        return made

    def _computed(self, func: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = tree_map(lambda a: self.numbers(a) if isinstance(a, Tensor) else a, (args, kwargs))
        with _disable_current_modes(), torch.no_grad():
            return func(*args, **kwargs)


def _tensors(args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors among the arguments of an operation, which are no deeper than in a list."""
    lists = (a if isinstance(a, (list, tuple)) else (a,) for a in (*args, *kwargs.values()))
    return [t for inside in lists for t in inside if isinstance(t, Tensor)]


def _is_determined(func: Any) -> bool:
    """Whether an operation has the same result whenever it runs."""
    is_drawn = torch.Tag.nondeterministic_seeded in func.tags
    return not is_drawn and func.namespace == "aten" and not func.overloadpacket.__name__.startswith(_UNSET)


def _is_small(t: Tensor) -> bool:
    return t.device.type == "cpu" and t.layout is torch.strided and t.numel() * t.element_size() <= _SMALL


class _Asked(type(FakeTensor)):  # type: ignore[misc]
    """The class of a stand-in for PyTorch's `FakeTensor`, of which a library asks whether a tensor is one.

    It hears no for a tensor whose numbers are there, so that it runs the program of a run. Else its question is noted,
    but not that of a function that by its name only warns.
    """

    def __instancecheck__(cls, t: Any) -> bool:
        frame = sys._getframe(1)
        library = frame.f_globals.get("__name__", "").partition(".")[0]
        if not isinstance(t, FakeTensor) or library in _INSIDERS or not isinstance(t.fake_mode, Fakes):
            return isinstance(t, FakeTensor)
        if t.fake_mode.numbers(t) is not None:
            return False
        while frame.f_back and frame.f_code.co_name.startswith("is_"):  # a library's own question, in other words
            frame = frame.f_back
        if frame.f_code.co_name.startswith("warn"):
            return True
        file = shown_as(frame.f_code.co_filename)
        t.fake_mode.asked[f"{library}, which asks whether tensors are fake,"] = f"{file}:{frame.f_lineno}"
        return True

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, FakeTensor)


class _StandIn(FakeTensor, metaclass=_Asked):
    pass


@contextmanager
def faking(mode: FakeTensorMode) -> Iterator[None]:
    """A context in which tensors, those of modules too, are fake ones of this mode: without numbers or memory.

    `copy.deepcopy(module)`, `module.to(torch.bfloat16)` and the like work on them.
    """
    logger = logging.getLogger("torch._subclasses.fake_tensor")  # it logs, with a traceback, what is raised too
    was_disabled, logger.disabled = logger.disabled, True
    swap, deepcopy = torch.utils.swap_tensors, Tensor.__deepcopy__
    truncated = torch.nn.init._no_grad_trunc_normal_

    def give(old: Tensor, new: Tensor) -> None:
        # PyTorch refuses to swap tensors with weak references to them, and the mode has such to those that it made.
        if isinstance(old, FakeTensor) and isinstance(new, FakeTensor):
            old.__dict__, new.__dict__ = new.__dict__, old.__dict__
            torch._C._swap_tensor_impl(old, new)
        else:
            swap(old, new)

    def copied(t: Tensor, memo: dict[int, Any]) -> Any:
        if not isinstance(t, FakeTensor):  # it was there before
            with torch.no_grad():
                made = t.clone().requires_grad_(t.requires_grad)
            return memo.setdefault(id(t), made)
        if t.constant is not None:  # its number is known, as that of a counter of batches
            with unset_fake_temporarily():
                memo[id(t.constant)] = t.constant.clone()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
            return deepcopy(t, memo)

    def drawn(
        tensor: Tensor, mean: float, std: float, a: float, b: float, generator: torch.Generator | None = None
    ) -> Tensor:
        # PyTorch draws again until all numbers are within the bounds; here there are none to look at.
        if not isinstance(tensor, FakeTensor):
            return truncated(tensor, mean, std, a, b, generator)
        with torch.no_grad():
            return tensor.normal_(mean, std)

    torch.utils.swap_tensors, Tensor.__deepcopy__ = give, copied  # type: ignore[method-assign]
    torch.nn.init._no_grad_trunc_normal_ = drawn
    torch._subclasses.FakeTensor = _StandIn  # type: ignore[misc]
    try:
        with mode:
            yield
    finally:
        logger.disabled = was_disabled
        torch._subclasses.FakeTensor = FakeTensor  # type: ignore[misc]
        torch.nn.init._no_grad_trunc_normal_ = truncated
        torch.utils.swap_tensors, Tensor.__deepcopy__ = swap, deepcopy  # type: ignore[method-assign]

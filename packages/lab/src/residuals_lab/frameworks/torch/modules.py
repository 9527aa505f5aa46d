"""The modules that run: their names, their parameters, and that they are afterwards what they were before."""

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import Module
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

METHODS = {"forward", "backward", "__call__"}  # functions that are named by their module
_INSIDE = ("_buffers", "_modules", "_parameters")


def _spaces(module: Module) -> list[dict[str, Any]]:
    """Where a module keeps what it has."""
    return [module.__dict__, *(module.__dict__[name] for name in _INSIDE)]


class Modules:
    """Follows which modules run, inside it."""

    def __init__(self, is_abstract: bool) -> None:
        self._is_abstract = is_abstract  # so that nothing is written into a buffer
        self.parameters: dict[str, Tensor] = {}  # and buffers, of those that ran
        self.classes: dict[str, str] = {}  # by scope
        self._scopes: list[str] = []  # of those that are running, the innermost last
        self._roots: dict[Module, str] = {}  # the outermost ones, one called as its class and the next "Linear_1"
        self._names: dict[Module, str] = {}
        self._before: dict[Module, list[dict[str, Any]]] = {}
        self._kept: list[tuple[Any, Any]] = []  # lists and dicts of theirs, and what was in them
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}  # each, and what was in it

    @property
    def running(self) -> str:
        """The scope of the innermost one."""
        return self._scopes[-1] if self._scopes else ""

    def __enter__(self) -> None:
        module = torch.nn.modules.module
        self._hooks = (
            module.register_module_forward_pre_hook(self._begin),
            module.register_module_forward_hook(self._end, always_call=True),
        )

    def __exit__(self, *raised: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        for m, spaces in self._before.items():  # a mask that it keeps would be a fake one
            for now, then in zip(_spaces(m), spaces, strict=True):
                for name in {*now, *then}:
                    if isinstance(then.get(name), FakeTensor):
                        continue  # it was so before, or was put there for a call, by `torch.func.functional_call`
                    if name in then:
                        now[name] = then[name]
                    else:
                        del now[name]
        for kept, was in self._kept:
            if any(isinstance(t, FakeTensor) for t in tree_leaves(kept)):
                kept.clear()
                kept.extend(was) if isinstance(kept, list) else kept.update(was)
        with _disable_current_modes(), torch.no_grad():
            for t, was in self._buffers.values():
                t.copy_(was)

    def _begin(self, module: Module, inputs: Any) -> None:
        if not self._scopes:  # the outermost one, which knows the names of all in it
            root = self._roots.setdefault(module, self._new_root(type(module).__name__))
            self._names = {m: "/".join([root, *name.split(".")]).rstrip("/") for name, m in module.named_modules()}
            for m in self._names if self._is_abstract else ():
                if m not in self._before:
                    self._before[m] = [dict(space) for space in _spaces(m)]
                    self._kept += [(a, a.copy()) for a in m.__dict__.values() if type(a) in (list, dict)]
            if not self._is_abstract:
                with _disable_current_modes():
                    self._buffers = {id(t): (t, t.detach().clone()) for t in module.buffers()} | self._buffers
            for name, t in (*module.named_parameters(), *module.named_buffers()):
                if t.is_leaf:  # not what `torch.func.functional_call` puts in its place
                    is_taken = self.parameters.get(name, t) is not t  # by another module that is outermost
                    self.parameters[f"{root}.{name}" if is_taken else name] = t
        scope = self._names.get(module, type(module).__name__)
        self._scopes.append(scope)
        self.classes[scope] = type(module).__name__

    def _new_root(self, name: str) -> str:
        alike = sum(type(module).__name__ == name for module in self._roots)
        return f"{name}_{alike}" if alike else name

    def _end(self, module: Module, inputs: Any, output: Any) -> None:
        self._scopes.pop()

"""The modules that run: their names and their parameters; and they are put back as they were."""

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
    """The dicts in which a module keeps its attributes."""
    return [module.__dict__, *(module.__dict__[name] for name in _INSIDE)]


class Modules:
    """A context that follows which modules run inside of it."""

    def __init__(self, is_abstract: bool) -> None:
        self._is_abstract = is_abstract  # tensors are fake, and no write reaches a buffer
        self.parameters: dict[str, Tensor] = {}  # and buffers, of the modules that ran
        self.classes: dict[str, str] = {}  # path → class
        self._paths: list[str] = []  # of the modules that are running, the innermost last
        self._roots: dict[Module, str] = {}  # outermost module → the name of its class, or "Linear_1" for the next one
        self._names: dict[Module, str] = {}
        self._before: dict[Module, list[dict[str, Any]]] = {}
        self._kept: list[tuple[Any, Any]] = []  # a module's list or dict, and a copy of what was in it
        self._left: list[Any] = []  # what the forward left in modules: it stays alive there when the graph is gone
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}  # `id` → a buffer, and a copy of what was in it

    @property
    def running(self) -> str:
        """The path of the innermost module."""
        return self._paths[-1] if self._paths else ""

    def __enter__(self) -> None:
        module = torch.nn.modules.module
        self._hooks = (
            module.register_module_forward_pre_hook(self._begin),
            module.register_module_forward_hook(self._end, always_call=True),
        )

    def __exit__(self, *raised: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        for m, spaces in self._before.items():  # a mask that the forward stored there would be a fake one
            for now, then in zip(_spaces(m), spaces, strict=True):
                for name in {*now, *then}:
                    if isinstance(then.get(name), FakeTensor):
                        continue  # it was fake before, or `torch.func.functional_call` put it there for a call
                    if name in now and now[name] is not then.get(name):
                        self._left.append(now[name])
                    if name in then:
                        now[name] = then[name]
                    else:
                        del now[name]
        for kept, was in self._kept:
            if any(isinstance(t, FakeTensor) for t in tree_leaves(kept)):
                self._left.append(kept.copy())
                kept.clear()
                kept.extend(was) if isinstance(kept, list) else kept.update(was)
        with _disable_current_modes(), torch.no_grad():
            for t, was in self._buffers.values():
                t.copy_(was)

    def _begin(self, module: Module, inputs: Any) -> None:
        if not self._paths:  # the outermost module knows the names of all in it
            root = self._roots.setdefault(module, self._new_root(type(module).__name__))
            self._names = {m: "/".join([root, *name.split(".")]).rstrip("/") for name, m in module.named_modules()}
            for m in self._names if self._is_abstract else ():
                if m not in self._before and not isinstance(m, torch.jit.ScriptModule):  # which has no such dicts
                    self._before[m] = [dict(space) for space in _spaces(m)]
                    self._kept += [(a, a.copy()) for a in m.__dict__.values() if type(a) in (list, dict)]
            if not self._is_abstract:
                with _disable_current_modes():
                    self._buffers = {id(t): (t, t.detach().clone()) for t in module.buffers()} | self._buffers
            for name, t in (*module.named_parameters(), *module.named_buffers()):
                # A tensor that `torch.func.functional_call` puts in its place is no leaf, or is wrapped by a function
                # such as `torch.func.grad`.
                if t.is_leaf and not torch._C._functorch.is_functorch_wrapped_tensor(t):
                    is_taken = self.parameters.get(name, t) is not t  # by another module that is outermost
                    self.parameters[f"{root}.{name}" if is_taken else name] = t
        path = self._names.get(module, type(module).__name__)
        self._paths.append(path)
        self.classes[path] = type(module).__name__

    def _new_root(self, name: str) -> str:
        alike = sum(type(module).__name__ == name for module in self._roots)
        return f"{name}_{alike}" if alike else name

    def _end(self, module: Module, inputs: Any, output: Any) -> None:
        self._paths.pop()

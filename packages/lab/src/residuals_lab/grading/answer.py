"""A learner's module, and what the checks of `extra_residual` ask about it."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np

from residuals_lab.call import Call
from residuals_lab.ops import BY_NAME
from residuals_lab.trace import Residual, Trace


class Answer:
    """A learner's module, and what the checks run it on: a small x, a cotangent g, and u for the second order."""

    def __init__(self, adapter: ModuleType, module: ModuleType) -> None:
        self.adapter, self.module = adapter, module
        self.is_jax = adapter.NAME == "jax"
        self.backward = "`_bwd`" if self.is_jax else "`backward`"  # what the stub calls it
        rng = np.random.default_rng(11)
        self.x, self.u = rng.standard_normal((2, 5)).round(2)
        self.g = rng.standard_normal(()).round(2)
        self.truth = Call(BY_NAME["x_sin_x"], {"x": self.x}, {})
        self.residuals: tuple[Residual, ...] = ()

    @property
    def f(self) -> Callable[..., Any]:
        found: Callable[..., Any] = self.module.f_with_sin
        return found

    def array(self, a: np.ndarray) -> Any:
        return self.adapter.array(a, "float64")

    def numpy(self, a: Any) -> np.ndarray:
        return a if isinstance(a, np.ndarray) else self.adapter.to_numpy(a)

    @cached_property
    def rule(self) -> Any:
        """The learner's custom_vjp object or Function class; None if there is none."""
        if self.is_jax:
            found = inspect.unwrap(self.f, stop=lambda f: hasattr(f, "defvjp"))
            return found if getattr(found, "bwd", None) else None
        return getattr(self.node(), "_forward_cls", None)

    def node(self) -> Any:
        """The node that the learner's Function puts into a PyTorch graph."""
        return next((n for n in _nodes(self.f(self.array(self.x))) if hasattr(n, "_forward_cls")), None)

    @cached_property
    def trace(self) -> Trace:
        found: Trace = self.adapter.trace(self.f, [self.array(self.x)], ["x"], self.truth.saved(self.adapter))
        self.residuals = found.crossing
        return found

    @cached_property
    def plain(self) -> Trace:
        found: Trace = self.adapter.trace(self.truth.plain(self.adapter), [self.array(self.x)], ["x"])
        return found

    def backward_ops(self) -> Counter[str]:
        return Counter(step.op for step in self.trace.steps if step.phase == "backward")

    def returned_by_backward(self) -> Any:
        """What the learner's backward returns, before the framework makes it fit or refuses it."""
        x, g, rule = self.array(self.x), self.array(self.g), self.rule
        if self.is_jax:
            return rule.bwd(rule.fwd(x)[1], g)
        original, returned = rule.backward, []

        def spy(ctx: Any, *cotangents: Any) -> Any:
            returned.append(original(ctx, *cotangents))
            return returned[-1]

        with patch.object(rule, "backward", staticmethod(spy)):
            try:
                self.adapter.value_and_vjp(self.f, [x], g)
            except Exception:
                if not returned:
                    raise  # the learner's own; what the engine says about a returned value, the check says better
        return returned[0]

    def smuggled(self) -> set[int]:
        """Values of f_with_sin that the backward reads, and neither made nor was handed."""
        steps = {phase: [s for s in self.trace.steps if s.phase == phase] for phase in ("naming", "backward")}
        known = {n for s in steps["naming"] for n in (*s.ins, *s.outs)}
        read = {n for s in steps["backward"] for n in s.ins}
        made = {n for s in steps["backward"] for n in s.outs}
        return (known & read) - made - {r.value.number for r in self.trace.crossing}


def _nodes(y: Any) -> Iterator[Any]:
    """The nodes of the PyTorch graph of one output or several, the last operation first."""
    todo, seen = [getattr(out, "grad_fn", None) for out in (y if isinstance(y, (tuple, list)) else [y])], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [following for following, _ in node.next_functions]
            yield node

"""A learner's module, and what the checks ask about it."""

import inspect
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np

from residuals_lab.frameworks.protocol import Framework
from residuals_lab.learn.grading.words import shape
from residuals_lab.ops import BY_NAME
from residuals_lab.ops.call import Call
from residuals_lab.ops.tolerance import FLOAT64_LIMIT, error
from residuals_lab.trace import Trace


class Answer:
    """A learner's module, and what the checks run it on: a small x, a cotangent g, and u for the second order.

    x spans several periods, so that sin x and cos x have either sign and neither can stand in for the other.
    """

    def __init__(self, adapter: Framework, module: ModuleType) -> None:
        self.adapter, self.module = adapter, module
        self.is_jax = adapter.NAME == "jax"
        self.backward = "`_bwd`" if self.is_jax else "`backward`"  # what the stub calls it
        rng = np.random.default_rng(13)
        self.x = (3 * rng.standard_normal(5)).round(2)
        self.u = rng.standard_normal(5).round(2)
        self.g = rng.standard_normal(()).round(2)
        self.truth = Call(BY_NAME["x_sin_x"], {"x": self.x}, {})
        (self.gradient,) = self.truth.vjp(self.g).values()
        self.traced: Trace | None = None  # once a check has asked for it

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
        """The learner's custom_vjp object or Function class, wherever f_with_sin calls it; None if there is none."""
        return self.adapter.rule_of(self.f, self.array(self.x))

    @cached_property
    def inputs(self) -> int:
        """How many gradients the rule has to return: one for each input that may have one."""
        if self.is_jax:
            return self.in_forward(lambda _, given: len(given)) - len(self.rule.nondiff_argnums)
        return len(self.node(self.array(self.x)).needs_input_grad)

    @property
    def slot(self) -> str:
        """The attribute of the rule that holds the backward."""
        return "bwd" if self.is_jax else "vjp" if "vjp" in vars(self.rule) else "backward"

    def node(self, x: Any) -> Any:
        """The node that the learner's Function puts into the PyTorch graph of f_with_sin(x)."""
        return self.adapter.node_of(self.f(x))

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """The tensors that this node saves."""
        y = self.f(self.array(self.x))  # with a name: PyTorch 2.11 frees what a node saves when its last output is gone
        found: tuple[Any, ...] = self.adapter.node_of(y).saved_tensors
        return found

    @cached_property
    def trace(self) -> Trace:
        self.traced = self.adapter.trace(self.f, [self.array(self.x)], ["x"], self.truth.saved(self.adapter))
        return self.traced

    @cached_property
    def plain(self) -> Trace:
        found: Trace = self.adapter.trace(self.truth.plain(self.adapter), [self.array(self.x)], ["x"])
        return found

    def backward_ops(self) -> Counter[str]:
        return Counter(step.op for step in self.trace.steps if step.phase == "backward")

    def in_forward(self, look: Callable[[Callable[..., Any], tuple[Any, ...]], Any]) -> Any:
        """What `look` returns for the learner's `_fwd` in JAX and the arguments that it is given."""
        return self._in_part("fwd", look)

    def in_backward(self, look: Callable[[Callable[..., Any], tuple[Any, ...]], Any]) -> Any:
        """What `look` returns for the learner's backward and its arguments; None if the backward is never called."""
        return self._in_part(self.slot, look)

    def _in_part(self, slot: str, look: Callable[[Callable[..., Any], tuple[Any, ...]], Any]) -> Any:
        original, seen = getattr(self.rule, slot), []

        def spy(*arguments: Any) -> None:
            seen.append(look(original, arguments))

        with patch.object(self.rule, slot, self._part(spy)), self.adapter.uncompiled():
            try:
                self.adapter.value_and_vjp(self.f, [self.array(self.x)], self.array(self.g))
            except Exception:
                if not seen:
                    raise  # an exception of the learner's; one of the framework comes of the empty return
        return seen[0] if seen else None

    def _part(self, function: Callable[..., Any]) -> Any:
        """A function as an attribute of the rule, which is an object in JAX and a class in PyTorch."""
        return function if self.is_jax else staticmethod(function)

    def gradient_of_x(self, returned: Any) -> Any:
        """The gradient of x out of what the backward returned, which may be one for each input of the rule."""
        if not isinstance(returned, (tuple, list)) or not returned:
            return returned
        return next((d for d in returned if shape(d) == self.x.shape), returned[0])

    def gradient_function_with_doubled_rule(self) -> tuple[Any, np.ndarray]:
        """What custom_vjp_with_extra_residual returns while the rule returns twice the gradient, and the truth of it.

        The length of x is another than in all other checks: nothing that the learner compiled fits.
        """
        original = getattr(self.rule, self.slot)

        def doubled(*arguments: Any) -> Any:
            returned = original(*arguments)
            several = returned if isinstance(returned, (tuple, list)) else (returned,)
            return tuple(None if d is None else 2 * d for d in several)

        x = self.x[:3]
        with patch.object(self.rule, self.slot, self._part(doubled)):
            found = self.module.custom_vjp_with_extra_residual(self.array(x))
        return found, 2 * (np.sin(x) + x * np.cos(x))


def close(found: Any, truth: Any) -> bool:
    return error(found, truth) <= FLOAT64_LIMIT


def takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function can be called with so many arguments, as far as its signature tells."""
    try:
        inspect.signature(function).bind(*range(count))
    except ValueError:  # it has no signature
        return True
    except TypeError:
        return False
    return True


def signature(function: Callable[..., Any]) -> str:
    """The arguments of a function in parentheses, without types."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return "(...)"
    return f"({', '.join(str(p.replace(annotation=p.empty)) for p in parameters)})"

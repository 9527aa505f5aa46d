"""A learner's module, and what the checks ask about it."""

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
from residuals_lab.tolerance import FLOAT64_LIMIT, error
from residuals_lab.trace import Residual, Trace


class Answer:
    """A learner's module, and what the checks run it on: a small x, a cotangent g, and u for the second order.

    x spans several periods, so that sin x and cos x have either sign and neither can stand in for the other.
    """

    def __init__(self, adapter: ModuleType, module: ModuleType) -> None:
        self.adapter, self.module = adapter, module
        self.is_jax = adapter.NAME == "jax"
        self.backward = "`_bwd`" if self.is_jax else "`backward`"  # what the stub calls it
        rng = np.random.default_rng(13)
        self.x = (3 * rng.standard_normal(5)).round(2)
        self.u = rng.standard_normal(5).round(2)
        self.g = rng.standard_normal(()).round(2)
        self.truth = Call(BY_NAME["x_sin_x"], {"x": self.x}, {})
        (self.gradient,) = self.truth.vjp(self.g).values()
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
        return getattr(self.node(self.array(self.x)), "_forward_cls", None)

    @property
    def slot(self) -> str:
        """The attribute of the rule that holds the backward."""
        return "bwd" if self.is_jax else "vjp" if "vjp" in vars(self.rule) else "backward"

    def node(self, x: Any) -> Any:
        """The node that the learner's Function puts into the PyTorch graph of f_with_sin(x)."""
        return node_of(self.f(x))

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

    def in_backward(self, look: Callable[[Callable[..., Any], tuple[Any, ...]], Any]) -> Any:
        """What `look` returns for the learner's backward and the arguments that the framework has for it."""
        x, g, rule = self.array(self.x), self.array(self.g), self.rule
        original, seen = getattr(rule, self.slot), []
        if self.is_jax:
            return look(original, (rule.fwd(x)[1], g))

        def spy(*arguments: Any) -> None:
            seen.append(look(original, arguments))

        with patch.object(rule, self.slot, staticmethod(spy)):
            try:
                self.adapter.value_and_vjp(self.f, [x], g)
            except Exception:
                if not seen:
                    raise  # the learner's own; the engine's come of an empty return
        return seen[0]

    def gradient_function_with_doubled_rule(self) -> tuple[Any, np.ndarray]:
        """What custom_vjp_with_extra_residual returns while the rule returns twice the gradient, and the truth of it.

        The length of x is another than in all other checks: nothing that the learner compiled fits.
        """
        original = getattr(self.rule, self.slot)

        def doubled(*arguments: Any) -> Any:
            returned = original(*arguments)
            return tuple(2 * d for d in returned) if isinstance(returned, (tuple, list)) else 2 * returned

        x = self.x[:3]
        with patch.object(self.rule, self.slot, doubled if self.is_jax else staticmethod(doubled)):
            found = self.module.custom_vjp_with_extra_residual(self.array(x))
        return found, 2 * (np.sin(x) + x * np.cos(x))


def close(found: Any, truth: Any) -> bool:
    return error(found, truth) <= FLOAT64_LIMIT


def takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function can be called with so many arguments, as far as it tells."""
    try:
        inspect.signature(function).bind(*range(count))
    except ValueError:  # it does not tell
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


def node_of(y: Any) -> Any:
    """The last node of a custom Function in the PyTorch graph of y; None if there is none."""
    return next((node for node in _nodes(y) if hasattr(node, "_forward_cls")), None)


def _nodes(y: Any) -> Iterator[Any]:
    """The nodes of the PyTorch graph of one output or several, the last operation first."""
    todo, seen = [getattr(out, "grad_fn", None) for out in (y if isinstance(y, (tuple, list)) else [y])], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [following for following, _ in node.next_functions]
            yield node

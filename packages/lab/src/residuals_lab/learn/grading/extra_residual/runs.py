"""What runs: the checks of the functions, of what they are given, and of the value."""

from itertools import combinations
from typing import Any
from unittest.mock import patch

import numpy as np

from residuals_lab.finding import Finding
from residuals_lab.learn.grading.extra_residual.answer import Answer, close, signature, takes
from residuals_lab.learn.grading.words import join, kind, shape, show

FUNCTIONS = ("f_with_sin", "custom_vjp_with_extra_residual")


def functions_exist(answer: Answer) -> Finding | None:
    for name in FUNCTIONS:
        if not callable(getattr(answer.module, name, None)):
            return Finding(
                "missing-function",
                f"there is no function `{name}`",
                f"functions {join(FUNCTIONS)}",
                f"a file without `{name}`",
                "these are the names by which others call your code",
                "give it back its name; `--reset` puts the whole stub back, and drops your work",
            )
    return None


def setup_gets_inputs_then_output(answer: Answer) -> Finding | None:
    if answer.is_jax:
        return None
    try:
        answer.f(answer.array(answer.x))
    except Exception:
        classes = [a for a in vars(answer.module).values() if isinstance(a, type) and "setup_context" in vars(a)]
        found = next((c.__dict__["setup_context"].__func__ for c in classes if _runs_swapped(answer, c)), None)
        return found and _arguments_swapped(
            "`setup_context`",
            "`setup_context(ctx, inputs, output)`: what `forward` was given, then what it returned",
            f"`setup_context{signature(found)}`",
        )
    return None


def _runs_swapped(answer: Answer, rule: Any) -> bool:
    """Whether f_with_sin runs once the last two arguments of `setup_context` change places."""
    original = rule.setup_context
    with patch.object(rule, "setup_context", staticmethod(lambda ctx, inputs, output: original(ctx, output, inputs))):
        try:
            answer.f(answer.array(answer.x))
        except Exception:
            return False
    return True


def has_a_rule(answer: Answer) -> Finding | None:
    if answer.rule is not None:
        return _rule_is_always_the_same(answer)
    way = ("@jax.custom_vjp, and `f_with_sin.defvjp(_fwd, _bwd)`", "the `apply` of a torch.autograd.Function")
    return Finding(
        "no-custom-rule",
        "f_with_sin has no gradient rule of its own",
        f"f_with_sin made with {way[not answer.is_jax]}",
        "a function without one",
        "plain autodiff chooses what to keep; a rule is how you choose",
        "compare the end of your file with the stub's",
    )


def _rule_is_always_the_same(answer: Answer) -> Finding | None:
    if answer.adapter.rule_of(answer.f, answer.array(answer.x)) is answer.rule:
        return None
    return Finding(
        "rule-made-anew",
        "f_with_sin makes a new rule each time it is called",
        f"one rule, defined once: {'a jax.custom_vjp' if answer.is_jax else 'a class'} at the top of the file",
        f"another {'jax.custom_vjp' if answer.is_jax else 'class'} from each call",
        "each is another function to the framework: what was compiled for one call serves no other",
        "move the rule out of the function that calls it",
    )


def rule_is_in_order(answer: Answer) -> Finding | None:
    if not answer.is_jax:
        return None  # PyTorch finds `forward` and `backward` by their names
    fwd, bwd, rule = answer.rule.fwd, answer.rule.bwd, _name(answer.rule)
    if (takes(fwd, 1) and takes(bwd, 2)) or not (takes(fwd, 2) and takes(bwd, 1)):
        return None
    return Finding(
        "rule-swapped",
        "the forward rule and the backward rule are in each other's place",
        f"`{rule}.defvjp(_fwd, _bwd)`: first the one that takes x, then the one that takes residuals and g",
        f"`{rule}.defvjp({_name(fwd)}, {_name(bwd)})`, where `{_name(fwd)}{signature(fwd)}` comes first",
        "JAX goes by the place, not by the name",
        "let the two change places",
    )


def _name(function: Any) -> str:
    return getattr(function, "__name__", "a function")


def value(answer: Answer) -> Finding | None:
    y, truth = answer.f(answer.array(answer.x)), answer.truth.forward()
    if shape(y) != ():
        return Finding(
            "not-a-scalar",
            "f_with_sin(x) is not one number",
            f"the sum over all elements, {show(truth)}: shape ()",
            kind(y),
            "a gradient is defined for a scalar, so nobody can call grad on this",
            "sum x·sin x over its elements; return that alone",
        )
    if _is_value(answer, y, truth):
        return None
    return Finding(
        "wrong-value",
        "f_with_sin(x) is not Σ x·sin x",
        f"{show(truth)} for x = {show(answer.x)}",
        show(answer.numpy(y)) if hasattr(y, "shape") else kind(y),
        "a rule gives the gradient of one function: first the function has to be that one",
        "compute sin x once, multiply it by x, and sum",
    )


def forward_returns_a_pair(answer: Answer) -> Finding | None:
    if not answer.is_jax:
        return None  # PyTorch's forward may return any number of outputs
    returned, value = answer.in_forward(lambda fwd, given: (fwd(*given), answer.rule.fun(*given)))
    if isinstance(returned, (tuple, list)) and len(returned) == 2:
        y, residuals = returned
        if not hasattr(value, "shape") or _is_value(answer, y, answer.numpy(value)):
            return None  # JAX itself compares the trees of several outputs
        return Finding(
            "fwd-value-wrong",
            f"the value that `_fwd` returns is not what {_name(answer.rule)} returns",
            f"{show(value)} for x = {show(answer.x)}",
            show(answer.numpy(y)) if hasattr(y, "shape") else kind(y),
            f"JAX calls `_fwd` instead of {_name(answer.rule)} as soon as somebody asks for a gradient: the two have "
            "to agree",
            "the value comes first: `return y, (x, sin_x)`"
            if _is_value(answer, residuals, answer.numpy(value))
            else "compute sin x once, multiply it by x, and sum",
        )
    several = isinstance(returned, (tuple, list)) and len(returned) > 2
    return Finding(
        "two-residual-objects" if several else "fwd-not-a-pair",
        f"`_fwd` returns {len(returned) - 1} residual objects" if several else "`_fwd` does not return a pair",
        "a pair, the value and ONE object with all residuals: (y, (x, sin_x))",
        kind(returned) + (", like (y, x, sin_x)" if several else ""),
        "JAX hands the second element to `_bwd` as it is, and has no place for a third",
        "put the residuals in a tuple of their own: `return y, (x, sin_x)`",
    )


def backward_takes_what_it_is_given(answer: Answer) -> Finding | None:
    found = answer.in_backward(lambda function, arguments: (function, len(arguments)))
    if found is None:
        return Finding(
            "no-custom-rule",
            "the gradient of f_with_sin does not come from its rule",
            f"a gradient that {answer.backward} has made",
            f"a gradient for which {answer.backward} is never called",
            "plain autodiff chooses what to keep; a rule is how you choose",
            "return from f_with_sin what the rule returns, without a `detach` or `stop_gradient` in between",
        )
    own, count = found
    if takes(own, count):
        return None
    outputs = "the one output" if count == 2 else f"each of the {count - 1} outputs"
    return Finding(
        "backward-arguments",
        f"{answer.backward} does not take the {count} arguments that it is given",
        "`_bwd(residuals, g)`: the one object that `_fwd` returned, and the cotangent"
        if answer.is_jax
        else f"`ctx`, and a cotangent for {outputs} of `forward`",
        f"`{answer.backward.strip('`')}{signature(own)}`",
        f"{'JAX' if answer.is_jax else 'PyTorch'} calls it with these, and by their place",
        "write `def _bwd(residuals, g)`, and take the residuals apart inside: `x, sin_x = residuals`"
        if answer.is_jax
        else "take as many cotangents as `forward` has outputs, needed or not",
    )


def arguments_are_in_order(answer: Answer) -> Finding | None:
    """The backward is right, or it is not so with two of its arguments in each other's place."""

    def look(function: Any, arguments: tuple[Any, ...]) -> Any:
        runs, found = _run_backward(answer, function, arguments)
        if found is not None and close(found, answer.gradient):
            return None
        for i, j in combinations(range(len(arguments)), 2):
            swapped = list(arguments)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            _, other = _run_backward(answer, function, swapped)
            if other is not None and (close(other, answer.gradient) or not runs):
                return function
        return None

    own = answer.in_backward(look)
    return own and _arguments_swapped(
        answer.backward,
        "`_bwd(residuals, g)`: what `_fwd` returned, then the cotangent"
        if answer.is_jax
        else "`ctx`, then the cotangents in the order of the outputs of `forward`",
        f"`{answer.backward.strip('`')}{signature(own)}`",
    )


def _run_backward(answer: Answer, function: Any, arguments: Any) -> tuple[bool, np.ndarray | None]:
    """Whether a backward runs on these arguments, and what it makes of them, if that is one array of x's shape."""
    try:
        returned = function(*arguments)
    except BaseException:
        return False, None
    dx = answer.gradient_of_x(returned)
    return True, answer.numpy(dx) if shape(dx) == answer.x.shape else None


def _arguments_swapped(what: str, expected: str, got: str) -> Finding:
    return Finding(
        "arguments-swapped",
        f"{what} takes its arguments in another order",
        expected,
        got,
        "arguments go by their place, not by their name",
        "put them in the order in which they come",
    )


def _is_value(answer: Answer, y: Any, truth: np.ndarray) -> bool:
    return hasattr(y, "shape") and close(answer.numpy(y), truth)

"""What comes out: the checks of the gradient, of the function that returns it, and of its own gradient."""

from dataclasses import replace
from typing import Any

import numpy as np

from residuals_lab.finding import Finding
from residuals_lab.learn.grading.extra_residual.answer import Answer, close
from residuals_lab.learn.grading.words import kind, shape, show


def backward_returns_a_gradient(answer: Answer) -> Finding | None:
    returned, count = answer.in_backward(lambda function, arguments: function(*arguments)), answer.inputs
    is_several = isinstance(returned, (tuple, list))
    if len(returned) != count if is_several else answer.is_jax or count > 1:
        return Finding(
            "wrong-number-of-gradients",
            f"{answer.backward} does not return one gradient for {'one argument' if count == 1 else 'each argument'}",
            _gradients(count, answer.is_jax),
            kind(returned),
            "the gradients are handed out in the order of the rule's arguments, and it has "
            + ("one: x" if count == 1 else str(count)),
            "return `(dx,)`, with the comma that makes it a tuple"
            if answer.is_jax and count == 1
            else f"return {_gradients(count, answer.is_jax)}",
        )
    dx = answer.gradient_of_x(returned)
    if dx is None or shape(dx) == answer.x.shape:
        return None  # None means zero: the next check tells whether that is right
    return _wrong_shape(answer, f"the gradient that {answer.backward} returns", dx)


def _gradients(count: int, is_jax: bool) -> str:
    if count > 1:
        return f"a tuple of {count}, with None for what has no gradient"
    return "a tuple with one array, (dx,)" if is_jax else "one tensor, dx"


def gradient(answer: Answer) -> Finding | None:
    _, (d,) = answer.adapter.value_and_vjp(answer.f, [answer.array(answer.x)], answer.array(answer.g))
    return _wrong_gradient(answer, d, answer.g)


def gradient_function(answer: Answer) -> Finding | None:
    function, x = answer.module.custom_vjp_with_extra_residual, answer.array(answer.x)
    d = function(x)
    if shape(d) != answer.x.shape:
        return _wrong_shape(answer, "what custom_vjp_with_extra_residual(x) returns", d)
    first = answer.numpy(d).copy()
    wrong = _wrong_gradient(answer, first, np.array(1.0))
    if wrong:
        return replace(
            wrong,
            title=f"custom_vjp_with_extra_residual(x): {wrong.title}",
            mend="f_with_sin has the right gradient: return that of f_with_sin at x, and nothing else",
        )
    second = answer.numpy(function(x))
    if not answer.is_jax and not _leaves_grad_alone(answer):
        return Finding(
            "writes-grad",
            "custom_vjp_with_extra_residual(x) writes into x.grad",
            "the gradient as a new tensor, and x as it was",
            "the right gradient, and another x.grad than before the call"
            + (", which a second call makes twice the gradient" if close(second, 2 * first) else ""),
            "x.grad belongs to the caller, whose optimizer steps by it; `backward()` adds to it, so that every call "
            "changes what the calls before it returned",
            "`return torch.func.grad(f_with_sin)(x)`, or `torch.autograd.grad(f_with_sin(x), x)[0]`: neither writes",
        )
    if close(second, first):
        return None
    return Finding(
        "state-between-calls",
        "custom_vjp_with_extra_residual(x) is right only the first time",
        f"{show(first)} from every call on the same x",
        f"{show(second)} from the second call",
        "a function of x alone can be called anywhere, any number of times",
        "let it keep nothing from one call for the next, and leave x as it is",
    )


def _leaves_grad_alone(answer: Answer) -> bool:
    """Whether custom_vjp_with_extra_residual(x) leaves the x.grad that there is as it is."""
    x = answer.array(answer.x)
    x.grad = answer.array(answer.u).detach()
    answer.module.custom_vjp_with_extra_residual(x)
    return x.grad is not None and close(answer.numpy(x.grad), answer.u)


def rule_is_used(answer: Answer) -> Finding | None:
    d, doubled = answer.gradient_function_with_doubled_rule()
    if close(answer.numpy(d), doubled):
        return None
    return Finding(
        "rule-not-used",
        "custom_vjp_with_extra_residual(x) goes past the rule of f_with_sin",
        f"a gradient that {answer.backward} has made: one that changes when {answer.backward} does",
        "the right numbers, from elsewhere",
        "what you save for the backward is then saved for nobody",
        f"`return {'jax' if answer.is_jax else 'torch.func'}.grad(f_with_sin)(x)`",
    )


def second_derivative(answer: Answer) -> Finding | None:
    x, g, u = answer.x, answer.g, answer.u
    sin, cos = np.sin(x), np.cos(x)
    truth, truth_g = u * g * (2 * cos - x * sin), np.sum(u * (sin + x * cos))
    expected = f"{show(truth)}, which is g·(2·cos x − x·sin x), times a random u"
    advice = "add what reaches x through sin_x: `backward` gets its cotangent as g_sin_x; add g_sin_x·cos x"
    try:
        dx, dg = answer.adapter.second_vjp(answer.f, [answer.array(x)], answer.array(g), [answer.array(u)])
        found, found_g = answer.numpy(dx), answer.numpy(dg)
    except Exception as problem:
        found, got = 0 * x, f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
    else:
        got = show(found)
        if close(found, truth):
            if close(found_g, truth_g):
                return None
            expected, got = f"{show(truth_g)} with respect to the cotangent g", show(found_g)
        if close(found, u * g * (cos - x * sin)):
            got += ", which is g·(cos x − x·sin x): sin_x was taken for a constant"
    if answer.is_jax:
        advice = "JAX differentiates `_fwd` and `_bwd` themselves: look for a stop_gradient in them"
    elif not found.any():
        advice = "leave out what cuts your backward off from autograd, such as `once_differentiable` or `detach`"
    elif not all(t.requires_grad for t in answer.saved_tensors):
        advice = (
            "autograd takes what you saved for a constant: return sin_x as a second output of `forward`, save that "
            "output in `setup_context`, and leave it differentiable"
        )
    return Finding(
        "second-derivative-wrong",
        "the gradient is right, but the gradient of the gradient is not",
        expected,
        got,
        "a gradient penalty or a Hessian differentiates your backward, and goes wrong there, mostly without an error",
        advice,
    )


def _wrong_shape(answer: Answer, what: str, d: Any) -> Finding:
    return Finding(
        "wrong-shape",
        f"{what} has the wrong shape",
        f"an array of x's shape, {answer.x.shape}",
        kind(d),
        "a gradient says how much each element of x matters: one number for each",
        "look for a sum or an axis too many, or for a tuple to take the gradient out of",
    )


def _wrong_gradient(answer: Answer, d: Any, g: np.ndarray) -> Finding | None:
    x, found = answer.x, answer.numpy(d)
    sin, cos = np.sin(x), np.cos(x)
    (truth,) = answer.truth.vjp(g).values()
    (unscaled,) = answer.truth.vjp(np.array(1.0)).values()
    expected = f"g·(sin x + x·cos x) = {show(truth)} for the cotangent g = {show(g)} and x = {show(x)}"
    if close(found, truth):
        return None
    if close(found, unscaled):
        return Finding(
            "cotangent-ignored",
            "the gradient is right for the cotangent 1, and for no other",
            expected,
            f"{show(found)}, the same as for g = 1",
            "g carries what comes after f_with_sin, such as a factor in a loss; a test with g = 1 never sees it",
            f"multiply by the cotangent that {answer.backward} is given",
        )
    if close(found, -truth):
        return Finding(
            "gradient-sign",
            "the gradient has the wrong sign",
            expected,
            f"{show(found)}, the negative of it",
            "gradient descent would climb",
            "the derivative of sin is +cos: look for a minus",
        )
    lookalikes = {
        "sin x + cos x": (sin + cos, "the second term lost its factor x"),
        "x·cos x": (x * cos, "the term sin x is missing"),
        "sin x": (sin, "the term x·cos x is missing"),
        "cos x": (cos, "the derivative of sin x alone"),
        "sin x − x·cos x": (sin - x * cos, "a sign inside is wrong"),
        "sin x + x·|cos x|": (sin + x * abs(cos), "a root of 1 − sin² x is cos x without its sign"),
    }
    like = (f", which is g·({name}): {why}" for name, (a, why) in lookalikes.items() if close(found, g * a))
    seen = next(like, "")
    if not found.any():
        seen = ": did you return None?"
    return Finding(
        "gradient-wrong",
        "the gradient is wrong",
        expected,
        f"{show(found)}{seen}",
        "code that trains on a wrong gradient runs, and learns something else",
        "differentiate x·sin x by the product rule: sin x + x·cos x",
    )

"""The checks of the exercise `extra_residual`, in the order in which they run: one function each."""

from collections.abc import Callable
from typing import Any

import numpy as np

from residuals_lab.grading import Finding
from residuals_lab.grading.answer import Answer
from residuals_lab.grading.words import join, kind, listed, shape, show
from residuals_lab.tolerance import FLOAT64_LIMIT, error

FUNCTIONS = ("f_with_sin", "custom_vjp_with_extra_residual")
SAVED = ("x", "sin_x")


# What runs and what comes out.


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


def has_a_rule(answer: Answer) -> Finding | None:
    if answer.rule is not None:
        return None
    way = ("@jax.custom_vjp, and `f_with_sin.defvjp(_fwd, _bwd)`", "the `apply` of a torch.autograd.Function")
    return Finding(
        "no-custom-rule",
        "f_with_sin has no gradient rule of its own",
        f"f_with_sin made with {way[not answer.is_jax]}",
        "a function without one",
        "plain autodiff chooses what to keep; a rule is how you choose",
        "compare the end of your file with the stub's",
    )


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
    return _wrong_value(answer, "f_with_sin(x)", y)


def forward_returns_a_pair(answer: Answer) -> Finding | None:
    if not answer.is_jax:
        return None  # PyTorch's forward may return any number of outputs
    returned = answer.rule.fwd(answer.array(answer.x))
    if isinstance(returned, (tuple, list)) and len(returned) == 2:
        wrong = _wrong_value(answer, "the value that `_fwd` returns", returned[0])
        why = "JAX calls `_fwd` instead of f_with_sin as soon as somebody asks for a gradient: the two have to agree"
        return wrong and wrong._replace(code="fwd-value-wrong", why=why)
    several = isinstance(returned, (tuple, list)) and len(returned) > 2
    return Finding(
        "two-residual-objects" if several else "fwd-not-a-pair",
        f"`_fwd` returns {len(returned) - 1} residual objects" if several else "`_fwd` does not return a pair",
        "a pair, the value and ONE object with all residuals: (y, (x, sin_x))",
        kind(returned) + (", like (y, x, sin_x)" if several else ""),
        "JAX hands the second element to `_bwd` as it is, and has no place for a third",
        "put the residuals in a tuple of their own: `return y, (x, sin_x)`",
    )


def backward_returns_a_gradient(answer: Answer) -> Finding | None:
    returned = answer.returned_by_backward()
    if isinstance(returned, (tuple, list)) and len(returned) == 1:
        returned = returned[0]
    elif answer.is_jax or isinstance(returned, (tuple, list)):
        return Finding(
            "wrong-number-of-gradients",
            f"{answer.backward} does not return one gradient for one argument",
            "a tuple with one array, (dx,)" if answer.is_jax else "one tensor, dx",
            kind(returned),
            "the gradients are handed out in the order of the arguments, and f_with_sin has one: x",
            "return `(dx,)`, with the comma that makes it a tuple" if answer.is_jax else "return dx alone",
        )
    if returned is None or shape(returned) == answer.x.shape:
        return None  # None means zero, which the next check tells
    return _wrong_shape(answer, f"the gradient that {answer.backward} returns", returned)


def gradient(answer: Answer) -> Finding | None:
    _, (d,) = answer.adapter.value_and_vjp(answer.f, [answer.array(answer.x)], answer.array(answer.g))
    return _wrong_gradient(answer, d, answer.g)


def gradient_function(answer: Answer) -> Finding | None:
    d = answer.module.custom_vjp_with_extra_residual(answer.array(answer.x))
    if shape(d) != answer.x.shape:
        return _wrong_shape(answer, "what custom_vjp_with_extra_residual(x) returns", d)
    wrong = _wrong_gradient(answer, d, np.array(1.0))
    return wrong and wrong._replace(
        title=f"custom_vjp_with_extra_residual(x): {wrong.title}",
        next="f_with_sin has the right gradient: return that of f_with_sin at x, and nothing else",
    )


# What is kept.


def nothing_hidden(answer: Answer) -> Finding | None:
    trace = answer.trace
    hidden = [r for r in trace.crossing if r.kind == "hidden" and r.value.shape]
    if hidden and not answer.is_jax:
        return Finding(
            "tensor-on-ctx",
            f"{join([r.name for r in hidden])} hangs on `ctx` as an attribute",
            "tensors in `ctx.save_for_backward`, and nowhere else",
            f"{listed(hidden)}, outside it",
            "PyTorch does not see it there: it cannot free or offload it, and nobody notices when it is overwritten",
            "save it with the others, `ctx.save_for_backward(x, sin_x)`; read `ctx.saved_tensors`",
        )
    if not hidden and not answer.smuggled():
        return None
    given = [r for r in trace.crossing if r.kind != "hidden"]
    return Finding(
        "closed-over",
        f"{answer.backward} reads an array that it was not given",
        f"everything {answer.backward} reads is a residual: {join(SAVED)}",
        f"an array from a global or a closure; the residuals are {listed(given)}",
        "after two forwards the first one's backward finds the second one's array there: wrong, and no error",
        f"save the array in {'the pair that `_fwd` returns' if answer.is_jax else '`ctx.save_for_backward`'}",
    )


def sine_is_not_recomputed(answer: Answer) -> Finding | None:
    if "sin" not in answer.trace.recomputed():
        return None
    saved = answer.trace.crossing
    kept = any(r.name == "sin_x" for r in saved)
    return Finding(
        "sin-recomputed",
        f"{answer.backward} computes sin x again",
        "no sine in the backward: sin_x is read from the residuals",
        f"a second sine, though {'sin_x is saved' if kept else 'the forward had it'}; saved: {listed(saved)}",
        "the gradient is right, and every backward pays for a sine that was known",
        "use the sin_x that you saved" if kept else f"save sin_x beside x, and read it in {answer.backward}",
    )


def both_are_saved(answer: Answer) -> Finding | None:
    names = [r.name for r in answer.trace.crossing]
    missing = [name for name in SAVED if name not in names]
    if not missing:
        return None
    return Finding(
        "residual-missing",
        f"{join(missing)} {'is' if len(missing) == 1 else 'are'} not saved",
        f"the residuals {join(SAVED)}, by value",
        listed(answer.trace.crossing),
        "the gradient is right, and this is another choice of residuals than the exercise's: it asks for the two whose "
        "cost you can name, an input that is alive anyway and one new array",
        f"save {join(SAVED)} themselves, and do the arithmetic in {answer.backward}",
    )


def nothing_else_is_saved(answer: Answer) -> Finding | None:
    spare = list(answer.trace.crossing)
    for name in SAVED:
        spare.remove(next(r for r in spare if r.name == name))
    if not spare:
        return None
    return Finding(
        "too-much-saved",
        f"{join([r.name for r in spare])} {'is' if len(spare) == 1 else 'are'} saved too",
        f"the residuals {join(SAVED)}, each once",
        f"{listed(answer.trace.crossing)}; too many: {listed(spare)}",
        "every extra array is held from the forward to the backward, when memory is scarcest",
        f"drop {join([r.name for r in spare])}: {answer.backward} can do with x and sin_x",
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
        if _close(found, truth):
            if _close(found_g, truth_g):
                return None
            expected, got = f"{show(truth_g)} with respect to the cotangent g", show(found_g)
        if _close(found, u * g * (cos - x * sin)):
            got += ", which is g·(cos x − x·sin x): sin_x was taken for a constant"
    if answer.is_jax:
        advice = "JAX differentiates `_fwd` and `_bwd` themselves: look for a stop_gradient in them"
    elif not found.any():
        advice = "leave out what cuts your backward off from autograd, such as `once_differentiable` or `detach`"
    elif not all(t.requires_grad for t in answer.node().saved_tensors):
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


CHECKS: tuple[Callable[[Answer], Finding | None], ...] = (
    functions_exist,
    has_a_rule,
    value,
    forward_returns_a_pair,
    backward_returns_a_gradient,
    gradient,
    gradient_function,
    nothing_hidden,
    sine_is_not_recomputed,
    both_are_saved,
    nothing_else_is_saved,
    second_derivative,
)


def report(answer: Answer) -> str:
    """What a right answer achieved, by its trace and that of plain autodiff, on the small x of the checks."""
    trace, plain, ops = answer.trace, answer.plain, answer.backward_ops()
    saved, others = trace.saved_bytes, plain.saved_bytes
    new = sum(r.nbytes for r in trace.crossing if r.kind != "input")
    if saved < others:
        verdict = f"you keep {others - saved} B less."
    else:
        verdict = "no more than you, so here your rule states what is kept and does not lower it."
    return "\n".join(
        (
            f"Saved for the backward, for an x of {answer.x.size} float64 numbers: {listed(answer.trace.crossing)}.",
            f"That is {saved} B, {new} of them new: x is alive anyway.",
            f"Plain autodiff keeps {others} B, {listed(plain.crossing)}: {verdict}",
            f"In your backward: sine {ops['sin']} times, cosine {ops['cos']} times.",
            "The gradient agrees with NumPy for a random cotangent, and so does the second derivative.",
        )
    )


# What several checks say or ask.


def _wrong_value(answer: Answer, what: str, y: Any) -> Finding | None:
    truth = answer.truth.forward()
    if hasattr(y, "shape") and _close(answer.numpy(y), truth):
        return None
    return Finding(
        "wrong-value",
        f"{what} is not Σ x·sin x",
        f"{show(truth)} for x = {show(answer.x)}",
        show(answer.numpy(y)) if hasattr(y, "shape") else kind(y),
        "a rule gives the gradient of one function: first the function has to be that one",
        "compute sin x once, multiply it by x, and sum",
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
    if _close(found, truth):
        return None
    if _close(found, unscaled):
        return Finding(
            "cotangent-ignored",
            "the gradient is right for the cotangent 1, and for no other",
            expected,
            f"{show(found)}, the same as for g = 1",
            "g carries what comes after f_with_sin, such as a factor in a loss; a test with g = 1 never sees it",
            f"multiply by the cotangent that {answer.backward} is given",
        )
    if _close(found, -truth):
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
    }
    like = (f", which is g·({name}): {why}" for name, (a, why) in lookalikes.items() if _close(found, g * a))
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


def _close(found: np.ndarray, truth: Any) -> bool:
    return error(found, truth) <= FLOAT64_LIMIT

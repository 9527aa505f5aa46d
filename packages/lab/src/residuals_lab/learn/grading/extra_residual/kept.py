"""What is kept: the checks of the residuals."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from residuals_lab.finding import Finding
from residuals_lab.learn.grading.extra_residual.answer import Answer, close
from residuals_lab.learn.grading.words import join, listed, show

SAVED = ("x", "sin_x")


def calls_are_independent(answer: Answer) -> Finding | None:
    """Two forwards, then their backwards: each call has to be as if it were alone."""
    with answer.adapter.uncompiled():
        if _wrong_call(answer, [answer.x]):
            return None  # the next check tells what is wrong with one call alone
        try:
            wrong = _wrong_call(answer, [answer.x, answer.x + 0.5])
        except Exception as problem:
            wrong = "two calls before the first backward, and no exception", _text(problem)
    if not wrong:
        return None
    given = "its argument `residuals`" if answer.is_jax else "`ctx.saved_tensors`"
    return Finding(
        "state-between-calls",
        "two calls of f_with_sin disturb each other",
        *wrong,
        "one call alone is right, but a model may call it in many places before its first backward; most such "
        "gradients are wrong without an error",
        f"read in {answer.backward} only what this call has saved, {given}: what is in a global, in an attribute of a "
        "class or a function, or in a default argument is of another call",
    )


def _wrong_call(answer: Answer, xs: Sequence[np.ndarray]) -> tuple[str, str] | None:
    """What was expected and what came, where f_with_sin at `xs`, and then its backwards, are wrong."""
    pulls = []
    for x in xs:
        y, pull = answer.adapter.vjp(answer.f, [answer.array(x)])
        truth = np.sum(x * np.sin(x))
        if not close(answer.numpy(y), truth):
            return f"{show(truth)}, the value for x = {show(x)}", show(answer.numpy(y))
        pulls.append(pull)
    for x, pull, which in zip(xs, pulls, ("first", "second"), strict=False):
        (d,) = pull(answer.array(answer.g))
        truth = answer.g * (np.sin(x) + x * np.cos(x))
        if not close(answer.numpy(d), truth):
            of = f"the gradient of the {which} of two calls"
            return f"{show(truth)}, {of}", show(answer.numpy(d))
    return None


def nothing_hidden(answer: Answer) -> Finding | None:
    trace = answer.trace
    hidden = [r for r in trace.residuals if r.kind == "hidden" and r.value.shape]
    if not hidden:
        return None
    on_ctx = [] if answer.is_jax else [name for name, a in vars(answer.node(answer.array(answer.x))).items() if _big(a)]
    if on_ctx:
        return Finding(
            "tensor-on-ctx",
            f"{join([r.name for r in hidden])} hangs on `ctx` as an attribute",
            "tensors in `ctx.save_for_backward`, and nowhere else",
            f"{listed(hidden)}, in {join([f'`ctx.{name}`' for name in on_ctx])}",
            "PyTorch does not see it there: it cannot free or offload it, and nobody notices when it is overwritten",
            "save it with the others, `ctx.save_for_backward(x, sin_x)`; read `ctx.saved_tensors`",
        )
    given = [r for r in trace.residuals if r.kind != "hidden"]
    return Finding(
        "closed-over",
        f"{answer.backward} reads an array that it was not given",
        f"everything {answer.backward} reads is a residual: {join(SAVED)}",
        f"an array from a global or a closure; the residuals are {listed(given)}",
        "an array in a global or a closure is never freed, and no tool counts it",
        f"save the array in {'the pair that `_fwd` returns' if answer.is_jax else '`ctx.save_for_backward`'}",
    )


def no_sine_in_the_backward(answer: Answer) -> Finding | None:
    sines = answer.backward_ops()["sin"]
    if not sines:
        return None
    saved = answer.trace.residuals
    kept = any(r.name == "sin_x" for r in saved)
    count = "a sine" if sines == 1 else f"{sines} sines"
    return Finding(
        "sin-recomputed",
        f"{answer.backward} computes {count}",
        "no sine in the backward: sin_x is read from the residuals",
        f"{count}, though {'sin_x is saved' if kept else 'the forward had sin x'}; saved: {listed(saved)}",
        "the gradient is right, and every backward pays for a sine that was known",
        "use the sin_x that you saved" if kept else f"save sin_x beside x, and read it in {answer.backward}",
    )


def both_are_saved(answer: Answer) -> Finding | None:
    names = [r.name for r in answer.trace.residuals]
    missing = [name for name in SAVED if name not in names]
    if not missing:
        return None
    return Finding(
        "residual-missing",
        f"{join(missing)} {'is' if len(missing) == 1 else 'are'} not saved",
        f"the residuals {join(SAVED)}, by value",
        listed(answer.trace.residuals),
        "the gradient is right, and this is another choice of residuals than the exercise's: it asks for the two whose "
        "cost you can name, an input that is alive anyway and one new array",
        f"save {join(SAVED)} themselves, and do the arithmetic in {answer.backward}",
    )


def nothing_else_is_saved(answer: Answer) -> Finding | None:
    spare = [r for r in answer.trace.residuals if r.kind != "hidden"]  # no arrays: nothing_hidden has looked
    for name in SAVED:
        spare.remove(next(r for r in spare if r.name == name))
    if not spare:
        return None
    return Finding(
        "too-much-saved",
        f"{join([r.name for r in spare])} {'is' if len(spare) == 1 else 'are'} saved too",
        f"the residuals {join(SAVED)}, each once",
        f"{listed(answer.trace.residuals)}; too many: {listed(spare)}",
        "every extra array is held from the forward to the backward, when memory is scarcest",
        f"drop {join([r.name for r in spare])}: {answer.backward} can do with x and sin_x",
    )


def nothing_is_overwritten(answer: Answer) -> Finding | None:
    """Two backwards of one forward have to agree, and to leave the residuals as they were."""
    if answer.is_jax:
        return None  # JAX's arrays cannot be overwritten
    x, g = answer.array(answer.x), answer.array(answer.g)
    y = answer.f(x)
    saved = answer.adapter.node_of(y).saved_tensors
    before = [(t._version, answer.numpy(t).copy()) for t in saved]

    def backward() -> Any:
        x.grad = None
        y.backward(g, retain_graph=True)
        return answer.numpy(x.grad).copy()

    first = backward()
    after = [(t._version, answer.numpy(t).copy()) for t in saved]
    changed = [
        "x" if close(was, answer.x) else "sin_x"
        for (old, was), (new, now) in zip(before, after, strict=True)
        if old != new or not close(now, was)
    ]
    if changed:
        return Finding(
            "residual-overwritten",
            f"{answer.backward} overwrites {join(changed)}",
            "residuals that are the same after the backward",
            f"{join(changed)} changed by one backward",
            "with `retain_graph=True` a second backward fails or is wrong"
            + (", and this x is the caller's own tensor" if "x" in changed else ""),
            "make a new tensor: what ends in `_`, such as `add_`, and `+=` and `out=` write into the old one",
        )
    other = _other(first, backward)
    if not other:
        return None
    return Finding(
        "residual-overwritten",
        f"{answer.backward} is right only once",
        "the same gradient from a second backward",
        other,
        "with `retain_graph=True` a backward may run any number of times",
        f"let {answer.backward} change nothing that it reads: it has `ctx.saved_tensors` and the cotangents",
    )


def _other(first: Any, backward: Callable[[], Any]) -> str:
    """What is wrong with a second backward, if anything."""
    try:
        same = close(backward(), first)
    except Exception as problem:
        return _text(problem)
    return "" if same else "another gradient"


def _text(problem: Exception) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"


def _big(a: Any) -> bool:
    """Whether an attribute may hold a tensor: all but numbers and text."""
    if isinstance(a, (tuple, list)):
        return any(map(_big, a))
    return not isinstance(a, (int, float, complex, str, type(None)))

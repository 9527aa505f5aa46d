"""The exercise `extra_residual`: its checks in the order in which they run, and what a right answer is told."""

from collections.abc import Callable

from residuals_lab.finding import Finding
from residuals_lab.learn.grading.extra_residual import gradients, kept, runs
from residuals_lab.learn.grading.extra_residual.answer import Answer
from residuals_lab.learn.grading.words import listed

__all__ = ["CHECKS", "Answer", "report"]

CHECKS: tuple[Callable[[Answer], Finding | None], ...] = (
    runs.functions_exist,
    runs.setup_gets_inputs_then_output,
    runs.has_a_rule,
    runs.rule_is_in_order,
    runs.value,
    runs.forward_returns_a_pair,
    runs.backward_takes_what_it_is_given,
    runs.arguments_are_in_order,
    gradients.backward_returns_a_gradient,
    kept.calls_are_independent,
    gradients.gradient,
    kept.nothing_is_overwritten,
    gradients.gradient_function,
    gradients.rule_is_used,
    kept.nothing_hidden,
    kept.no_sine_in_the_backward,
    kept.both_are_saved,
    kept.nothing_else_is_saved,
    gradients.second_derivative,
)


def report(answer: Answer) -> str:
    """What a right answer achieved, by its trace and that of plain autodiff, on the small x of the checks."""
    trace, plain, ops = answer.trace, answer.plain, answer.backward_ops()
    saved, others = trace.saved_bytes, plain.saved_bytes
    new = sum(r.storage_bytes for r in trace.residuals if r.kind != "input")
    if saved < others:
        verdict = f"you keep {others - saved} B less."
    else:
        verdict = "no more than you, so here your rule states what is kept and does not lower it."
    return "\n".join(
        (
            f"Saved for the backward, for an x of {answer.x.size} float64 numbers: {listed(answer.trace.residuals)}.",
            f"That is {saved} B, {new} of them new: x is alive anyway.",
            f"Plain autodiff keeps {others} B, {listed(plain.residuals)}: {verdict}",
            f"In your backward: sine {ops['sin']} times, cosine {ops['cos']} times.",
            "The gradient agrees with NumPy for a random cotangent, and so does the second derivative.",
        )
    )

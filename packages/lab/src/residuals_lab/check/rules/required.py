"""What is required is refused.

Looked at where `--require` names a way to use the function: `torch.func`, `vmap`, `second-order`, or one that the rule
transformed lists. A rule that openly refuses one is otherwise no fault, and a note: an old-style `forward(ctx, ...)`
does not run under `torch.func`, and one that says nothing about vmap does not run under that.
"""

from residuals_lab.check.subject import NotRun, Raised, Subject
from residuals_lab.finding import Finding
from residuals_lab.frameworks.calls import Calls

EXAMPLES = {
    "torch": "There is no fault to plant where nothing is required; the tests of the check require something.",
    "jax": "There is no fault to plant where nothing is required; the tests of the check require something.",
}


def ways(calls: Calls) -> list[str]:
    """What can be required in a framework."""
    return [*(("torch.func",) if calls.FUNCTIONAL else ()), "vmap", "second-order", *calls.TRANSFORMS]


def find(subject: Subject) -> Finding | None:
    if not subject.require:
        raise NotRun("nothing is required")
    for way in subject.require:
        if refused := _refused(subject, way):
            why, _, mend = refused.partition("; ")
            return Finding(
                "required",
                f"{way} is required, and does not run",
                "a gradient, as without it",
                why,
                "it was required: somebody is going to use the function so",
                mend or "make the rule of operations that run under it",
            )
    return None


def _refused(subject: Subject, way: str) -> str:
    """Why the function does not run that way, and after a semicolon what to do; "" if it runs."""
    try:
        _try(subject, way)
    except Raised as problem:
        return subject.calls.refuses(problem.problem) or str(problem)
    except NotRun as problem:
        if isinstance(problem.__cause__, Raised):
            return subject.calls.refuses(problem.__cause__.problem) or str(problem.__cause__)
    return ""


def _try(subject: Subject, way: str) -> None:
    if way == "second-order":
        _ = subject.second
    elif way in subject.calls.TRANSFORMS:
        subject.with_fn(subject.calls.TRANSFORMS[way](subject.fn)).run(subject.gs)
    else:
        subject.functional(batch=2 if way == "vmap" else 0)

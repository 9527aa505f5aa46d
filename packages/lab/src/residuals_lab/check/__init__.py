"""The check: is a custom gradient right, everywhere where people will use it?

    from residuals_lab.check import check

    print(check(my_gelu, x))                                  # against differences of my_gelu itself
    print(check(my_gelu, x, reference=torch.nn.functional.gelu))

A rule is a file in `rules`. It looks at one way of going wrong, and gives one finding, which names the cause and says
how to mend it. The rules run in an order in which a cause comes before what it makes go wrong elsewhere.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from residuals_lab import frameworks
from residuals_lab.check import rules
from residuals_lab.check.rules import Rule
from residuals_lab.check.rules.required import ways
from residuals_lab.check.subject import NotRun, Raised, Reference, Subject, said
from residuals_lab.errors import UsageError
from residuals_lab.finding import Finding
from residuals_lab.frameworks import calls
from residuals_lab.frameworks.calls import Calls
from residuals_lab.frameworks.detect import framework_of
from residuals_lab.frameworks.protocol import Framework
from residuals_lab.ops import BY_NAME
from residuals_lab.targets.calls import Marked, as_marked, flattened

ODD = (ArithmeticError, LookupError, TypeError, ValueError)  # what results raise whose shapes nobody foresaw
OPTIONS = ("reference", "vjp_reference", "names", "new_bytes", "require", "framework", "quick", "seed")


@dataclass(frozen=True)
class Check:
    """What is wrong with one function's gradient. `print` it; `document` is for machines."""

    target: str
    framework: str  # its name and version
    truth: str  # what the gradients were compared with
    failures: tuple[Finding, ...]
    also: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # rule of a failure → what else it makes fail
    notes: tuple[str, ...] = ()  # worth knowing, no failures
    not_run: tuple[tuple[str, str], ...] = ()  # rule and reason
    ran: Mapping[str, int] = field(default_factory=dict)  # family → how many of its rules had something to look at

    @property
    def passed(self) -> bool:
        return not self.failures

    def document(self) -> dict[str, Any]:
        """All of it as plain data, for JSON."""
        from residuals_lab.check.document import document

        return document(self)

    def __str__(self) -> str:
        from residuals_lab.check.table import text

        return text(self)


def check(
    fn: Callable[..., Any],
    *args: Any,
    reference: Callable[..., Any] | str | None = None,
    vjp_reference: Callable[..., Any] | None = None,
    names: Sequence[str] | None = None,
    new_bytes: int | None = None,
    require: Sequence[str] = (),
    framework: str | None = None,
    quick: bool = False,
    seed: int = 0,
    **kwargs: Any,
) -> Check:
    """Look for every known way in which the gradient of `fn` may be wrong.

    Modules, `.grad`, random states, the framework's settings and arguments are afterwards what they were; what `fn`
    prints is not shown. A function that ends the process, or that never ends, does so here too; the command
    `residuals check` runs it in a child process with limits.

    Args:
        fn: a function, a module, or a callable tree, as `audit` takes it.
        *args: sample arguments, arrays or trees of them, each possibly marked as `parameter` or `frozen`. In PyTorch
            a tensor is differentiated if it requires a gradient; in JAX, if it is of floating or complex numbers.
        reference: what `fn` computes, written plainly: in the same framework, in NumPy, or the name of an op of ours.
        vjp_reference: `(args, cotangent) -> gradients`, one for each argument that is differentiated, for a gradient
            that is on purpose not the derivative, such as a straight-through estimator.
        names: the names of the new arrays that `fn` may keep for its backward.
        new_bytes: how many bytes it may keep beyond arrays that are alive anyway.
        require: ways to use `fn` that it may not refuse: "torch.func", "vmap", "second-order", "torch.compile" and the
            other transformations that a refusal is noted for.
        framework: "jax" or "torch"; told from `fn` and its arguments where possible.
        quick: leave out what takes seconds, such as a compiler.
        seed: of the check's own random numbers. The same seed makes the same report.
        **kwargs: keyword arguments of `fn`.

    Raises:
        UsageError: if nothing here can be differentiated, or an option is also an argument of `fn`.
        MissingFramework: if its framework is not installed.
    """
    how = {"names": names, "new_bytes": new_bytes, "require": require, "seed": seed, "is_quick": quick}
    subject = subject_of(fn, args, kwargs, reference, vjp_reference, framework, how)
    return run(subject, getattr(fn, "__qualname__", None) or type(fn).__name__, rules.load())


def run(
    subject: Subject, name: str, chosen: Sequence[Rule], tell: Callable[[str, str], None] = lambda family, found: None
) -> Check:
    """Apply rules to a subject. `tell` gets each family when it is done, and what was found in it."""
    failures: list[Finding] = []
    also: dict[str, tuple[str, ...]] = {}
    not_run: list[tuple[str, str]] = []
    ran: dict[str, int] = {}
    failed: dict[str, str] = {}  # family → the rule that failed first in it
    for family in dict.fromkeys(rule.family for rule in chosen):
        for rule in (r for r in chosen if r.family == family):
            before = next((failed[f] for f in rules.needed(family) if f in failed), None)
            finding, reason = (None, f"{before} comes first") if before else _apply(rule, subject)
            if reason:
                not_run.append((rule.code, reason))
                continue
            ran[family] = ran.get(family, 0) + 1
            if finding and family in failed and family in rules.ONE_CAUSE:
                also[failed[family]] = (*also.get(failed[family], ()), f"{finding.title} ({finding.rule})")
            elif finding:
                failures.append(finding)
                failed.setdefault(family, finding.rule)
        tell(family, failed.get(family, "") or ("right" if family in ran else "not run"))
    try:
        truth = subject.truth.title
    except (Raised, *ODD):
        truth = "none: the function does not run"
    if subject.printed:
        subject.notes.append("the function prints; what it printed is left out here")
    refused = [f"under {' and '.join(dict.fromkeys(w))}: refused, {why}" for why, w in subject.refusals.items()]
    notes = tuple(dict.fromkeys([*subject.notes, *refused]))
    return Check(name, subject.adapter.TITLE, truth, tuple(failures), also, notes, tuple(not_run), ran)


def _apply(rule: Rule, subject: Subject) -> tuple[Finding | None, str]:
    """What a rule finds, or why it could not look."""
    try:
        return rule.find(subject), ""
    except NotRun as why:
        return None, str(why)
    except Raised as problem:
        return None, f"it raised {problem}"
    except ODD as problem:
        return None, f"results that do not fit together: {said(problem)}"


def subject_of(
    fn: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    reference: Any,
    vjp_reference: Any,
    framework: str | None,
    how: Mapping[str, Any],
) -> Subject:
    """The subject, at numbers where the function has a derivative."""
    _refuse_options(fn)
    name = getattr(fn, "__qualname__", None) or type(fn).__name__
    given = [as_marked(a).tree for a in (*args, *kwargs.values())]
    adapter = frameworks.load(framework or framework_of(fn, name, given))
    of = calls.load(adapter.NAME)
    _refuse_unknown_ways(how.get("require", ()), of)
    called, parameters = of.parts(fn)
    own = (Marked(parameters, "parameter"),) if parameters is not None else ()
    flat, inputs = flattened(adapter, called, (*own, *args), kwargs)
    if parameters is not None:
        inputs = [a._replace(name=name) for a, name in zip(inputs, parameters, strict=False)] + inputs[
            len(parameters) :
        ]
    if not any(of.is_differentiable(a.array) and a.role != "frozen" for a in inputs):
        raise UsageError(f"{name}: expected an argument to differentiate, got none{_WHICH[adapter.NAME]}")
    plain = [a.array for a in inputs]
    ways = _reference(adapter, reference, vjp_reference, (*own, *args), kwargs, plain)
    subject = Subject(adapter, of, flat, inputs, (fn, args, kwargs), ways, **how)
    return _where_smooth(_as_exact_as_can_be(subject))


_WHICH = {"torch": "; in PyTorch it is one that requires a gradient", "jax": "; in JAX it is one of floating numbers"}


def _refuse_options(fn: Any) -> None:
    """An option that the function also names would never reach the function."""
    try:
        theirs = {*inspect.signature(getattr(fn, "forward", fn)).parameters}
    except (TypeError, ValueError):
        return
    for name in OPTIONS:
        if name in theirs:
            raise UsageError(f"check: {name} is an option of check and an argument of the function; bind the "
                             f"argument with functools.partial")  # fmt: skip


def _refuse_unknown_ways(required: Sequence[str], of: Calls) -> None:
    for way in required:
        if way not in ways(of):
            raise UsageError(f"require: expected one of {', '.join(ways(of))}, got {way!r}")


def _reference(
    adapter: Framework,
    reference: Any,
    vjp_reference: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    arrays: Sequence[Any],
) -> Reference:
    """What somebody says is right, as functions of the arrays of the call."""
    if vjp_reference is not None:

        def vjp(given: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
            g = cotangents[0] if len(cotangents) == 1 else tuple(cotangents)
            rebuilt, _ = flattened(adapter, lambda *args, **kwargs: vjp_reference(args, g), args, kwargs)
            return [d for d in _leaves(adapter, rebuilt(*given)) if d is not None]

        return Reference(vjp=vjp)
    if reference is None:
        return Reference()
    if isinstance(reference, str):
        if reference not in BY_NAME:
            raise UsageError(f"reference: expected a function or one of {', '.join(BY_NAME)}, got {reference!r}")
        return Reference(
            f"residuals_{adapter.NAME}.{reference}", _flat(adapter, adapter.public(reference), args, kwargs)
        )
    title = getattr(reference, "__name__", None) or type(reference).__name__
    called, parameters = calls.load(adapter.NAME).parts(reference)
    fn = _flat(adapter, called if parameters is not None else reference, args, kwargs)
    if _is_numpy(reference):
        return Reference(title, in_numpy=fn)
    return Reference(title, fn)


def _flat(adapter: Framework, fn: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Callable[..., Any]:
    """A function of the arrays in these arguments alone, which brings its own arrays along."""
    flat, inputs = flattened(adapter, fn, args, kwargs)
    _, without = flattened(adapter, lambda: None, args, kwargs)
    own = [a.array for a in inputs[: len(inputs) - len(without)]]
    return (lambda *arrays: flat(*own, *arrays)) if own else flat


def _is_numpy(reference: Any) -> bool:
    """Whether a function is of NumPy and of no framework, as far as the names that its code reads can tell."""
    try:
        return framework_of(reference, "reference") == "numpy"
    except UsageError:
        seen = getattr(inspect.unwrap(reference), "__globals__", {}).values()
        return any(inspect.ismodule(a) and a.__name__ == "numpy" for a in seen) or isinstance(reference, np.ufunc)


def _leaves(adapter: Framework, tree: Any) -> list[Any]:
    """The arrays in a result, those of NumPy too."""
    if isinstance(tree, (tuple, list)):
        return [leaf for part in tree for leaf in _leaves(adapter, part)]
    return [tree] if isinstance(tree, np.ndarray) else [*adapter.arrays_in(tree)[0].values()]


def _as_exact_as_can_be(subject: Subject) -> Subject:
    """The subject in float64, or in the dtype of its arguments where the function refuses that."""
    dtypes = [subject.adapter.dtype_of(subject.inputs[i].array) for i in subject.wrt]
    own = {"complex64": "float32", "complex128": "float64"}.get(dtypes[0], dtypes[0])
    if own == "float64":
        return subject
    try:
        subject.run([np.zeros_like(y) for y in subject.outs])
        return subject
    except (Raised, ValueError):
        as_given = subject.at(subject.numbers, own)
        try:
            as_given.run([np.zeros_like(y) for y in as_given.outs])
        except (Raised, ValueError):  # it does not run at all, which a rule will say
            return as_given
        subject.notes.append(f"the function does not take float64: it is checked in {own}, less exactly")
        return as_given


def _where_smooth(subject: Subject) -> Subject:
    """The subject at its own arguments, or beside them where these are at a kink or a tie."""
    try:
        if subject.has_truth:
            return subject
        rng = subject.rng(3)
        numbers = list(subject.numbers)
        for i in subject.wrt:
            x = numbers[i]
            noise = 0.05 * rng.standard_normal(x.shape)
            numbers[i] = np.where(np.isfinite(x), x + noise * np.maximum(np.abs(x), 0.1), x)
        moved = subject.at(numbers)
        if moved.has_truth:
            subject.notes.append("the function has a kink or a tie at its arguments: it is checked beside them")
            return moved
    except (Raised, *ODD):
        pass
    return subject

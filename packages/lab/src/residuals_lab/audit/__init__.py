"""The audit: what any function keeps for its backward, before it runs out of memory.

    from residuals_lab.audit import audit, frozen, parameter

    print(audit(model, tokens))                               # PyTorch: a module or a function of tensors
    print(audit(loss, parameter(params), frozen(batch)))      # JAX: a function of pytrees

Nothing is computed and no array is allocated, unless `is_concrete` says so: the function is traced on shapes and
dtypes, in JAX as jaxprs and in PyTorch on fake tensors. The report is of the program as it is written, before
a compiler.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from residuals_lab import frameworks
from residuals_lab.audit.advice import Advice, advice
from residuals_lab.audit.proof import Given, Proof, prove
from residuals_lab.audit.waste import Waste, waste
from residuals_lab.errors import UsageError
from residuals_lab.frameworks.compiled import Compiled, Subject
from residuals_lab.frameworks.detect import framework_of
from residuals_lab.frameworks.messages import explained
from residuals_lab.frameworks.protocol import Framework
from residuals_lab.lanes.rows import Note, Picture
from residuals_lab.show import size
from residuals_lab.targets.calls import Marked, as_marked, flattened, variables_around
from residuals_lab.trace import Residual, Trace, lifetimes
from residuals_lab.trace.repeats import Repeat, repeats


def parameter(tree: Any) -> Marked:
    """An argument whose arrays are parameters: differentiated, and kept alive by somebody else."""
    return Marked(tree, "parameter")


def frozen(tree: Any) -> Marked:
    """An argument whose arrays are not differentiated, though of floating numbers, such as a batch of images."""
    return Marked(tree, "frozen")


@dataclass(frozen=True)
class Audit:
    """What one function keeps for its backward. `print` it, or look at it in a notebook; `document` is for machines."""

    target: str
    framework: str  # its name and version
    trace: Trace
    adapter: Framework
    compiled: Compiled | None = None  # the arrays kept after XLA or `torch.compile`, if asked for
    proof: Proof | None = None  # what the advice frees when it is taken, if asked for

    @property
    def residuals(self) -> tuple[Residual, ...]:
        return self.trace.residuals

    @property
    def saved_bytes(self) -> int:
        """Bytes saved for the backward, each storage once."""
        return self.trace.saved_bytes

    @property
    def new_bytes(self) -> int:
        """Bytes saved beyond arrays that are alive anyway, each storage once."""
        return self.trace.new_bytes

    @cached_property
    def peak_bytes(self) -> int:
        """The most bytes of residuals that are alive at one time, each storage once."""
        return lifetimes.peak(self.trace)

    @cached_property
    def findings(self) -> list[Waste]:
        """What is wasted, the largest first: unused, duplicate, hidden, pinned by a view, or derivable from another."""
        return waste(self.trace)

    @cached_property
    def repeats(self) -> list[Repeat]:
        """The costly steps of the forward that the backward repeats, and what saving them would cost."""
        return repeats(self.trace)

    @cached_property
    def advice(self) -> list[Advice]:
        """What an op of ours would keep in place of what is here, measured on shapes, the most bytes first."""
        return advice(self.trace, self.adapter)

    @property
    def picture(self) -> Picture:
        """Its column in the lanes: what is wasted is hatched, and each advice is a note."""
        wasted = {storage: f"{found.what}: {found.why}" for found in self.findings for storage in found.storages}
        return Picture(self.trace, wasted, tuple(Note(said(one), one.storages) for one in self.advice))

    def document(self) -> dict[str, Any]:
        """All of it as plain data, for JSON."""
        from residuals_lab.audit.document import document

        return document(self)

    def __str__(self) -> str:
        from residuals_lab.audit.table import text

        return text(self)

    def _repr_html_(self) -> str:
        from residuals_lab.audit.page import html

        return html([self])


def titled(audits: Sequence[Audit]) -> dict[str, Audit]:
    """Audits by titles, all different."""
    named = {f"{a.target} ({a.framework})": a for a in audits}
    return named if len(named) == len(audits) else {f"{i}: {a.target}": a for i, a in enumerate(audits, 1)}


def said(advice: Advice) -> str:
    """One advice in a few words, for a picture: `swiglu would keep none of these 4 GiB`."""
    kept = size(advice.instead) if advice.instead else "none"
    return f"{advice.op} would keep {kept} of these {size(advice.nbytes)}"


def audit(
    fn: Callable[..., Any],
    *args: Any,
    framework: str | None = None,
    is_concrete: bool = False,
    compiled: bool = False,
    is_proved: bool = False,
    name: str | None = None,
    **kwargs: Any,
) -> Audit:
    """Report what `fn(*args, **kwargs)` keeps for its backward.

    Modules are afterwards what they were. What `fn` puts into a cache or a global variable stays there, in PyTorch as
    a tensor without numbers: clear it, or have it filled before.

    Args:
        fn: a function, a `torch.nn.Module`, or a callable tree such as an Equinox module, whose arrays are parameters.
        *args: its arguments: arrays, `jax.ShapeDtypeStruct`s, or trees of them, each possibly marked as `parameter` or
            `frozen`. What is not an array is passed on as it is. In PyTorch a tensor is differentiated if it requires a
            gradient, as always; in JAX, if it is of floating numbers.
        framework: "jax" or "torch"; told from `fn` and its arguments where possible.
        is_concrete: compute the forward on the arrays themselves, for code whose path depends on their numbers.
        compiled: also report what is kept after XLA or `torch.compile`.
        is_proved: also take the advice: trace the forward again with the ops in place of what they replace.
        name: what to call the function in the report.
        **kwargs: its keyword arguments, as `args`.

    Raises:
        UsageError: if `fn` gives nothing that has a gradient, or cannot be traced or compiled; it says what to do.
        MissingFramework: if its framework is not installed.
    """
    name = name or getattr(fn, "__qualname__", None) or type(fn).__name__
    adapter = frameworks.load(framework or framework_of(fn, name, [*args, *kwargs.values()]))
    flat, inputs = flattened(adapter, fn, args, kwargs)
    names, arrays, roles = zip(*inputs, strict=True) if inputs else ((), (), ())
    around = variables_around(fn)
    try:
        trace = adapter.trace(flat, arrays, names, roles=roles, around=around, is_abstract=not is_concrete)
    except UsageError:
        raise
    except (Exception, SystemExit) as problem:  # an exception of any kind: the function is not ours
        raise UsageError(explained(problem, is_concrete)) from problem
    found = Audit(name, adapter.TITLE, trace, adapter)
    if is_proved:
        given = Given(flat, arrays, names, roles, not is_concrete)
        found = replace(found, proof=prove(found.advice, trace, adapter, given))
    if not compiled:
        return found
    marked = map(as_marked, (*args, *kwargs.values()))
    values = [adapter.frozen(a.tree) if a.role == "frozen" else a.tree for a in marked]
    named = dict(zip(kwargs, values[len(args) :], strict=True))
    subject = Subject(fn, values[: len(args)], named, flat, inputs, around)
    return replace(found, compiled=_compiled(adapter, subject))


def _compiled(adapter: Framework, subject: Subject) -> Compiled:
    try:
        found: Compiled = adapter.after_compilation(subject)
    except (Exception, SystemExit) as problem:  # of any kind: neither compiler nor function is ours
        raise UsageError(f"cannot be compiled: {explained(problem, is_concrete=True)}") from problem
    return found

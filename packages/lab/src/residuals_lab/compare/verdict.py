"""The findings about an op from its measurements; a right op has none."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from residuals_lab.compare.measure import Errors, Options
from residuals_lab.finding import Finding
from residuals_lab.frameworks.protocol import Framework
from residuals_lab.ops.tolerance import FLOAT64_LIMIT, limit
from residuals_lab.show import size

if TYPE_CHECKING:
    from residuals_lab.compare import Entry, Implementation

FEW = 100  # a hundredth of the op's first array is a few numbers, such as an eps


def findings(entry: "Entry", adapters: Sequence[Framework], options: Options) -> Iterator[Finding]:
    """All findings about an entry of a comparison."""
    op = entry.call.op.name
    for adapter in adapters:
        side, module = entry.sides[adapter.NAME], adapter.op(op)
        where, trace = f"{op} in {adapter.TITLE}", side.rule.kept.trace
        yield from _inaccuracies(where, side.rule.errors, side.plain.errors)
        names, expected = sorted(r.name for r in trace.residuals), sorted(entry.call.residuals())
        if names != expected:
            yield Finding(
                "residuals-differ",
                f"{where} saves other arrays than its `Residuals` says",
                _listed(expected),
                _listed(names),
                "the fields of `Residuals` are what a reader takes the backward to keep",
                "save the fields of `Residuals`, each with its NumPy value, and nothing else",
            )
        repeats, declared = trace.repeats(), sorted(set(module.RECOMPUTES).intersection(trace.computed()))
        if repeats != declared:
            yield Finding(
                "repeats-forward",
                f"{where} repeats other operations in its backward than RECOMPUTES declares",
                _listed(declared),
                _listed(repeats),
                "what a backward repeats is a choice against the bytes of saving it",
                "save the value, or declare the operation in RECOMPUTES with the reason",
            )
        dtype = options.dtypes[0]
        allowed = limit(dtype, side.plain.errors.gradient[dtype])
        for (source, reader), worst in entry.exchange.items():
            if reader == adapter.NAME and not worst <= allowed:
                yield Finding(
                    "exchange-differs",
                    f"{op}: the backward of {reader}, given the residuals of {source}, makes another gradient",
                    f"an error of at most {allowed:.1e} in {dtype}",
                    f"{worst:.1e}",
                    "packages that agree on residuals can take each other's",
                    "give each residual the value that it has in residuals_numpy",
                )
    if entry.target is not None and entry.target_framework is not None:
        side = entry.sides[entry.target_framework]
        why = f": it {entry.known.text}".replace("the first's", f"{op}'s") if entry.known else ""
        yield from _inaccuracies(entry.target.name, entry.target.errors, side.plain.errors, why)
        yield from _keeps_more(entry.target, side.rule, op, entry.first_array_bytes)


def _keeps_more(target: "Implementation", rule: "Implementation", op: str, first_array_bytes: int) -> Iterator[Finding]:
    """Whether a function keeps more than the op, alone or in linear → op → linear, by more than a few numbers."""
    for where, found, allowed in (
        ("of new memory", target.kept.new_bytes, rule.kept.new_bytes),
        ("added to linear→op→linear", target.kept.chain_bytes, rule.kept.chain_bytes),
    ):
        if found - allowed <= first_array_bytes // FEW:
            continue
        known = {r.name for r in rule.kept.trace.residuals}
        stored = {r.storage: r for r in reversed(target.kept.trace.residuals)}
        extra = [r for r in reversed(stored.values()) if r.name not in known]
        arrays = [f"{r.name}, {size(r.storage_bytes)}{', never read' if r.is_unused else ''}" for r in extra]
        yield Finding(
            "keeps-more",
            f"{target.name} keeps more than {op}{': ' * bool(arrays)}{'; '.join(arrays)}",
            f"{size(allowed)} {where}",
            size(found),
            "memory that is kept from the forward to the backward is what a model runs out of",
            f"keep what {op} keeps, {_listed(sorted(known))}, and make the rest again in the backward",
        )
        return


def _inaccuracies(where: str, errors: Errors, plain: Errors, why: str = "") -> Iterator[Finding]:
    """An error above what plain autodiff of our op's maths allows: the first, since what is wrong in one dtype is so in
    the others, and with a wrong value its derivatives are wrong.
    """
    for what, found, of_plain in (("value", errors.value, plain.value), ("gradient", errors.gradient, plain.gradient)):
        for dtype, worst in found.items():
            if not worst <= limit(dtype, of_plain[dtype]):
                yield Finding(
                    f"{what}-wrong",
                    f"{where}: {what} error in {dtype}{why}",
                    f"at most {limit(dtype, of_plain[dtype]):.1e}",
                    f"{worst:.1e}",
                    "plain autodiff of the same maths is this exact",
                    f"compare the {what} with the op's page, term by term",
                )
                return
    if errors.second_derivative is None:
        yield Finding(
            "no-second-derivative",
            f"{where} cannot be differentiated twice",
            "a gradient that has a gradient",
            "none",
            "gradient penalties and Hessian-vector products differentiate the backward",
            "let the backward be made of operations that can be differentiated",
        )
    elif not errors.second_derivative <= FLOAT64_LIMIT:
        yield Finding(
            "second-derivative-wrong",
            f"{where}: second derivative error in float64",
            f"at most {FLOAT64_LIMIT:.1e}",
            f"{errors.second_derivative:.1e}",
            "a saved intermediate is a constant to PyTorch unless it is an output of the rule",
            "return what is computed and saved as an output of forward, and take its cotangent in backward",
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"

"""The rules: each file here is one way in which a custom gradient goes wrong.

A rule's docstring is its page: the first line is the fault, the rest says how it comes about, how it shows, how to mend
it. `find` looks at a subject. `EXAMPLES` has a function with the fault in each framework in which there can be one, and
its mend: what is to be mended ends with `# wrong`, and the right line follows as a comment, `# right: `.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from residuals_lab.check.subject import Subject
from residuals_lab.errors import UsageError
from residuals_lab.finding import Finding

# The families in the order in which they run, each with its rules in theirs: a cause is before what follows from it.
FAMILIES: dict[str, tuple[str, ...]] = {
    "call": ("raises", "no_gradient", "gradient_raises", "not_deterministic"),
    "random": ("random_in_backward",),
    "purity": ("input_overwritten", "cotangent_overwritten", "writes_grad", "global_random_state"),
    "value": ("value_when_differentiated", "value_wrong"),
    "gradient": (
        "cotangent_ignored",
        "output_cotangent_ignored",
        "cotangent_collapsed",
        "gradient_missing",
        "gradients_swapped",
        "gradient_conjugate",
        "gradient_factor",
        "cotangent_not_linear",
        "gradient_wrong",
    ),
    "kind": ("gradient_shape", "gradient_dtype"),
    "calls": ("state_between_calls", "second_backward", "same_argument_twice"),
    "asked": ("output_alone", "frozen_subset"),
    "strides": ("stride_of_cotangent", "stride_of_input"),
    "shapes": ("other_rank", "zero_size", "broadcast_argument"),
    "precision": ("not_finite", "special_numbers", "low_precision"),
    "transforms": ("functional", "transformed", "vmap", "autocast", "required"),
    "second": ("silent_second_derivative", "second_derivative_wrong"),
    "residuals": (
        "tensor_on_ctx",
        "leaked_by_cycle",
        "unused_residual",
        "repeats_forward",
        "derivable_residual",
        "quadratic_residuals",
        "too_much_kept",
    ),
}
# A failure in one of these families may be the cause of one in the family, so that its rules would only repeat it.
AFTER: dict[str, tuple[str, ...]] = {
    "random": ("call",),
    "value": ("call", "random"),
    "gradient": ("call", "random", "purity", "value"),
    "calls": ("call", "random", "purity"),
    "asked": ("call", "random"),
    "strides": ("call", "random"),
    "shapes": ("call", "random", "purity", "value", "gradient"),
    "precision": ("call", "random", "purity", "value", "gradient"),
    "second": ("call", "random", "purity", "value", "gradient", "kind", "calls"),
    "transforms": ("call", "random", "purity", "value", "calls"),
    "kind": ("call",),
    "purity": ("call", "random"),
    "residuals": ("call",),
}
ONE_CAUSE = (
    "call",
    "gradient",
    "calls",
    "strides",
    "second",
    "transforms",
)  # families of which the first rule that fails names the cause
NO_EXAMPLE = "–"


class Rule(NamedTuple):
    """A rule, as its file has it."""

    code: str
    family: str
    page: str
    find: Callable[[Subject], Finding | None]
    examples: Mapping[str, str]  # framework → source, or the reason why there can be none
    arguments: Sequence[str]  # of the example, as a command line spells them

    @property
    def title(self) -> str:
        """The fault in one line."""
        return self.page.partition("\n")[0].rstrip(".")

    def example(self, framework: str, is_right: bool) -> str | None:
        """The source of the wrong example or of its mend; None if there is none in this framework."""
        source = self.examples[framework]
        if "\n" not in source:
            return None
        if is_right:
            return re.sub(r"^( *)[^\n]*  # wrong\n\1# right: ", r"\1", source, flags=re.MULTILINE)
        return re.sub(r"^ *# right: .*\n", "", source, flags=re.MULTILINE)


def load() -> list[Rule]:
    """All rules, in the order in which they run."""
    return [_rule(family, name) for family, names in FAMILIES.items() for name in names]


def needed(family: str) -> tuple[str, ...]:
    """The families that have to be without a failure for this one to be looked at."""
    return AFTER.get(family, ())


def chosen(family: str | None = None, code: str | None = None) -> list[Rule]:
    """The rules of a family, or the one with a code; all if neither is given."""
    found = load()
    if family is not None and family not in FAMILIES:
        raise UsageError(f"--only: expected one of {', '.join(FAMILIES)}, got {family!r}")
    if code is not None and code not in {rule.code for rule in found}:
        raise UsageError(f"rule: expected one of {', '.join(rule.code for rule in found)}, got {code!r}")
    return [rule for rule in found if family in (None, rule.family) and code in (None, rule.code)]


def _rule(family: str, name: str) -> Rule:
    module = importlib.import_module(f"{__name__}.{name}")
    page = inspect.cleandoc(module.__doc__ or "")
    arguments = getattr(module, "ARGUMENTS", ("f64[4,6]",))
    return Rule(name.replace("_", "-"), family, page, module.find, module.EXAMPLES, arguments)

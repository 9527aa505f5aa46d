"""For tests of the check: the examples of its rules, as functions with their arguments."""

from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from residuals_lab import frameworks
from residuals_lab.check.rules import Rule
from residuals_lab.targets.functions import load_target


class Example(NamedTuple):
    fn: Any
    args: list[Any]


def example(rule: Rule, framework: str, is_right: bool, folder: Path) -> Example:
    """The wrong example of a rule, or its mend. Call it where float64 can be made."""
    source = rule.example(framework, is_right)
    assert source
    path = folder / f"{rule.code.replace('-', '_')}_{framework}_{'right' if is_right else 'wrong'}.py"
    path.write_text(source)
    ran: dict[Path, ModuleType] = {}
    fn = load_target(f"{path}:fn", ran)
    (module,) = ran.values()
    rng = np.random.default_rng(0)
    args = [array(framework, spec, rng) if "[" in spec else getattr(module, spec.partition(":")[2])()
            for spec in rule.arguments]  # fmt: skip
    return Example(fn, args)


def array(framework: str, spec: str, rng: np.random.Generator) -> Any:
    """An array of random numbers, spelled as on a command line."""
    dtype, _, rest = spec.partition("[")
    shape = tuple(int(n) for n in rest.rstrip("]").split(",") if n)
    name = {"f64": "float64", "f32": "float32", "bf16": "bfloat16"}[dtype]
    adapter = frameworks.load(framework)
    return adapter.array(rng.standard_normal(shape), name)


def has_example(rule: Rule, framework: str) -> bool:
    return rule.example(framework, is_right=False) is not None

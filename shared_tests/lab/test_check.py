"""The check: every rule is the first to name its planted fault, its mend passes, and right functions are left alone."""

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checked import example, has_example
from markdown import DOCS
from residuals_lab import cli, frameworks
from residuals_lab.audit import frozen
from residuals_lab.check import Check, check, rules, run, subject_of
from residuals_lab.errors import UsageError
from residuals_lab.ops import OPS
from residuals_lab.ops.call import samples
from residuals_lab.testing import assert_gradient

INSTALLED = frameworks.installed()
BOTH = pytest.mark.parametrize("framework", INSTALLED)
RULES = rules.load()
PLANTED = [(rule, name) for rule in RULES for name in INSTALLED if has_example(rule, name)]
SLOW = {("transformed", "torch")}  # what only torch.compile sees
NUMPY = {"jax": "jax.numpy", "torch": "torch"}


def planted(rule: rules.Rule, framework: str, is_right: bool, folder: Path) -> Check:
    """The check of an example: of a wrong one by the rules up to this one, of its mend by all."""
    with frameworks.load(framework).precision("float64"):
        found = example(rule, framework, is_right, folder)
        how = {"is_quick": (rule.code, framework) not in SLOW}
        subject = subject_of(found.fn, found.args, {}, None, None, framework, how)
        return run(subject, rule.code, RULES if is_right else RULES[: RULES.index(rule) + 1])


@pytest.mark.parametrize(("rule", "framework"), PLANTED, ids=[f"{rule.code}-{name}" for rule, name in PLANTED])
def test_a_rule_is_the_first_to_name_its_fault_and_its_mend_passes(
    rule: rules.Rule, framework: str, tmp_path: Path
) -> None:
    wrong = planted(rule, framework, False, tmp_path)
    assert [f.rule for f in wrong.failures][:1] == [rule.code], str(wrong)
    right = planted(rule, framework, True, tmp_path)
    assert right.passed, str(right)


def test_a_rule_has_a_page_and_an_example_or_a_reason() -> None:
    assert len({rule.code for rule in RULES}) == len(RULES)
    files = {path.stem for path in Path(rules.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == {rule.code.replace("-", "_") for rule in RULES}
    for rule in RULES:
        assert {*rule.examples} == {*frameworks.NAMES}, rule.code
        assert rule.page.count("\n") >= 2, rule.code
        for name, text in rule.examples.items():
            if "\n" in text:
                assert rule.example(name, False) != rule.example(name, True), f"{rule.code}: nothing is wrong in {name}"
            else:
                assert text.endswith("."), rule.code


def test_the_page_of_the_rules_is_what_they_say() -> None:
    spec = importlib.util.spec_from_file_location("check_page", DOCS / "check_page.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "check.md").read_text(encoding="utf-8") == module.page(), "run: python docs/check_page.py"


@BOTH
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_our_ops_pass(framework: str, op: Any) -> None:
    adapter, call = frameworks.load(framework), next(iter(samples(op.name).values()))
    names = [*call.arrays, *call.constants]
    args = [adapter.array(a, "float32") for a in call.arrays.values()]
    wide = (a.astype(np.float32) if a.dtype.kind == "f" else a for a in call.constants.values())
    args += [frozen(adapter.constant(a)) for a in wide]
    public = adapter.public(op.name)

    def fn(*given: Any) -> Any:
        return public(**dict(zip(names, given, strict=True)), **call.static)

    found = check(fn, *args, framework=framework, quick=True)
    assert found.passed, str(found)


RIGHT = {
    "torch": {
        "relu at zeros": ("torch.nn.functional.relu(x * (x > 0))", 1),
        "absolute": ("x.abs()", 1),
        "maximum": ("(x * 0).amax(-1) + x.amax(-1)", 1),
        "layer_norm": ("torch.nn.functional.layer_norm(x, (6,), y, y)", 2),
        "cross_entropy": ("torch.nn.functional.cross_entropy(x, torch.arange(4))", 1),
        "attention": ("torch.nn.functional.scaled_dot_product_attention(x[None], x[None], x[None])", 1),
        "norm": ("x.norm(dim=-1)", 1),
        "sort": ("x.sort(-1)[0].cumsum(-1)", 1),
        "in float32 inside": ("x.float().exp().to(x.dtype)", 1),
        "checkpoint": ("checkpoint(torch.sin, x, use_reentrant=False)", 1),
    },
    "jax": {
        "relu at zeros": ("jax.nn.relu(x * (x > 0))", 1),
        "absolute": ("jnp.abs(x)", 1),
        "maximum": ("jnp.max(x * 0, -1) + jnp.max(x, -1)", 1),
        "softmax": ("jax.nn.softmax(x)", 1),
        "logsumexp": ("jax.nn.logsumexp(x, -1)", 1),
        "gelu": ("jax.nn.gelu(x)", 1),
        "stop_gradient": ("(jnp.sin(x), jax.lax.stop_gradient(jnp.cos(x)))", 1),
        "product": ("x @ x.T + y.sum()", 2),
        "in float32 inside": ("jnp.exp(x.astype(jnp.float32)).astype(x.dtype)", 1),
        "dropout": ("jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, x.shape), 2 * x, 0)", 1),
    },
}
IMPORTS = {
    "torch": "import torch\nfrom torch.utils.checkpoint import checkpoint",
    "jax": "import jax, jax.numpy as jnp",
}
CASES = [(name, what) for name in INSTALLED for what in RIGHT[name]]


def function(framework: str, text: str) -> Any:
    names: dict[str, Any] = {}
    exec(f"{IMPORTS[framework]}\ndef fn(x, y=None):\n    return {text}\n", names)
    return names["fn"]


def arrays(framework: str, count: int = 1) -> list[Any]:
    rng = np.random.default_rng(1)
    return [frameworks.load(framework).array(rng.standard_normal(shape), "float32") for shape in ((4, 6), (6,))[:count]]


@pytest.mark.parametrize(("framework", "what"), CASES, ids=[f"{name}-{what}" for name, what in CASES])
def test_right_functions_pass(framework: str, what: str) -> None:
    text, count = RIGHT[framework][what]
    found = check(function(framework, text), *arrays(framework, count), framework=framework, quick=True)
    assert found.passed, str(found)

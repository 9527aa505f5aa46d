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
        "relu": ("torch.nn.functional.relu(x)", 1),
        "absolute": ("x.abs()", 1),
        "maximum": ("x.amax(-1)", 1),
        "layer_norm": ("torch.nn.functional.layer_norm(x, (6,), y, y)", 2),
        "cross_entropy": ("torch.nn.functional.cross_entropy(x, torch.arange(4))", 1),
        "attention": ("torch.nn.functional.scaled_dot_product_attention(x[None], x[None], x[None])", 1),
        "norm": ("x.norm(dim=-1)", 1),
        "sort": ("x.sort(-1)[0].cumsum(-1)", 1),
        "in float32 inside": ("x.float().exp().to(x.dtype)", 1),
        "checkpoint": ("checkpoint(torch.sin, x, use_reentrant=False)", 1),
    },
    "jax": {
        "relu": ("jax.nn.relu(x)", 1),
        "absolute": ("jnp.abs(x)", 1),
        "maximum": ("jnp.max(x, -1)", 1),
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


@BOTH
@pytest.mark.parametrize("what", ["relu", "absolute", "maximum"])
def test_kinks_and_ties_are_not_blamed(framework: str, what: str) -> None:
    """At whole numbers, many of them zero and many equal."""
    text, _ = RIGHT[framework][what]
    whole = np.round(np.random.default_rng(1).standard_normal((4, 6)))
    x = frameworks.load(framework).array(whole, "float32")
    found = check(function(framework, text), x, framework=framework, quick=True)
    assert found.passed, str(found)


# What is right is said by somebody else.

SCALED = {
    "torch": """
import torch

class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin(){value}

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return {gradient}

def fn(x):
    return Scaled.apply(x)
""",
    "jax": """
import jax, jax.numpy as jnp

@jax.custom_vjp
def fn(x):
    return jnp.sin(x){value}

fn.defvjp(lambda x: (jnp.sin(x){value}, x), lambda x, g: ({gradient},))
""",
}
COS = {"torch": "x.cos()", "jax": "jnp.cos(x)"}
SIN = {"torch": "torch.sin", "jax": "jnp.sin"}


def scaled(framework: str, gradient: str, value: str = "") -> Any:
    names: dict[str, Any] = {}
    exec(SCALED[framework].format(gradient=gradient.replace("cos", COS[framework]), value=value), names)
    return names["fn"]


def codes(found: Check) -> list[str]:
    return [f.rule for f in found.failures]


@BOTH
def test_a_reference_of_any_kind_is_the_truth(framework: str) -> None:
    """A function of the framework, one of NumPy, an op of ours: each fails what is not its gradient or its value."""
    plain = function(framework, f"{SIN[framework]}(x)")
    for reference in (plain, numpy_sin):
        for fn, expected in (
            (scaled(framework, "g * cos"), []),
            (scaled(framework, "g * cos * 1.01"), ["gradient-factor"]),
            (scaled(framework, "g * cos", " + 1e-4"), ["value-wrong"]),
        ):
            found = check(fn, *arrays(framework), reference=reference, framework=framework, quick=True)
            assert codes(found)[:1] == expected, str(found)
            assert reference.__name__ in found.truth
    tanh = function(framework, "torch.tanh(x)" if framework == "torch" else "jnp.tanh(x)")
    assert check(tanh, *arrays(framework), reference="tanh", framework=framework, quick=True).passed
    with pytest.raises(UsageError, match="reference: expected a function or one of"):
        check(tanh, *arrays(framework), reference="tanhh", framework=framework)


def numpy_sin(x: Any) -> Any:
    return np.sin(x)


@BOTH
def test_a_vjp_reference_is_for_gradients_that_are_no_derivative(framework: str) -> None:
    reversed_sign = scaled(framework, "-g * cos")
    assert codes(check(reversed_sign, *arrays(framework), framework=framework, quick=True))[:1] == ["gradient-factor"]
    cos = function(framework, COS[framework])

    def reference(args: tuple[Any, ...], cotangent: Any) -> tuple[Any]:
        return (-cotangent * cos(*args),)

    how: dict[str, Any] = {"vjp_reference": reference, "framework": framework, "quick": True}
    assert check(reversed_sign, *arrays(framework), **how).passed
    assert codes(check(scaled(framework, "g * cos"), *arrays(framework), **how))[:1] == ["gradient-factor"]


@BOTH
def test_one_wrong_number_of_many_is_found(framework: str) -> None:
    """The first halves of a direction in which the gradient is wrong lead to it."""
    numbers = np.random.default_rng(1).standard_normal((20, 30))
    row, column = np.unravel_index(np.argmax(numbers), numbers.shape)
    fn, x = scaled(framework, "g * cos * (1 + (x == x.max()))"), frameworks.load(framework).array(numbers, "float32")
    subject = subject_of(fn, [x], {}, None, None, framework, {"is_quick": True})
    (found,) = run(subject, "fn", rules.chosen(code="gradient-wrong")).failures
    assert f"[{row}, {column}] itself is {numbers.max():.5g}" in found.got, found.got
    assert "of 48 numbers looked at, 0 are wrong" in found.got


def test_another_rank_does_not_square_a_long_array() -> None:
    from residuals_lab.check.rules import other_rank

    assert other_rank._stacked(np.ones((4, 6))).shape == (5, 4, 6)
    assert other_rank._stacked(np.ones(1 << 16)).shape == (2, 1 << 16)


@BOTH
def test_less_precision_than_plain_autodiff_is_named(framework: str) -> None:
    """A gradient summed in bfloat16, beside the same summed by the framework."""
    fn, plain = scaled(framework, "g * (cos + (x * 0 + 32) - 32)"), function(framework, f"{SIN[framework]}(x)")
    found = check(fn, *arrays(framework), reference=plain, framework=framework, quick=True)
    assert codes(found) == ["low-precision"], str(found)


@BOTH
def test_names_and_bytes_are_bounds(framework: str) -> None:
    fn = function(framework, "torch.exp(torch.exp(x))" if framework == "torch" else "jnp.exp(jnp.exp(x))")
    how: dict[str, Any] = {"framework": framework, "quick": True}
    kept = check(fn, *arrays(framework), names=[], **how)
    assert codes(kept) == ["too-much-kept"]
    assert codes(check(fn, *arrays(framework), new_bytes=8, **how)) == ["too-much-kept"]
    assert check(fn, *arrays(framework), new_bytes=1 << 20, **how).passed


@pytest.mark.needs("torch")
def test_what_is_required_is_a_failure_where_it_is_refused() -> None:
    """An old-style rule: two notes, and a failure for each that is required."""
    fn = scaled("torch", "g * cos")
    found = check(fn, *arrays("torch"), quick=True)
    assert found.passed, str(found)
    assert any("torch.func and vmap: refused, forward has ctx" in note for note in found.notes), found.notes
    for way in ("torch.func", "vmap"):
        found = check(fn, *arrays("torch"), require=[way], quick=True)
        assert codes(found) == ["required"], str(found)
        assert "setup_context" in found.failures[0].mend
    assert check(fn, *arrays("torch"), require=["second-order", "torch.utils.checkpoint"], quick=True).passed


@BOTH
def test_a_way_that_is_required_runs_or_is_unknown(framework: str) -> None:
    plain = function(framework, f"{SIN[framework]}(x)")
    assert check(plain, *arrays(framework), require=["vmap", "second-order"], framework=framework, quick=True).passed
    with pytest.raises(UsageError, match=r"require: expected one of .*vmap, .*, got 'vmapp'"):
        check(plain, *arrays(framework), require=["vmapp"], framework=framework)


@pytest.mark.needs("jax")
@pytest.mark.parametrize(("axes", "rule"), [("'i'", []), ("()", ["required"])])
def test_a_gradient_is_summed_over_a_mesh_of_several_devices(axes: str, rule: list[str]) -> None:
    """A weight that every device has."""
    names: dict[str, Any] = {}
    exec(
        SCALED["jax"].partition("@")[0] + "from jax.sharding import get_abstract_mesh\n"
        "@jax.custom_vjp\ndef fn(x, w):\n    return x * w\n"
        "def bwd(kept, g):\n    x, w = kept\n    dw = (g * x).sum(tuple(range(g.ndim - w.ndim)))\n"
        f"    return g * w, jax.lax.psum(dw, {axes}) if 'i' in get_abstract_mesh().axis_names else dw\n"
        "fn.defvjp(lambda x, w: (x * w, (x, w)), bwd)",
        names,
    )
    subject = subject_of(names["fn"], arrays("jax", 2), {}, None, None, "jax", {"require": ["jax.shard_map"]})
    found = run(subject, "fn", [*rules.chosen(code="transformed"), *rules.chosen(code="required")])
    assert codes(found) == rule, str(found)
    assert rule == [] or "psum" in found.failures[0].mend


@pytest.mark.needs("torch")
def test_bytes_that_could_be_saved_are_noted() -> None:
    import torch

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            rows = x @ x.T
            ctx.save_for_backward(x, x.clone(), rows)
            return rows.sin()

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            x, again, rows = ctx.saved_tensors
            d = g * rows.cos()
            return d @ again + d.T @ x

    subject = subject_of(Product.apply, arrays("torch"), {}, None, None, "torch", {})
    found = run(subject, "fn", rules.chosen("residuals"))
    assert found.passed, str(found)
    assert any("could be left out: argument 0, 96 B: the same values as" in note for note in found.notes), found.notes
    assert any("grow as the square of axis 0 of argument 0" in note for note in found.notes), found.notes


# Somebody's function is hostile.


@BOTH
@pytest.mark.parametrize("what", ["raise SystemExit(3)", "raise ValueError('no')", "import sys; sys.exit()"])
def test_whatever_a_function_raises_is_a_finding(framework: str, what: str) -> None:
    names: dict[str, Any] = {}
    exec(f"def fn(x):\n    {what}\n", names)
    assert codes(check(names["fn"], *arrays(framework), framework=framework, quick=True)) == ["raises"]


def states() -> list[str]:
    return [repr(random.getstate()), repr(np.random.get_state())]  # noqa: NPY002


@BOTH
def test_states_are_left_as_they_were(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"plain": function(framework, f"{SIN[framework]}(x)")}
    draws = "print('hello', random.random(), numpy.random.rand())"
    exec(f"import random, numpy\ndef fn(x):\n    {draws}\n    return plain(x)", names)
    x = arrays(framework)
    before = states(), np.array(frameworks.load(framework).to_numpy(x[0]))
    found = check(names["fn"], *x, framework=framework, quick=True)
    assert found.passed, str(found)
    assert states() == before[0]
    assert np.array_equal(frameworks.load(framework).to_numpy(x[0]), before[1])
    assert capsys.readouterr().out == ""
    assert any("prints" in note for note in found.notes)


SETTINGS = {
    "torch": ("torch.set_default_dtype(torch.float16)", "torch's default dtype from torch.float32 to torch.float16"),
    "jax": ("jax.config.update('jax_default_matmul_precision', 'float32')", "jax_default_matmul_precision from None"),
}


@BOTH
def test_settings_are_put_back_and_a_closed_stream_does_no_harm(framework: str) -> None:
    """Called twice, so that what one call leaves would be there in the next."""
    body, said = SETTINGS[framework]
    names: dict[str, Any] = {"plain": function(framework, f"{SIN[framework]}(x)")}
    exec(f"{IMPORTS[framework]}\nimport sys\ndef fn(x):\n    sys.stdout.close(); {body}; return plain(x)", names)
    for _ in range(2):
        found = check(names["fn"], *arrays(framework), framework=framework, quick=True)
        assert found.passed, str(found)
        assert any(said in note for note in found.notes), found.notes


@BOTH
@pytest.mark.parametrize(("result", "rule"), [("x * float('nan')", "raises"), ("x / 0", "raises"), ("(x,) * n()", "")])
def test_results_that_cannot_be_compared_are_a_finding(framework: str, result: str, rule: str) -> None:
    """No finite number, and another number of results each time."""
    names: dict[str, Any] = {}
    exec(f"c = []\ndef n():\n    c.append(0)\n    return len(c)\ndef fn(x):\n    return {result}\n", names)
    found = check(names["fn"], *arrays(framework), framework=framework, quick=True)
    assert not found.passed
    assert codes(found)[0] == (rule or codes(found)[0])


@pytest.mark.needs("torch")
def test_a_module_is_left_as_it_was() -> None:
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(6, 3), torch.nn.BatchNorm1d(3), torch.nn.Tanh())
    weight, bias = model[1].weight, model[1].bias
    with torch.no_grad():
        weight.copy_(torch.tensor([0.5, 1.5, 2.0]))
        bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    found = check(model, torch.arange(24.0).sin().reshape(4, 6), quick=True)
    assert found.passed, str(found)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@BOTH
def test_the_same_seed_makes_the_same_report(framework: str) -> None:
    fn = scaled(framework, "g * cos * cos")
    one, two, other = (
        str(check(fn, *arrays(framework), framework=framework, quick=True, seed=seed)) for seed in (1, 1, 2)
    )
    assert one == two != other


@BOTH
def test_what_cannot_be_checked_is_said(framework: str) -> None:
    with pytest.raises(UsageError, match="expected an argument to differentiate"):
        check(function(framework, "x"), framework=framework)
    with pytest.raises(UsageError, match="seed is an option of check and an argument"):
        check(lambda x, seed: x, *arrays(framework), framework=framework)


@BOTH
def test_a_gradient_is_asserted(framework: str, assert_gradient: Any) -> None:
    x = arrays(framework)
    assert_gradient(scaled(framework, "g * cos"), *x, framework=framework, quick=True)
    with pytest.raises(AssertionError, match="the cotangent is ignored"):
        assert_gradient(scaled(framework, "cos"), *x, framework=framework, quick=True)


# The command.


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main(["check", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@BOTH
def test_the_command_says_what_is_wrong(framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.py"
    path.write_text(SCALED[framework].format(gradient=COS[framework], value="") + "\ndef plain(x):\n    return fn(x)\n")
    code, out, _ = command(capsys, f"{path}:fn", "--arg", "f32[4,6]", "--quick")
    assert code == 1
    for said in ("the cotangent is ignored", "[cotangent-ignored]", "expected", "mend", "--explain cotangent-ignored"):
        assert said in out
    code, out, _ = command(capsys, f"{path}:fn", "--arg", "f32[4,6]", "--only", "strides", "--json")
    assert code == 0
    assert json.loads(out)["passed"] is True


@BOTH
def test_an_argument_may_be_complex(framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.py"
    source = next(rule for rule in RULES if rule.code == "gradient-conjugate").example(framework, is_right=False)
    path.write_text(str(source))
    code, out, _ = command(capsys, f"{path}:fn", "--arg", "c64[5]", "--quick", "--only", "gradient")
    assert code == 1
    assert "[gradient-conjugate]" in out


@pytest.mark.needs("torch")
@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ("import os; os._exit(0)", "exits-process"),
        ("import os; os.abort()", "crashes"),
        ("while True: pass", "does-not-end"),
    ],
)
def test_what_ends_the_process_is_a_finding(
    body: str, rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"import torch\ndef fn(x):\n    {body}\n")
    seconds = 15 if rule == "does-not-end" else 120  # the others end by themselves, however slow the machine is
    code, out, _ = command(capsys, f"{path}:fn", "--arg", "f32[4]", "--framework", "torch", "--seconds", seconds)
    assert code == 1
    assert f"[{rule}]" in out


def test_rules_are_listed_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, "--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [rule.code for rule in RULES]
    code, out, _ = command(capsys, "--explain", "cotangent-ignored")
    assert code == 0
    assert "# wrong" in out
    assert "Multiply by the cotangent." in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "expected a TARGET"),
        (("mine.py:fn", "--rule", "nothing"), "rule: expected one of raises, "),
        (("mine.py:fn", "--only", "nothing"), "--only: expected one of call, "),
        (("mine.py:fn", "--like", "nothing"), "--like: expected one of x_sin_x, "),
        (("mine.py:fn", "--arg", "f32[2]"), "target: no file at mine.py"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = command(capsys, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1

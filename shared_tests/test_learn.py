"""The exercises: every planted wrong answer is named rightly, the solution passes, and no work is overwritten."""

import ast
import inspect
import json
from pathlib import Path
from typing import NamedTuple

import pytest

from residuals_lab import frameworks, grading, learn
from residuals_lab.errors import MissingFramework, UsageError
from residuals_lab.grading import extra_residual

EXERCISE = "extra_residual"
each_framework = pytest.mark.parametrize("framework", frameworks.installed())


class Wrong(NamedTuple):
    """The solution with some of its text replaced, the code it must be given, and words that must be in the message."""

    framework: str
    name: str
    code: str
    phrase: str
    edits: dict[str, str]


BOTH = [
    ("cotangent", "cotangent-ignored", "the same as for g = 1", {"g * (sin_x": "(sin_x"}),
    ("sign", "gradient-sign", "the negative of it", {"return (g *": "return (-g *", "return g *": "return -g *"}),
    ("lost_x", "gradient-wrong", "g·(sin x + cos x): the second", {"sin_x + x * ": "sin_x + "}),
    ("doubled", "gradient-wrong", "product rule", {"sin_x + x * ": "2 * sin_x + x * "}),
    (
        "name_error",
        "raises",
        "NameError: name 'jn' is not defined, at line",
        {"jnp.cos": "jn.cos", "torch.cos": "jn.cos"},
    ),
    ("at_import", "raises", "the file raises ZeroDivisionError", {"def custom": "1 / 0\n\n\ndef custom"}),
    (
        "exits",
        "raises",
        "SystemExit",
        {"sin_x = residuals": "sin_x = exit()", "sin_x = ctx.saved_tensors": "sin_x = exit()"},
    ),
    ("syntax", "syntax-error", "SyntaxError: '(' was never closed, at line", {"sum(x * sin_x)": "sum(x * sin_x"}),
    ("renamed", "missing-function", "no function `custom_vjp_with_extra_residual`", {"def custom": "def my_custom"}),
    ("sum_of_gradient", "wrong-shape", "an array of shape ()", {"grad(f_with_sin)(x)": "grad(f_with_sin)(x).sum()"}),
    ("gradient_twice", "gradient-wrong", "that of f_with_sin at x", {"grad(f_with_sin)(x)": "grad(f_with_sin)(2 * x)"}),
]
JAX = [
    ("half", "not-started", "`_bwd` is still to be written", {"x, sin_x = residuals": "raise NotImplementedError"}),
    ("two_objects", "two-residual-objects", "ONE object with all residuals", {"(x, sin_x)\n": "x, sin_x\n"}),
    ("value_alone", "fwd-not-a-pair", "an array of shape ()", {", (x, sin_x)\n": "\n"}),
    ("other_value", "fwd-value-wrong", "the two have to agree", {"jnp.sum(x * sin_x)": "2 * jnp.sum(x * sin_x)"}),
    ("no_sum", "not-a-scalar", "an array of shape (5,)", {"jnp.sum(x * jnp.sin(x))": "x * jnp.sin(x)"}),
    ("other_function", "wrong-value", "Σ x·sin x", {"jnp.sum(x * jnp.sin(x))": "jnp.sum(jnp.sin(x))"}),
    ("no_rule", "no-custom-rule", "@jax.custom_vjp", {"@jax.custom_vjp": "", "f_with_sin.defvjp(_fwd, _bwd)": ""}),
    ("no_defvjp", "no-custom-rule", "defvjp", {"f_with_sin.defvjp(_fwd, _bwd)": ""}),
    ("no_comma", "wrong-number-of-gradients", "with the comma", {"jnp.cos(x)),)": "jnp.cos(x)))"}),
    ("none", "gradient-wrong", "did you return None", {"(g * (sin_x + x * jnp.cos(x)),)": "(None,)"}),
    ("summed", "wrong-shape", "an array of shape ()", {"(g * (sin_x + x * jnp.cos(x)),)": "(jnp.sum(g * x),)"}),
    ("sine_saved_and_repeated", "sin-recomputed", "though sin_x is saved", {"(sin_x + ": "(jnp.sin(x) + "}),
    (
        "only_x",
        "sin-recomputed",
        "save sin_x beside x",
        {"(x, sin_x)\n": "x\n", "x, sin_x = residuals": "x = residuals", "(sin_x + ": "(jnp.sin(x) + "},
    ),
    (
        "gradient_saved",
        "residual-missing",
        "x and sin_x are not saved",
        {
            "(x, sin_x)\n": "sin_x + x * jnp.cos(x)\n",
            "x, sin_x = residuals": "",
            "(sin_x + x * jnp.cos(x))": "residuals",
        },
    ),
    (
        "cosine_saved",
        "too-much-saved",
        "cos is saved too",
        {"(x, sin_x)\n": "(x, sin_x, jnp.cos(x))\n", "x, sin_x =": "x, sin_x, cos_x =", "jnp.cos(x)),)": "cos_x),)"},
    ),
    (
        "sine_saved_twice",
        "too-much-saved",
        "sin_x is saved too",
        {"(x, sin_x)\n": "(x, sin_x, jnp.sin(x))\n", "x, sin_x = residuals": "x, sin_x, _ = residuals"},
    ),
    (
        "global_array",
        "closed-over",
        "from a global or a closure; the residuals are x (input",
        {"(x, sin_x)\n": "(KEPT.append(sin_x), x)[1]\n", "x, sin_x = residuals": "x, sin_x = residuals, KEPT[-1]"}
        | {"Residuals = ": "KEPT = []\nResiduals = "},
    ),
    (
        "sine_stopped",
        "second-derivative-wrong",
        "stop_gradient",
        {"x, sin_x = residuals": "x, sin_x = residuals[0], jax.lax.stop_gradient(residuals[1])"},
    ),
    (
        "cotangent_stopped",
        "second-derivative-wrong",
        "with respect to the cotangent g",
        {"x, sin_x = residuals": "(x, sin_x), g = residuals, jax.lax.stop_gradient(g)"},
    ),
]
GRADIENT = "g * (sin_x + x * cos_x) + g_sin_x * cos_x"
OLD_STYLE = {
    "def forward(x: Tensor)": "def forward(ctx, x)",
    "return torch.sum(x * sin_x), sin_x": "ctx.save_for_backward(x, sin_x)\n        return torch.sum(x * sin_x)",
    "setup_context": "not_called",
    ", g_sin_x: Tensor": "",
    " + g_sin_x * cos_x": "",
    "y, _ = XSinX": "y = XSinX",
}
TORCH = [
    ("half", "not-started", "`backward` is still", {"x, sin_x = ctx.saved_tensors": "raise NotImplementedError"}),
    ("old_style", "raises", "setup_context", OLD_STYLE),
    (
        "saved_intermediate",
        "second-derivative-wrong",
        "takes what you saved for a constant",
        OLD_STYLE | {"torch.func.grad(f_with_sin)(x)": "torch.autograd.grad(f_with_sin(x), x)[0]"},
    ),
    (
        "saved_in_setup",
        "second-derivative-wrong",
        "takes what you saved for a constant",
        {"save_for_backward(x, sin_x)": "save_for_backward(x, torch.sin(x))"},
    ),
    (
        "not_differentiable",
        "second-derivative-wrong",
        "leave it differentiable",
        {"save_for_backward(x, sin_x)": "save_for_backward(x, sin_x)\n        ctx.mark_non_differentiable(sin_x)"},
    ),
    ("cotangent_dropped", "second-derivative-wrong", "sin_x was taken for a constant", {" + g_sin_x * cos_x": ""}),
    (
        "once_differentiable",
        "second-derivative-wrong",
        "such as `once_differentiable`",
        {"    def backward": "    @torch.autograd.function.once_differentiable\n    def backward"},
    ),
    ("detached", "second-derivative-wrong", "does not require grad", {GRADIENT: f"({GRADIENT}).detach()"}),
    ("no_sum", "not-a-scalar", "an array of shape (5,)", {"torch.sum(x * sin_x)": "x * sin_x"}),
    ("both_outputs", "not-a-scalar", "a tuple of 2", {"    return y\n": "    return y, _\n"}),
    ("other_function", "wrong-value", "Σ x·sin x", {"torch.sum(x * sin_x)": "torch.sum(sin_x)"}),
    (
        "no_rule",
        "no-custom-rule",
        "the `apply` of a torch.autograd.Function",
        {"y, _ = XSinX.apply(x)": "y = torch.sum(x * torch.sin(x))"},
    ),
    ("two_gradients", "wrong-number-of-gradients", "a tuple of 2", {GRADIENT: f"{GRADIENT}, None"}),
    ("none", "gradient-wrong", "did you return None", {GRADIENT: "None"}),
    ("summed", "wrong-shape", "an array of shape ()", {GRADIENT: f"torch.sum({GRADIENT})"}),
    ("silently_reduced", "wrong-shape", "an array of shape (2, 5)", {GRADIENT: f"({GRADIENT}).expand(2, -1) / 2"}),
    (
        "tuple_of_gradients",
        "wrong-shape",
        "a tuple of 1",
        {"torch.func.grad(f_with_sin)(x)": "torch.autograd.grad(f_with_sin(x), x)"},
    ),
    ("sine_saved_and_repeated", "sin-recomputed", "though sin_x is saved", {"(sin_x + ": "(torch.sin(x) + "}),
    (
        "only_x",
        "sin-recomputed",
        "save sin_x beside x",
        {"_backward(x, sin_x)": "_backward(x)", "x, sin_x = ctx.saved_tensors": "(x,) = ctx.saved_tensors"}
        | {"(sin_x + ": "(torch.sin(x) + "},
    ),
    (
        "gradient_saved",
        "residual-missing",
        "x and sin_x are not saved",
        {"_backward(x, sin_x)": "_backward(sin_x + x * torch.cos(x))", GRADIENT: "g * d"}
        | {"x, sin_x = ctx.saved_tensors\n        cos_x = torch.cos(x)": "(d,) = ctx.saved_tensors"},
    ),
    (
        "cosine_saved",
        "too-much-saved",
        "cos is saved too",
        {"_backward(x, sin_x)": "_backward(x, sin_x, torch.cos(x))"}
        | {"x, sin_x = ctx.saved_tensors\n        cos_x = torch.cos(x)": "x, sin_x, cos_x = ctx.saved_tensors"},
    ),
    (
        "on_ctx",
        "tensor-on-ctx",
        "sin_x hangs on `ctx`",
        {"_backward(x, sin_x)": "_backward(x)\n        ctx.sin_x = sin_x"}
        | {"x, sin_x = ctx.saved_tensors": "(x,), sin_x = ctx.saved_tensors, ctx.sin_x"},
    ),
    (
        "global_tensor",
        "closed-over",
        "from a global or a closure; the residuals are x (input",
        {"_backward(x, sin_x)": "_backward(x)\n        KEPT.append(sin_x)", "class XSinX": "KEPT = []\n\n\nclass XSinX"}
        | {"x, sin_x = ctx.saved_tensors": "(x,), sin_x = ctx.saved_tensors, KEPT[-1]"},
    ),
]
WRONG = [
    Wrong(framework, *row)
    for framework, rows in (("jax", BOTH + JAX), ("torch", BOTH + TORCH))
    for row in rows
    if framework in frameworks.installed()
]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def solution(framework: str) -> str:
    return learn.asset(EXERCISE, framework, "solution.py")


def hand_in(framework: str, text: str) -> None:
    learn.file_of(EXERCISE, framework).write_text(text, encoding="utf-8")


def edited(framework: str, edits: dict[str, str]) -> str:
    text = solution(framework)
    for old, new in edits.items():
        text = text.replace(old, new)
    assert text != solution(framework), "the edits find nothing in the solution"
    return text


def run(framework: str | None, exercise: str = EXERCISE, **options: object) -> int:
    return learn.run(exercise, framework, **{"check": False, "hint": None, "reset": False, "as_json": False} | options)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: f"{w.framework}-{w.name}")
def test_wrong_answer_is_named(wrong: Wrong) -> None:
    hand_in(wrong.framework, edited(wrong.framework, wrong.edits))
    finding = learn.check(EXERCISE, wrong.framework).finding
    assert finding is not None
    assert finding.code == wrong.code, finding.message
    assert wrong.phrase in finding.message
    assert "Traceback" not in finding.message


@each_framework
def test_every_finding_has_a_wrong_answer(framework: str) -> None:
    """A finding that no planted answer gets might as well not be there."""
    codes = {
        node.args[0].value
        for module in (grading, extra_residual)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding"
        if isinstance(node.args[0], ast.Constant)
    }
    of_one = {"jax": {"tensor-on-ctx"}, "torch": {"two-residual-objects", "fwd-not-a-pair"}}
    assert len(codes) > 12
    assert codes - {w.code for w in WRONG if w.framework == framework} <= of_one[framework]


@each_framework
def test_solution_passes(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    hand_in(framework, solution(framework))
    assert run(framework, check=True) == 0
    out = capsys.readouterr().out
    plain = {"jax": "Plain autodiff keeps 120 B", "torch": "Plain autodiff keeps 80 B"}[framework]
    for phrase in ("x (input, 40 B), sin_x (new, 40 B)", "80 B, 40 of them new", plain, "sine 0 times, cosine 1 times"):
        assert phrase in out
    assert out.endswith(solution(framework))


RIGHT = [
    ("jax", "residuals_in_another_order", {"(x, sin_x)\n": "(sin_x, x)\n", "x, sin_x =": "sin_x, x ="}),
    (
        "jax",
        "residuals_in_a_dict",
        {"(x, sin_x)\n": "dict(x=x, s=sin_x)\n", "= residuals": "= residuals['x'], residuals['s']"},
    ),
    ("jax", "jit", {"def custom": "f_with_sin = jax.jit(f_with_sin)\n\n\ndef custom"}),
    ("jax", "other_names", {"_fwd": "f_with_sin_fwd", "_bwd": "f_with_sin_bwd"}),
    ("jax", "numpy_at_the_end", {"return jax.grad(f_with_sin)(x)": "return jax.device_get(jax.grad(f_with_sin)(x))"}),
    ("torch", "residuals_in_another_order", {"(x, sin_x)\n": "(sin_x, x)\n", "x, sin_x = ctx": "sin_x, x = ctx"}),
    ("torch", "other_names", {"XSinX": "Sine", "sin_x": "s"}),
    ("torch", "autograd", {"torch.func.grad(f_with_sin)(x)": "torch.autograd.grad(f_with_sin(x), x)[0]"}),
    ("torch", "sum_outside", {"torch.sum(x * sin_x), sin_x": "x * sin_x, sin_x", "return y": "return y.sum()"}),
    (
        "torch",
        "no_zeros",
        {
            "(x, sin_x)\n": "(x, sin_x)\n        ctx.set_materialize_grads(False)\n",
            f"return {GRADIENT}": "parts = (g, sin_x + x * cos_x), (g_sin_x, cos_x)\n"
            "        return sum(a * b for a, b in parts if a is not None)",
        },
    ),
]


@pytest.mark.parametrize(
    ("framework", "edits"),
    [pytest.param(f, edits, id=f"{f}-{name}") for f, name, edits in RIGHT if f in frameworks.installed()],
)
def test_other_right_answers_pass(framework: str, edits: dict[str, str]) -> None:
    hand_in(framework, edited(framework, edits))
    finding = learn.check(EXERCISE, framework).finding
    assert finding is None, finding.message


@each_framework
def test_stub_is_not_started(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(framework) == 0
    assert run(framework, check=True) == 1
    out = capsys.readouterr().out
    line = learn.asset(EXERCISE, framework, "stub.py").partition("raise NotImplementedError")[0].count("\n") + 1
    assert "[not-started]" in out
    assert f"at line {line}\n" in out


@each_framework
def test_file_is_kept_without_reset(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    hand_in(framework, "my work")
    assert run(framework) == 0
    assert learn.file_of(EXERCISE, framework).read_text() == "my work"
    out = capsys.readouterr().out
    assert "left alone" in out
    assert out.count("\n") == 1
    assert run(framework, reset=True) == 0
    assert learn.file_of(EXERCISE, framework).read_text() == learn.asset(EXERCISE, framework, "stub.py")


@each_framework
def test_hints_come_one_at_a_time(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    count = learn.hint(EXERCISE, framework, 1).last
    hints = [learn.hint(EXERCISE, framework, n) for n in range(1, count + 1)]
    assert count >= 4
    for n, hint in enumerate(hints, 1):
        assert run(framework, hint=n) == 0
        out = capsys.readouterr().out
        assert [other.text in out for other in hints] == [other is hint for other in hints]
        assert f"--hint {n + 1}" in out if n < count else "--check" in out
    for n in (0, count + 1):
        with pytest.raises(UsageError, match=f"from 1 to {count}, got {n}"):
            run(framework, hint=n)


@each_framework
def test_json_is_one_document(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    hand_in(framework, "print('from the learner')\n" + solution(framework))
    assert run(framework, check=True, as_json=True) == 0
    out, err = capsys.readouterr()
    right = json.loads(out)
    assert "from the learner" in err
    assert (right["schema_version"], right["exercise"], right["framework"]) == (1, EXERCISE, framework)
    assert (right["passed"], right["finding"]) == (True, None)
    sin_x = {"name": "sin_x", "kind": "new", "shape": [5], "dtype": "float64", "bytes": 40}
    assert sin_x in right["residuals"]

    hand_in(framework, solution(framework).replace("g * (sin_x", "(sin_x"))
    assert run(framework, check=True, as_json=True) == 1
    wrong = json.loads(capsys.readouterr().out)
    assert set(wrong) == set(right)
    assert wrong["passed"] is False
    assert set(wrong["finding"]) == {"code", "message"}
    assert wrong["finding"]["code"] == "cotangent-ignored"


@each_framework
def test_an_edit_within_the_same_second_counts(framework: str) -> None:
    """Python's cache of compiled files goes by the second and the size of the file; grading must not use it."""
    hand_in(framework, solution(framework).replace("g * (sin_x", "1 * (sin_x"))
    assert learn.check(EXERCISE, framework).finding is not None
    hand_in(framework, solution(framework))
    assert learn.check(EXERCISE, framework).finding is None
    assert [path.name for path in Path().iterdir()] == [learn.file_of(EXERCISE, framework).name]


@each_framework
def test_usage(framework: str) -> None:
    with pytest.raises(UsageError, match=f"no such file here; start with: residuals learn .*{framework}"):
        run(framework, check=True)
    with pytest.raises(UsageError, match="expected one of extra_residual, got 'nothing'"):
        run(framework, "nothing")
    with pytest.raises(UsageError, match="goes with --check"):
        run(framework, as_json=True)
    with pytest.raises(UsageError, match="one of --check, --hint and --reset"):
        run(framework, check=True, reset=True)
    with pytest.raises(UsageError, match="expected one of jax, torch, got 'numpy'"):
        run("numpy")


@each_framework
def test_the_only_framework_is_taken(framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frameworks, "installed", lambda: (framework,))
    assert run(None) == 0
    assert learn.file_of(EXERCISE, framework).exists()
    monkeypatch.setattr(frameworks, "installed", lambda: frameworks.NAMES)
    with pytest.raises(UsageError, match="jax or torch"):
        run(None)


def test_no_framework_says_how_to_install_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frameworks, "installed", tuple)
    with pytest.raises(MissingFramework, match="pip install"):
        run(None)

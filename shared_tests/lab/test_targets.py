"""`residuals compare TARGET --like OP`: anybody's function, right or wrong; one clear line if it cannot be compared."""

import json
from pathlib import Path

import numpy as np
import pytest

from command import assert_usage, run
from residuals_lab import cli, frameworks
from residuals_lab.targets.numbers import read_array

INSTALLED = frameworks.installed()
FRAMEWORK = INSTALLED[0]

MINE = {
    "jax": """
import jax
import jax.numpy as jnp

@jax.custom_vjp
def fn(x):
    return jnp.sum(x * jnp.sin(x))

fn.defvjp(lambda x: (fn(x), (x, jnp.sin(x), jnp.cos(x))),
          lambda r, g: ({sign}g * (jnp.sin(r[0]) + r[0] * r[2]),))
""",
    "torch": """
import torch

class Fn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x, x.cos())
        ctx.kept = x.sin()
        return (x * ctx.kept).sum()

    @staticmethod
    def backward(ctx, g):
        x, cos = ctx.saved_tensors
        return {sign}g * (x.sin() + x * cos)

def fn(x):
    return Fn.apply(x)
""",
}


@pytest.mark.parametrize("framework", INSTALLED)
def test_anyones_function_beside_ours(framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"mine_{framework}.py"
    path.write_text(MINE[framework].format(sign=""))
    code, out, _ = run(capsys, f"{path}:fn", "--like", "x_sin_x", "--size", 100, "--json")
    document = json.loads(out)
    (entry,) = document["ops"]
    target = entry["target"]
    assert tuple(entry["frameworks"]) == (framework,), "found from what the function's file imports"
    assert target["errors"]["gradient"]["float64"] <= 1e-9
    assert [r["op"] for r in target["repeats"]] == ["sin"]
    kinds = {r["name"]: r["kind"] for r in target["residuals"]}
    assert kinds == {"x": "input", "sin_x": "new" if framework == "jax" else "hidden", "cos": "new"}
    assert target["saved_bytes"] == 1200
    # Saved as an intermediate, the cosine is a constant to PyTorch, and the second derivative is wrong.
    found = [finding["rule"] for finding in document["findings"]]
    assert found.count("second-derivative-wrong") == (framework == "torch")
    assert code == 1, "it keeps the cosine, where the op keeps none"
    (more,) = [finding for finding in document["findings"] if finding["rule"] == "keeps-more"]
    assert "keeps more than x_sin_x: cos, 400 B" in more["title"]
    assert (more["expected"], more["got"]) == ("400 B of new memory", "800 B")

    code, out, _ = run(capsys, f"{path}:fn", "--like", "x_sin_x")
    assert str(path) in out
    assert "hidden" in out or framework == "jax"


RULES = {
    "jax": """
import jax
import jax.numpy as jnp

@jax.custom_vjp
def fn(x):
    return jnp.sum(x * jnp.sin(x))

fn.defvjp(lambda x: (fn(x), {saved}), lambda r, g: (g * ({sine} + r[0] * jnp.cos(r[0])),))
""",
    "torch": """
import torch

class Fn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward{saved}
        return (x * x.sin()).sum()

    @staticmethod
    def backward(ctx, g):
        r = ctx.saved_tensors
        return g * ({sine} + r[0] * r[0].cos())

def fn(x):
    return Fn.apply(x)
""",
}
SINES = {
    "jax": ("jnp.sin(x)", "jnp.cos(x)", "jnp.exp(x)", "jnp.sin(r[0])"),
    "torch": ("x.sin()", "x.cos()", "x.exp()", "r[0].sin()"),
}


@pytest.mark.parametrize("framework", INSTALLED)
def test_bytes_are_judged_too(framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rule that keeps twice as much fails, and its arrays are named; as many bytes by other names do not."""
    path = tmp_path / f"rule_{framework}.py"
    sin, cos, exp, again = SINES[framework]
    path.write_text(RULES[framework].format(saved=f"(x, {sin}, {cos}, {exp})", sine=again))
    code, out, _ = run(capsys, f"{path}:fn", "--like", "x_sin_x", "--size", 256)
    assert code == 1
    assert "keeps more than x_sin_x: cos, 1 KiB, never read; exp, 1 KiB, never read" in out
    assert "expected 1 KiB of new memory, got 3 KiB" in out
    for saved in (f"(x, {exp})", "(x,)"):
        path.write_text(RULES[framework].format(saved=saved, sine=again))
        document = json.loads(run(capsys, f"{path}:fn", "--like", "x_sin_x", "--size", 256, "--json")[1])
        assert [*{finding["rule"] for finding in document["findings"]} & {"keeps-more"}] == []


@pytest.mark.parametrize("framework", INSTALLED)
def test_a_wrong_function_fails(framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"wrong_{framework}.py"
    path.write_text(MINE[framework].format(sign="-"))
    code, out, _ = run(capsys, f"{path}:fn", "--like", "x_sin_x")
    assert code == 1
    assert sum(" error in " in line for line in out.splitlines()) == 1, "of one cause there is one"
    why = "it is minus x_sin_x's"
    assert f"FAILED {path}:fn: gradient error in float64: {why}: expected at most 1.0e-09, got 2.0e+00" in out
    assert_usage(
        run(capsys, f"{path}:gn", "--like", "x_sin_x"),
        f"target: {path} has no function 'gn'; it has fn",
    )


BAD_FUNCTIONS = {
    "both": {
        "def fn(x): raise ValueError('first line\\nsecond line')": "fn raised ValueError: first line",
        "def fn(x): raise SystemExit(3)": "fn raised SystemExit: 3",
        "def fn(x): return x.sum(), x": "fn: expected one float64[], as x_sin_x returns, got tuple",
        "def fn(x): return x": "fn: expected one float64[], as x_sin_x returns, got float64[4096]",
        "def fn(x): return 3": "fn: expected one float64[], as x_sin_x returns, got int",
        "def fn(x): return None": "fn: expected one float64[], as x_sin_x returns, got NoneType",
        "def fn(x, *, k): return x.sum()": "fn raised TypeError: fn() missing 1 required keyword-only argument: 'k'",
        "class fn: pass": "is a class; expected a function",
        "raise SystemExit(3)": "bad.py could not be imported: bad.py:2: SystemExit: 3",
        "raise ValueError('first line\\nsecond line')": "could not be imported: bad.py:2: ValueError: first line",
    },
    "jax": {
        "def fn(x): return x.sum() if x.sum() > 0 else -x.sum()": "fn raised TracerBoolConversionError",
        "def fn(x): return x.astype('float32').sum()": "fn: expected one float64[], as x_sin_x returns, got float32[]",
    },
    "torch": {
        "def fn(x): return x.detach().sum()": "fn raised RuntimeError: element 0 of tensors does not require grad",
    },
}


@pytest.mark.parametrize(
    ("framework", "code", "message"),
    [(f, code, m) for f in INSTALLED for kind in ("both", f) for code, m in BAD_FUNCTIONS[kind].items()],
)
def test_a_bad_function_is_one_line(
    framework: str, code: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.py"
    path.write_text(f"import {framework}\n{code}\n")
    assert_usage(run(capsys, f"{path}:fn", "--like", "x_sin_x", "--framework", framework), message)


GOOD_FUNCTIONS = {
    "jax": {
        "jitted": "fn = jax.jit(lambda x: (x * jax.numpy.sin(x)).sum())",
        "partial": "import functools\nfn = functools.partial(lambda k, x: (x * jax.numpy.sin(x)).sum() * k, 1)",
        "sibling": "from sibling import one\ndef fn(x): return (x * jax.numpy.sin(x)).sum() * one",
    },
    "torch": {
        "module": "class M(torch.nn.Module):\n    def forward(self, x): return (x * x.sin()).sum()\nfn = M()",
        "partial": "import functools\nfn = functools.partial(lambda k, x: (x * x.sin()).sum() * k, 1)",
        "sibling": "from sibling import one\ndef fn(x): return (x * x.sin()).sum() * one",
    },
}


@pytest.mark.parametrize(("framework", "kind"), [(f, kind) for f in INSTALLED for kind in GOOD_FUNCTIONS[f]])
def test_functions_of_every_kind(framework: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sibling.py").write_text("one = 1\n")
    path = tmp_path / f"{framework}_{kind}.py"
    path.write_text(f"import {framework}\n{GOOD_FUNCTIONS[framework][kind]}\n")
    code, out, _ = run(capsys, f"{path}:fn", "--like", "x_sin_x", "--json")
    document = json.loads(out)
    found = [finding["rule"] for finding in document["findings"]]
    more = ["keeps-more"] if framework == "jax" else []  # there plain autodiff keeps the cosine
    assert (code, found, [*document["ops"][0]["frameworks"]]) == (len(more), more, [framework])


@pytest.mark.parametrize("framework", INSTALLED)
def test_json_is_valid_when_a_function_is_not(
    framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nan.py"
    path.write_text(f"import {framework}\ndef fn(x): return x.sum() * float('nan')\n")
    code, out, _ = run(capsys, f"{path}:fn", "--like", "x_sin_x", "--json")
    target = json.loads(out, parse_constant=lambda name: pytest.fail(name))["ops"][0]["target"]
    assert (code, target["errors"]["value"]["float64"]) == (1, None)


SAYS = """
class C:
    def method(self, x): return x.sum()
def loss(x): return (x * x).sum()
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["audit", "{path}:C"],
            "is a class; expected a function, or an object of a class that can be called; add to the file: it = C(...)",
        ),
        (["audit", "{path}:C.method"], "add to the file: it = C(...).method"),
        (["audit", "{folder}:loss"], "is a folder; expected a file in it"),
        (["audit", "{path}:lss"], "has no function 'lss'; it has loss; did you mean 'loss'?"),
        (
            ["audit", "{path}:loss", "--args", "f32[4]"],
            "--args f32[4]; did you mean '--arg'? (see residuals audit --help)",
        ),
        (["audit", "{path}:loss"], "give it its arguments: --arg 'f32[4,8]'"),
        (["audit", "{path}:loss", "--frozen", "f32[4]"], "--arg and --param of floating numbers are differentiated"),
        (["audit", "{path}:loss", "--html", "{folder}"], "--html: expected a file, got the folder"),
        (["audit", "{path}:loss", "--plot", "{folder}"], "--plot: expected a file, got the folder"),
        (["lock", "write", "--flie", "a"], "did you mean '--file'? (see residuals lock write --help)"),
        (["audti"], "did you mean 'audit'?"),
        (["learn", "extra_residul"], "did you mean 'extra_residual'?"),
        (["compare", "{path}:loss"], "to compare it with an op of the same arguments: residuals compare"),
        (["compare", "rmsnorm"], "expected the name of an op, got 'rmsnorm'; did you mean 'rms_norm'?"),
        (
            ["compare", "x_sin_x", "--input", "x={folder}/s.csv:vlt"],
            "no column 'vlt'; it has t, volt; did you mean 'volt'?",
        ),
        (["compare", "x_sin_x", "--input", "x={folder}"], "expected a file ending in"),
        (["compare", "x_sin_x", "--input", "x={folder}/objects.npy"], "it has Python objects in it"),
    ],
)
def test_what_helps_is_said(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"import {FRAMEWORK}\n{SAYS}")
    (tmp_path / "s.csv").write_text("t,volt\n0,1\n1,2\n2,4\n")
    np.save(tmp_path / "objects.npy", np.array([{}, None], dtype=object))
    code = cli.main([a.format(path=path, folder=tmp_path) for a in arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1, "one line"


def test_a_file_of_a_package_is_named_as_its_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    for folder in (inner, inner.parent):
        (folder / "__init__.py").touch()
    (inner / "a.py").write_text("from .b import fn\n")
    assert cli.main(["audit", f"{inner / 'a.py'}:fn", "--framework", FRAMEWORK]) == 2
    assert f"name it outer.inner.a:FUNCTION, in the folder {tmp_path.resolve()}" in capsys.readouterr().err


def test_a_column_of_a_table_by_its_title(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("t,volt\n0,1\n1,2\n2,4\n")
    assert read_array("x", Path(f"{path}:volt")).tolist() == [1, 2, 4]
    assert read_array("t", path).tolist() == [0, 1, 2], "the column of the argument's own name"
    assert read_array("x", path).shape == (3, 2)

"""`residuals compare A --beside B`: ports with a planted difference are told apart by its name; equal ones pass."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from command import assert_usage, run
from residuals_lab import frameworks
from residuals_lab.compare import beside_table, ports
from residuals_lab.compare.beside import Beside, beside
from residuals_lab.compare.measure import Options
from residuals_lab.targets.arguments import Argument

INSTALLED = frameworks.installed()

SOURCES = {
    "jax": """
import jax
import jax.numpy as jnp

def gelu(x): return jax.nn.gelu(x, approximate=False)
def gelu_tanh(x): return jax.nn.gelu(x, approximate=True)
def mlp(p, x): return gelu(x @ p["up"]) @ p["down"]
def mlp_tanh(p, x): return gelu_tanh(x @ p["up"]) @ p["down"]
def init(): return {"up": jnp.ones((4, 6)) / 3, "down": jnp.ones((6, 4)) / 5}
def rms(x): return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
def rms_eps(x): return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
def norm(x, w, b): return x / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b
def norm_unbiased(x, w, b): return x / jnp.sqrt(x.var(-1, keepdims=True, ddof=1) + 1e-5) * w + b
def var(x): return x.var(-1)
def var_unbiased(x): return x.var(-1, ddof=1)
def length(x): return jnp.sqrt(jnp.where((x * x).sum(-1) > 0, (x * x).sum(-1), 1.0))
def length_nan(x): return jnp.where((x * x).sum(-1) > 0, jnp.sqrt((x * x).sum(-1)), 1.0)
def total(x): return (x * x).sum()
def mean(x): return (x * x).mean()
def sine(x): return jnp.sin(x)
def drop(x, key): return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x, 0)
def sine_narrow(x): return jnp.sin(x.astype(jnp.float32)).astype(x.dtype)
def sine_cancels(x): return jnp.sin((x + 1000) - 1000)

def rule(value, fwd, bwd):
    fn = jax.custom_vjp(value)
    fn.defvjp(fwd, bwd)
    return fn

def power(z): return (z * jnp.conj(z)).real.sum()
def square(x): return x * x
power_conjugate = rule(power, lambda z: (power(z), z), lambda z, g: (2 * g * z,))
same = rule(square, lambda x: (x * x, (x, jnp.exp(x))), lambda r, g: (2 * g * r[0] + 0 * r[1],))
square_half = rule(square, lambda x: (x * x, x), lambda x, g: (g * x,))
square_more = rule(square, lambda x: (x * x, (x, jnp.cos(x))), lambda r, g: (2 * g * r[0],))
""",
    "torch": """
import torch
import torch.nn.functional as F

def gelu(x): return F.gelu(x)
def gelu_tanh(x): return F.gelu(x, approximate="tanh")
def mlp(p, x): return gelu(x @ p["up"]) @ p["down"]
def mlp_tanh(p, x): return gelu_tanh(x @ p["up"]) @ p["down"]
def init(): return {"up": torch.ones(4, 6) / 3, "down": torch.ones(6, 4) / 5}
def rms(x): return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5)
def rms_eps(x): return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)
def norm(x, w, b): return x / torch.sqrt(x.var(-1, keepdim=True, correction=0) + 1e-5) * w + b
def norm_unbiased(x, w, b): return x / torch.sqrt(x.var(-1, keepdim=True) + 1e-5) * w + b
def var(x): return x.var(-1, correction=0)
def var_unbiased(x): return x.var(-1)
def length(x): return torch.sqrt(torch.where((x * x).sum(-1) > 0, (x * x).sum(-1), 1.0))
def length_nan(x): return torch.where((x * x).sum(-1) > 0, torch.sqrt((x * x).sum(-1)), 1.0)
def total(x): return (x * x).sum()
def mean(x): return (x * x).mean()
def sine(x): return torch.sin(x)
weight = torch.randn(4)
def weighted(x): return (x @ weight).sin()
def weighted_in_32_bits(x): return (x @ torch.ones(4)).sin()

class Tokens(torch.nn.Module):
    def __init__(self, like=None, act=F.gelu):
        super().__init__()
        self.embedding, self.head, self.act = torch.nn.Embedding(7, 4), torch.nn.Linear(4, 7), act
        if like:
            self.load_state_dict(like.state_dict())

    def forward(self, tokens):
        return F.cross_entropy(self.head(self.act(self.embedding(tokens))), tokens)

tokens = Tokens()
tokens_again, tokens_silu, tokens_tanh = Tokens(tokens), Tokens(tokens, F.silu), Tokens(tokens, gelu_tanh)
tokens_others = Tokens()
def sums(q): return F.softmax(q @ q.mT, -1) @ q
def sums_causal(q): return F.scaled_dot_product_attention(q[None], q[None], q[None], is_causal=True, scale=1.0)[0]
def sine_narrow(x): return torch.sin(x.float()).to(x.dtype)
def sine_cancels(x): return torch.sin((x + 1000) - 1000)

def rule(value, saved, gradient):
    class Rule(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(*saved(x))
            return value(x)

        @staticmethod
        def backward(ctx, g):
            return gradient(ctx.saved_tensors, g)
    return lambda x: Rule.apply(x)

def power(z): return (z * z.conj()).real.sum()
def square(x): return x * x
power_conjugate = rule(power, lambda z: (z,), lambda r, g: 2 * g * r[0].conj())
same = rule(square, lambda x: (x, x.exp()), lambda r, g: 2 * g * r[0] + 0 * r[1].detach())
square_half = rule(square, lambda x: (x,), lambda r, g: g * r[0])
square_more = rule(square, lambda x: (x, x.cos()), lambda r, g: 2 * g * r[0])
square_constant = rule(square, lambda x: (x + 0,), lambda r, g: 2 * g * r[0])
""",
}
ONE = ("--arg", "f32[6,4]")
THREE = (*ONE, "--arg", "f32[4]", "--arg", "f32[4]")
PLANTED = {  # what is planted → the right port, its arguments, the known difference, the rule of the finding
    "gelu_tanh": ("gelu", ONE, "two-gelus", "value-differs"),
    "rms_eps": ("rms", ONE, "another-eps", "value-differs"),
    "norm_unbiased": ("norm", THREE, "biased-variance", "value-differs"),
    "var_unbiased": ("var", ONE, "biased-variance", "value-differs"),
    "power_conjugate": ("power", ("--arg", "c64[5]"), "conjugate", "gradient-differs"),
    "length_nan": ("length", ONE, "nan-at-zero", "gradient-differs"),
    "square_half": ("square", ONE, "factor", "gradient-differs"),
    "mean": ("total", ONE, "factor", "value-differs"),
    "sine_narrow": ("sine", ONE, "rounding", "value-differs"),
}
PAIRS = [(name, name) for name in INSTALLED] + ([("jax", "torch"), ("torch", "jax")] if len(INSTALLED) == 2 else [])


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / f"in_{name}.py" for name in INSTALLED}
    for name, path in found.items():
        path.write_text(SOURCES[name])
    return found


def document(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    code, out, err = run(capsys, *arguments, "--json")
    assert out, err
    return code, json.loads(out)


@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_difference_has_its_name(
    planted: str, first: str, second: str, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    right, arguments, known, rule = PLANTED[planted]
    code, found = document(capsys, f"{files[first]}:{right}", *arguments, "--beside", f"{files[second]}:{planted}")
    assert code == 1
    wrong = [
        d["known"] for d in (*found["differences"], *found["at_zero"]) if d["is_wrong"] and d["dtype"] == "float64"
    ]
    assert wrong[0] == known
    assert {*wrong} <= {known, "follows"}
    rules = [finding["rule"] for finding in found["findings"]]
    assert rules == [rule], "of one cause there is one finding"


@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.parametrize("name", ["same", "square"])
def test_equal_ports_pass(
    name: str, first: str, second: str, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = document(capsys, f"{files[first]}:{name}", "--beside", f"{files[second]}:{name}", *ONE)
    assert (code, found["findings"]) == (0, [])
    assert {d["what"] for d in found["differences"]} == {"value", "gradient of x", "second derivative of x"}
    pairs = [(m["first"], m["second"]) for m in found["equal"]]
    assert pairs == [("x", "x"), ("exp", "exp")][: len(pairs)]
    assert len(pairs) == (2 if name == "same" else 1)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_one_more_array_is_named(
    first: str, second: str, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = document(capsys, f"{files[first]}:square", "--beside", f"{files[second]}:square_more", *ONE)
    assert (code, found["findings"]) == (0, []), "told, but no fault"
    (note,) = found["notes"]
    assert "square_more keeps 96 B of new memory" in note
    assert note.endswith("square 0 B. Only the former keeps: cos, 96 B, never read.")
    assert {"first": None, "second": "cos"} in found["equal"]


@pytest.mark.parametrize("framework", INSTALLED)
def test_one_that_is_less_exact_in_float32_is_a_finding(
    framework: str, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    mine = files[framework]
    code, found = document(capsys, f"{mine}:sine", *ONE, "--beside", f"{mine}:sine_cancels")
    assert code == 1
    assert {d["dtype"] for d in found["differences"] if d["is_wrong"]} == {"float32"}
    assert found["findings"][0]["title"].endswith("in float32: one of the two is less exact")


@pytest.mark.needs("torch")
def test_a_second_derivative_that_is_wrong_alone(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    mine = files["torch"]
    code, found = document(capsys, f"{mine}:square", *ONE, "--beside", f"{mine}:square_constant")
    assert code == 1
    assert [(d["what"], d["known"]) for d in found["differences"] if d["is_wrong"]] == [
        ("second derivative of x", "second-derivative")
    ]
    assert found["findings"][0]["rule"] == "second-derivative-differs"


@pytest.mark.needs("torch")
def test_a_file_of_both_runs_once(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """So both have its random weights, which are brought to the dtype that is compared in."""
    call = (f"{files['torch']}:weighted", *ONE, "--beside", f"{files['torch']}:weighted")
    code, found = document(capsys, *call)
    assert (code, {d["error"] for d in found["differences"]}) == (0, {0.0})
    call = (f"{files['torch']}:weighted_in_32_bits", *ONE, "--beside", f"{files['torch']}:weighted_in_32_bits")
    assert_usage(run(capsys, *call), "; --dtype float32 compares in float32 alone")


TOKENS = ("--arg", "i64[6]")


@pytest.mark.needs("torch")
@pytest.mark.parametrize(
    ("first", "second", "arguments", "known"),
    [
        ("tokens", "tokens_again", TOKENS, None),  # whose parameters are differentiated
        ("tokens", "tokens_others", TOKENS, "other-parameters"),
        ("tokens", "tokens_tanh", TOKENS, "two-gelus"),
        ("tokens", "tokens_silu", TOKENS, "follows"),  # one number is a multiple of any other: that is no reason
        (
            "sums",
            "sums_causal",
            ("--arg", "f32[2,5,4]"),
            "follows",
        ),  # from the value, which differs for no known reason
    ],
)
def test_of_modules_and_of_two_functions_that_are_not_the_same(
    first: str,
    second: str,
    arguments: Any,
    known: str | None,
    files: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine = files["torch"]
    code, found = document(capsys, f"{mine}:{first}", *arguments, "--beside", f"{mine}:{second}")
    wrong = [d for d in found["differences"] if d["is_wrong"] and d["dtype"] == "float64"]
    assert (code, len(found["findings"])) == ((1, 1) if known else (0, 0))
    assert wrong[0]["known"] == (None if known == "follows" else known) if known else not wrong
    assert {d["known"] for d in wrong[1:]} <= {known, "follows"}
    if arguments is TOKENS:
        assert any(d["what"].startswith("gradient of 3 parameters") for d in found["differences"])
    else:
        assert found["notes"][0].startswith("No second derivative is compared: the second has none: RuntimeError")


@pytest.mark.needs("jax")
def test_random_bits_hide_no_difference_in_float32(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """In float64 other numbers are dropped, so that it says nothing about how exact float32 is."""
    mine = files["jax"]
    _, found = document(capsys, f"{mine}:drop", *ONE, "--arg", "key[]", "--beside", f"{mine}:drop")
    assert max(d["allowed"] for d in found["differences"]) < 1e-3


@pytest.mark.needs("jax", "torch")
def test_arguments_are_trees_and_parameters(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """In whatever order a framework has their arrays: the numbers are those of the first."""
    jax, torch = files["jax"], files["torch"]
    call = (f"{jax}:mlp", "--param", f"{jax}:init", *ONE, "--beside")
    _, found = document(capsys, *call, f"{torch}:mlp", "--param", f"{torch}:init", *ONE)
    assert [d for d in found["differences"] if d["is_wrong"]] == []
    assert {"gradient of p['up']", "gradient of p['down']"} <= {d["what"] for d in found["differences"]}
    _, found = document(capsys, *call, f"{torch}:mlp_tanh", "--param", f"{torch}:init", *ONE)
    assert {d["known"] for d in found["differences"] if d["is_wrong"]} <= {"two-gelus", "follows", None}
    assert "looks like the other gelu: it has tanh" in found["findings"][0]["title"]


def test_a_frozen_argument_and_a_file(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "w.npy", np.arange(4.0))
    target = f"{files[INSTALLED[0]]}:norm"
    more = ("--frozen", "w=f32[4]", "--input", f"b={tmp_path / 'w.npy'}")
    code, found = document(capsys, target, *ONE, *more, "--beside", target)
    assert code == 0
    assert found["shapes"] == {"x": [6, 4], "w": [4], "b": [4]}
    gradients = {d["what"] for d in found["differences"] if "gradient" in d["what"]}
    assert gradients == {"gradient of x", "gradient of b"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{}:rms", "--beside", "{}:rms"), "expected arrays to run it on, as --arg 'f32[4,8]', got none"),
        (("{}:rms", *ONE, "--beside", "{}:nothing"), "has no function 'nothing'"),
        (("{}:rms", *ONE, "--beside", "{}:rms", "--arg", "f32[4]"), "expected arrays as those of"),
        (("{}:rms", *ONE, "--beside", "{}:var"), "expected results [[6, 4]]"),
        (("{}:rms", *ONE, "--beside", "{}:norm"), "raised TypeError"),
        (
            ("{}:rms", *ONE, "--beside", "{}:rms", "--like", "gelu"),
            "--beside: expected one TARGET before it and no --like",
        ),
        (("--beside", "{}:rms", *ONE), "--beside: expected one TARGET before it"),
        (("{}:rms", *ONE, "--beside", "{}:rms", "--beside", "{}:rms"), "--beside: expected it once"),
        (("gelu", *ONE), "--arg: expected --beside TARGET with it"),
        (
            ("{}:total", "--arg", "i32[4]", "--beside", "{}:total"),
            "--arg and --param of floating numbers are differentiated",
        ),
    ],
    ids=lambda a: " ".join(a) if isinstance(a, tuple) else "",
)
def test_wrong_usage_is_one_line(
    arguments: Any, message: str, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert_usage(run(capsys, *(a.format(files[INSTALLED[-1]]) for a in arguments)), message)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Beside:
    """Of two functions that differ in value and in what they keep."""
    path = tmp_path_factory.mktemp("a_folder_with_a_long_name") / "ports.py"
    path.write_text(SOURCES[INSTALLED[-1]])
    x = [Argument("arg", "f32[6,4]")]
    first, second = (ports.load(f"{path}:{name}", x, INSTALLED[-1]) for name in ("rms", "rms_eps"))
    return beside(first, second, Options())


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_word_is_broken_and_nothing_is_left_out(
    width: int, found: Beside, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for columns in (width, 1000):
        beside_table.show(found, Console(width=columns, highlight=False, force_terminal=True, color_system=None))
        said.append(capsys.readouterr().out)
    assert max(map(len, said[0].splitlines())) <= width
    narrow = "".join(said[0].split())
    missing = [word for word in said[1].replace("–", "").split() if word.strip(";,") not in narrow]
    assert missing == []


def test_few_residuals_are_shown_and_the_rest_is_summed_up(found: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    (match,) = [m for m in found.matches if m.first and m.second and m.first.name == "x"]
    many = replace(found, matches=(match,) * 20)
    beside_table.show(many, Console(width=60, color_system=None, highlight=False))
    out = capsys.readouterr().out
    assert out.count("both: 96 B") == beside_table.TOP
    assert "and 8 more, 768 B of the first, 768 B of the second" in " ".join(out.split())

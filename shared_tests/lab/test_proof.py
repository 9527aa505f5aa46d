"""`residuals audit --prove`: advice that is true when it is taken, and said to be false where it is not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from audited import array
from residuals_lab import cli, frameworks
from residuals_lab.audit import Audit, Given, audit, prove
from residuals_lab.audit.table import text
from residuals_lab.frameworks.sites import Unplaced

BOTH = pytest.mark.parametrize("framework", frameworks.installed())
KEEP = {"jax": "keepdims=True", "torch": "keepdim=True"}
# A model that has advice of several kinds, and pieces that have none, in the dialect of both frameworks.
SOURCE = """
def softmax(scores):
    e = n.exp(scores - peak(scores))
    return e / e.sum(-1, {keep})

def attend(q, k, v):
    scores, rows = q @ k.swapaxes(-1, -2) / math.sqrt(8), n.arange(64)
    return softmax(n.where(rows[:, None] >= rows, scores, -math.inf)) @ v

def norm(x, w):
    return x / n.sqrt((x * x).mean(-1, {keep}) + 1e-5) * w

def gelu(x):
    return 0.5 * x * (1 + n.tanh(0.79788456 * (x + 0.044715 * x**3)))

def model(x, w, out):
    h = norm(n.sin(x), w)
    h = gelu(n.sin(attend(n.sin(h), n.cos(h), h)))
    return (-pick(log_softmax(h @ out.T))).mean()

def biased(x, w, out):
    return (-pick(log_softmax((n.sin(x) * w) @ out.T + n.sin(out).sum(-1)))).mean()
"""
BEGIN = {
    "jax": """
import math, jax, jax.numpy as n
log_softmax = jax.nn.log_softmax

def peak(x):
    return jax.lax.stop_gradient(x.max(-1, keepdims=True))

def pick(x):
    return n.take_along_axis(x, n.arange(64)[:, None], -1)

def tanhs(x, w):
    def step(h, _):
        h = n.tanh(h @ w)
        return h, h
    return (jax.lax.scan(step, x, None, length=50)[1] ** 2).sum()
""",
    "torch": """
import math, torch as n
from torch.utils.checkpoint import checkpoint

def log_softmax(x):
    return n.log_softmax(x, -1)

def peak(x):
    return x.detach().amax(-1, keepdim=True)

def pick(x):
    return x.gather(-1, n.arange(64)[:, None])

def loop(x, w):
    for _ in range(50):
        x = x + n.tanh(n.sin(x @ w)) * 0.1
    return x.sum()

def normed(x, w):  # the op of the norm makes three arrays, and the activation reads one of them
    return n.nn.functional.silu(n.nn.functional.group_norm(n.sin(x)[None], 1)[0]) @ w

def dropped(x, w):
    return n.nn.functional.dropout(n.sin(x) * 2, 0.5, inplace=True) @ w

def with_checkpoint(x, w):
    return gelu(checkpoint(lambda x: n.sin(n.sin(x) * x), x, use_reentrant=False)) @ w
""",
}


def functions(framework: str, tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / f"proved_{framework}.py"
    path.write_text(BEGIN[framework] + SOURCE.format(keep=KEEP[framework]))
    found: dict[str, Any] = {"__name__": "proved"}
    exec(compile(path.read_text(), str(path), "exec"), found)
    return found


def given(framework: str, *shapes: tuple[int, ...]) -> list[Any]:
    return [array(framework, *shape) for shape in shapes]


def taken(report: Audit) -> dict[str, Any]:
    """What each op was said to free, and whether that is true."""
    assert report.proof is not None
    return {one.advice.op: one.is_true or (one.advice.freed, one.freed, one.why) for one in report.proof.taken}


@BOTH
def test_advice_is_true_when_it_is_taken(framework: str, tmp_path: Path) -> None:
    arrays = given(framework, (64, 32), (32,), (256, 32))
    fn = functions(framework, tmp_path)["model"]
    found = audit(fn, *arrays, is_proved=True, is_concrete=framework == "torch")
    ops = ("flash_attention", "gelu", "linear_cross_entropy", "rms_norm")
    assert taken(found) == dict.fromkeys(ops, True)
    proof = found.proof
    assert proof is not None
    assert proof.freed == pytest.approx(proof.said, rel=0.05)
    assert proof.is_true
    assert proof.error is not None
    assert 0 < proof.error < 1e-5, "an op gives the same numbers up to rounding, and is another program"


@BOTH
def test_a_layer_with_a_bias_is_a_part_of_the_loss(framework: str, tmp_path: Path) -> None:
    fn = functions(framework, tmp_path)["biased"]
    found = audit(fn, *given(framework, (64, 32), (32,), (256, 32)), is_proved=True)
    assert taken(found) == {"linear_cross_entropy": True}
    assert "linear_cross_entropy(…, bias=bias)" in text(found)


@BOTH
def test_advice_that_is_false_or_not_placed_is_said_to_be(framework: str, tmp_path: Path) -> None:
    arrays = given(framework, (64, 32), (32,), (256, 32))
    found = audit(functions(framework, tmp_path)["model"], *arrays)

    def nowhere() -> Any:
        raise Unplaced("nobody knows how")

    first, second, *rest = found.advice
    wrong = [replace(first, instead=first.instead - 10 * first.nbytes), replace(second, places=(nowhere,)), *rest]
    call = Given(functions(framework, tmp_path)["model"], arrays, ("x", "w", "out"), ("input",) * 3, True)
    proof = prove(wrong, found.trace, found.adapter, call)
    assert [one.is_true for one in proof.taken] == [False, False, *[True] * len(rest)]
    assert not proof.is_true
    lines = text(replace(found, proof=proof)).splitlines()
    assert sum(line.endswith("FALSE") for line in lines) == 1
    assert sum("not proved, because nobody knows how" in line for line in lines) == 1


@pytest.mark.needs("torch")
@pytest.mark.parametrize(("name", "op"), [("loop", "torch.utils.checkpoint.checkpoint"), ("dropped", "dropout")])
def test_advice_of_pytorch_is_true(name: str, op: str, tmp_path: Path) -> None:
    found = audit(functions("torch", tmp_path)[name], *given("torch", (64, 32), (32, 32)), is_proved=True)
    assert taken(found) == {op: True}


@pytest.mark.needs("torch")
def test_an_array_beside_others_of_its_step_is_kept_once(tmp_path: Path) -> None:
    found = audit(functions("torch", tmp_path)["normed"], *given("torch", (64, 32), (32, 32)))
    assert found.advice == [], "the activation keeps nothing but its input, as the op does"


@pytest.mark.needs("torch")
def test_what_cannot_be_run_again_is_not_proved(tmp_path: Path) -> None:
    found = audit(functions("torch", tmp_path)["with_checkpoint"], *given("torch", (64, 32), (32, 32)), is_proved=True)
    assert found.proof is not None
    assert found.proof.freed is None
    assert "as with a checkpoint or a hook" in found.proof.why


@pytest.mark.needs("jax")
def test_what_an_iteration_hands_on_is_kept(tmp_path: Path) -> None:
    found = audit(functions("jax", tmp_path)["tanhs"], *given("jax", (64, 32), (32, 32)), is_proved=True)
    assert taken(found)["tanh"] is True


@BOTH
def test_the_command_takes_the_advice(framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    functions(framework, tmp_path)
    target = f"{tmp_path / f'proved_{framework}.py'}:gelu"
    assert cli.main(["audit", target, "--arg", "f32[64,32]", "--prove"]) == 0
    said = capsys.readouterr().out
    assert "Advice taken" in said
    assert "with all of it in place: said" in said

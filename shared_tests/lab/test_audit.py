"""The audit: exact to the byte, sharp about faults, calm about clean code; in both frameworks, and as a command."""

import json
from pathlib import Path
from typing import Any

import pytest

from cases import Case, only
from command import assert_usage
from residuals_lab import cli, frameworks
from residuals_lab.audit import Report, audit, frozen, parameter
from residuals_lab.errors import UsageError

INSTALLED = frameworks.installed()
BOTH = pytest.mark.parametrize("framework", INSTALLED)

# Rules with a fault each, and what the audit has to say of it. `Rule` and `n` are given in both frameworks.
FAULTS = {
    "an unused array": ("n.cos(x), n.exp(x)", "g * r[0]", {("unused", "exp")}),
    "a copy of the output": ("copy(n.sin(x)),", "g * n.sqrt(1 - r[0] * r[0])", {("duplicate", "copy")}),
    "saved twice": ("n.cos(x), copy(n.cos(x))", "g * (r[0] + r[1]) / 2", {("duplicate", "copy")}),
    "derivable": ("x, x > 0", "g * r[1] * n.cos(r[0])", {("derivable", "gt")}),
    "closed over": ("x,", "g * n.cos(r[0]) * SHARED", {("hidden", "closed over")}),
    "an unused input": ("n.cos(x), x", "g * r[0]", set()),  # said of x, which costs nothing
    "clean": ("n.cos(x),", "g * r[0]", set()),
}
SOURCE = {
    "jax": """
import jax
import jax.numpy as jnp
n, copy, SHARED = jnp, jnp.copy, jnp.ones((4, 8)) * 3

@jax.custom_vjp
def fn(x):
    return n.sin(x)

def fwd(x):
    return n.sin(x), ({saved})

def bwd(r, g):
    return ({gradient},)

fn.defvjp(fwd, bwd)

def frozen_weight(x, w):
    @jax.custom_vjp
    def linear(h, w):
        return h @ w

    linear.defvjp(lambda h, w: (h @ w, (h, w)), lambda r, g: (g @ r[1].T, r[0].T @ g))
    return linear(n.sin(x), w)

def again(x):
    return jax.checkpoint(lambda x: n.exp(n.sin(x)))(x).sum()

def attend(q, k, v):
    return jax.nn.softmax(q @ k.T) @ v

def gate(x):
    return jax.nn.gelu(x * 2).sum()

def depends(x):
    return n.sin(x) if x.sum() > 0 else n.cos(x)

def integers(x):
    return x.astype("int32")

def broken(x):
    return x @ x

def stops(x):
    raise type("Stop", (BaseException,), {{}})

def prints(x):
    print("half of it")
    return n.sin(x)
""",
    "torch": """
import torch
from torch.utils.checkpoint import checkpoint
n, copy, SHARED = torch, torch.clone, torch.ones((4, 8)) * 3

class Fn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(*({saved}))
        return n.sin(x)

    @staticmethod
    def backward(ctx, g):
        r = ctx.saved_tensors
        return {gradient}

def fn(x):
    return Fn.apply(x)

class Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, w):
        ctx.save_for_backward(h, w)
        return h @ w

    @staticmethod
    def backward(ctx, g):
        h, w = ctx.saved_tensors
        return g @ w.T, h.T @ g

def frozen_weight(x, w):
    return Linear.apply(n.sin(x), w)

class OnCtx(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.kept = n.cos(x)
        return n.sin(x)

    @staticmethod
    def backward(ctx, g):
        return g * ctx.kept

def on_ctx(x):
    return OnCtx.apply(x)

def pinned(x):
    return n.exp(n.sin(x)[:1]).sum() + n.sin(x).sum()

def again(x):
    return checkpoint(lambda x: n.exp(n.sin(x)), x, use_reentrant=False).sum()

def attend(q, k, v):
    return n.softmax(q @ k.T, -1) @ v

class GELU(torch.nn.Module):
    def forward(self, x):
        return 0.5 * x * (1 + n.tanh(0.79788456 * (x + 0.044715 * x**3)))

act = GELU()

def gate(x):
    return act(x * 2).sum()

def depends(x):
    return n.sin(x) if x.sum() > 0 else n.cos(x)

def integers(x):
    return x.int()

def broken(x):
    return x @ x

def stops(x):
    raise type("Stop", (BaseException,), {{}})

def prints(x):
    print("half of it")
    return n.sin(x)
""",
}


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main(["audit", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def array(framework: str, *shape: int) -> Any:
    adapter = frameworks.load(framework)
    return adapter.random_like(adapter.shaped(shape, "float32"))


def source(framework: str, folder: Path, saved: str = "x,", gradient: str = "g") -> Path:
    path = folder / f"mine_{framework}.py"
    path.write_text(SOURCE[framework].format(saved=saved, gradient=gradient))
    return path


def module(framework: str, folder: Path, saved: str = "x,", gradient: str = "g") -> dict[str, Any]:
    """What the source above defines."""
    found: dict[str, Any] = {"__name__": "mine"}
    path = source(framework, folder, saved, gradient)
    exec(compile(path.read_text(), str(path), "exec"), found)
    return found


def said(report: Report) -> set[tuple[str, str]]:
    """What the report finds, for each array that it names; but for single inputs, which cost nothing."""
    return {(f.what, name) for f in report.findings for name in f.names if name != "x"}


@only(first=True, dtype="float32")
def test_our_ops_are_calm_and_exact(case: Case) -> None:
    """Nothing to say, and new bytes that are what the framework really holds beyond inputs and the output."""
    call, adapter = case.call, case.adapter
    given = [*case.args, *call.constants_in(adapter)]
    report = audit(call.ours(adapter), *given, framework=adapter.NAME)
    assert said(report) == set()
    assert report.saved_bytes == call.saved_bytes(adapter, call.ours(adapter), case.args)
    fields = {*adapter.op(call.op.name).Residuals._fields}
    assert {r.name for r in report.residuals if r.op} <= fields, "what is made has the name of its field"
    assert {a.op for a in report.advice} == ({"flash_attention"} if "weights" in fields else set())
    assert {r.op for r in report.recomputed} == set(call.trace(adapter, call.ours(adapter), case.args).repeats())
    concrete = audit(call.ours(adapter), *given, framework=adapter.NAME, is_concrete=True)
    assert (concrete.new_bytes, concrete.saved_bytes) == (report.new_bytes, report.saved_bytes)


@BOTH
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_named(framework: str, fault: str, tmp_path: Path) -> None:
    saved, gradient, expected = FAULTS[fault]
    report = audit(module(framework, tmp_path, saved, gradient)["fn"], array(framework, 4, 8))
    assert {(what, name.replace("clone", "copy")) for what, name in said(report)} == expected
    for finding in report.findings:
        is_alive = finding.names in (("x",), ("closed over",))
        assert finding.nbytes in ((0,) if is_alive else (32, 128))
        assert finding.line == "" or f"mine_{framework}.py:" in finding.line


@BOTH
def test_a_residual_of_a_frozen_input(framework: str, tmp_path: Path) -> None:
    fn = module(framework, tmp_path)["frozen_weight"]
    x, w = array(framework, 4, 8), array(framework, 8, 8)
    assert said(audit(fn, x, w)) == set()
    (finding,) = audit(fn, x, frozen(w)).findings
    assert (finding.what, finding.names, finding.nbytes) == ("unused", ("sin",), 128)
    assert "nobody asked for" in finding.why


@pytest.mark.skipif("torch" not in INSTALLED, reason="only PyTorch has a ctx, and views")
def test_what_hangs_on_ctx_and_what_a_view_pins(tmp_path: Path) -> None:
    found = module("torch", tmp_path)
    assert said(audit(found["on_ctx"], array("torch", 4, 8))) == {("hidden", "kept")}
    (finding,) = audit(lambda x: x.sin()[:1].exp().sin().sum(), array("torch", 64, 8)).findings or [None]
    assert finding is None, "the exp is new and small; the sine is not held"
    report = audit(lambda x: (x.sin()[:1] * x.cos()[:1]).sum(), array("torch", 64, 8))
    assert {(f.what, f.nbytes) for f in report.findings} == {("pinned", 2 * (2048 - 32))}


@pytest.mark.skipif("torch" not in INSTALLED, reason="only PyTorch has views and modules with a state")
def test_a_view_wastes_nothing_and_a_module_stays_as_it_is() -> None:
    """A result and a view of it are one array; and an audit counts no batch, on fake tensors."""
    from torch import nn

    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    before = {name: a.clone() for name, a in model.state_dict().items()}
    report = audit(model, array("torch", 3, 4, 8))  # a linear layer takes the rows of a ReLU's result
    assert report.findings == []
    assert all(a.equal(before[name]) for name, a in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.skipif("torch" not in INSTALLED, reason="only PyTorch has modules with a state")
def test_a_module_keeps_no_fake_tensors() -> None:
    """Neither what it makes when it first runs, nor a buffer that it assigns."""
    import torch

    class Masked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mask = None
            self.register_buffer("mean", torch.zeros(8))

        def forward(self, x: Any) -> Any:
            if self.mask is None:
                self.mask = torch.arange(8) > 2
            self.mean = 0.9 * self.mean + x.detach().mean(0)
            return (x * self.mask).sin()

    model, mean = Masked(), torch.zeros(8)
    model = torch.nn.Sequential(model, torch.nn.Linear(8, 8))
    audit(model, array("torch", 4, 8))
    assert model[0].mask is None
    assert type(model[0].mean) is torch.Tensor
    assert model[0].mean.equal(mean)
    assert type(model(array("torch", 4, 8))) is torch.Tensor


@pytest.mark.skipif("torch" not in INSTALLED, reason="JAX traces arguments apart")
def test_one_tensor_given_twice_is_one() -> None:
    import torch

    def fn(query: Any, key: Any) -> Any:
        return (query.sin() if query is key else query.sin() * key.exp()).sum()

    x = torch.ones(4, 8, requires_grad=True)
    assert audit(fn, x, x).new_bytes == 0


@pytest.mark.skipif("jax" not in INSTALLED, reason="PyTorch has its own test of this")
def test_a_result_that_depends_on_nothing_is_said() -> None:
    import jax

    with pytest.raises(UsageError, match="depends on what is differentiated"):
        audit(lambda x: jax.lax.stop_gradient(x) * 2, array("jax", 4))


@BOTH
def test_equal_masks_belong_to_the_layers_that_made_them(framework: str) -> None:
    """And that each layer makes one of its own is a waste."""
    if framework == "jax":
        import jax.numpy as n
    else:
        import torch as n

    def first(x: Any) -> Any:
        return n.where(n.tril(n.ones(8, 8) if framework == "torch" else n.ones((8, 8))) > 0, n.sin(x), 0.0)

    def second(x: Any) -> Any:
        return n.where(n.tril(n.ones(8, 8) if framework == "torch" else n.ones((8, 8))) > 0, n.sin(x), 0.0)

    report = audit(lambda x: second(first(x)), array(framework, 8, 8), framework=framework)
    masks = [r for r in report.residuals if r.value.dtype == "bool"]
    assert [r.module.rpartition("/")[2] for r in masks] == ["first", "second"]
    assert ("duplicate", 64) in [(f.what, f.nbytes) for f in report.findings]


@BOTH
def test_what_is_closed_over_has_the_name_of_its_variable(framework: str) -> None:
    table = array(framework, 4, 8)
    report = audit(lambda x: (x * table).sum(), array(framework, 4, 8), framework=framework)
    assert [(r.name, r.is_new) for r in report.residuals if r.kind != "input"] == [("table", False)]


@BOTH
def test_recomputation_and_what_it_would_cost_to_save(framework: str, tmp_path: Path) -> None:
    report = audit(module(framework, tmp_path)["again"], array(framework, 4, 8))
    assert {(r.op, r.cost, r.nbytes) for r in report.recomputed} >= {("sin", "transcendental", 128)}
    assert report.new_bytes == 0
    assert all(f"mine_{framework}.py:" in r.line for r in report.recomputed)


@BOTH
def test_advice_is_measured(framework: str, tmp_path: Path) -> None:
    """Scores where a log-sum-exp would do; a gelu that keeps each of its steps."""
    found = module(framework, tmp_path)
    q = array(framework, 64, 8)
    (advice, *_) = audit(found["attend"], q, q, q).advice
    assert advice.op == "flash_attention"
    assert advice.nbytes >= 64 * 64 * 4
    assert advice.instead == 64 * 8 * 4 + 64 * 4, "the output and a number a row"
    (advice,) = audit(found["gate"], q).advice
    assert (advice.op, advice.instead) == ("gelu", 64 * 8 * 4)
    assert advice.arrays >= 3
    assert audit(frameworks.load(framework).public("gelu"), q).advice == []


@BOTH
def test_what_rules_make_has_their_names(framework: str) -> None:
    """Also in a loop, and where a rule is within another; what they are given keeps its own name."""
    adapter = frameworks.load(framework)
    layer_norm, rms_norm, relu_bits = map(adapter.public, ("layer_norm", "rms_norm", "relu_bits"))
    report = audit(lambda x, w: relu_bits(rms_norm(layer_norm(x), w)), array(framework, 4, 8), array(framework, 8))
    assert {r.name for r in report.residuals if r.is_new} == {"mean", "rstd", "mask", "mul"}
    assert {r.name for r in report.residuals if not r.is_new} == {"x", "w"}


@pytest.mark.skipif("jax" not in INSTALLED, reason="only JAX has loops in a trace, and names for values")
def test_names_in_a_loop_and_by_checkpoint_name() -> None:
    import jax
    from jax.ad_checkpoint import checkpoint_name

    layer_norm = frameworks.load("jax").public("layer_norm")

    def fn(x: Any) -> Any:
        named = checkpoint_name(jax.numpy.exp(x), "grown")
        return jax.lax.scan(lambda c, _: (layer_norm(c), None), named, length=3)[0]

    report = audit(fn, array("jax", 4, 8))
    assert {r.name for r in report.residuals} == {"grown", "carry", "mean", "rstd"}
    assert report.findings == [], "no step makes all that a loop carries"


@BOTH
def test_kinds_and_places(framework: str, tmp_path: Path) -> None:
    def fn(params: dict[str, Any], x: Any, *, scale: float, others: list[Any]) -> Any:
        h = x @ params["w"]
        return (h * h * scale).sum() + (others[0] * x).sum()

    x, w, v = (array(framework, *shape) for shape in ((4, 8), (8, 8), (4, 8)))
    report = audit(fn, parameter({"w": w}), x, scale=2.0, others=[frozen(v).tree])
    kinds = {r.name: r.kind for r in report.residuals if r.value.shape}
    assert kinds["x"] == "input"
    assert kinds["params['w']"] == "parameter"
    assert kinds["others[0]"] == "input"
    made = [r for r in report.residuals if r.is_new and r.value.shape]
    assert made
    assert all("test_audit.py:" in r.line for r in made)
    assert report.peak_bytes == report.saved_bytes
    constants = [r.name for r in report.residuals if not r.value.shape]  # which JAX keeps as arrays
    assert constants == {"jax": ["constant"], "torch": []}[framework]
    assert report.new_bytes == sum(r.storage_bytes for r in made) + 4 * len(constants)


@pytest.mark.skipif("torch" not in INSTALLED, reason="modules and checkpoints are PyTorch's")
def test_modules_of_pytorch() -> None:
    """Parameters by name, shared ones once, no gradient left behind; both kinds of checkpoint; a dataclass."""
    import dataclasses

    import torch
    from torch.utils.checkpoint import checkpoint

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Linear(8, 8, bias=False), torch.nn.Linear(8, 8, bias=False)
            self.second.weight = self.first.weight
            self.reentrant: bool | None = None

        def inner(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.sin(self.first(x)))

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            x = x.exp()
            y = self.inner(x) if self.reentrant is None else checkpoint(self.inner, x, use_reentrant=self.reentrant)
            return {"y": y, "x": x}

    net, x = Net(), torch.rand(4, 8, requires_grad=True)
    report = audit(net, x)
    assert {(r.name, r.kind) for r in report.residuals} == {
        ("first.weight", "parameter"), ("matmul", "new"), ("sin", "new"), ("exp", "output"),
    }  # fmt: skip
    assert {r.module for r in report.residuals if r.op == "matmul"} == {"Net/first"}
    assert net.first.weight.grad is None
    assert report.new_bytes == 2 * 128
    for net.reentrant in (False, True):
        report = audit(net, x)
        assert report.new_bytes == 0, "what the checkpoint holds is an output"
        assert [r.op for r in report.recomputed] == ["matmul", "sin"] * 1 or {r.op for r in report.recomputed} >= {
            "sin"
        }
        assert said(report) == set()

    @dataclasses.dataclass
    class Batch:
        x: torch.Tensor
        name: str = "batch"

    report = audit(lambda batch: Batch(batch.x.sin()), Batch(x))
    assert [r.name for r in report.residuals] == ["batch.x"]


@BOTH
def test_the_same_command_in_both_frameworks(
    framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = source(framework, tmp_path)
    code, out, _ = run(capsys, f"{path}:attend", *(["--arg", "f32[64,8]"] * 3), "--json")
    document = json.loads(out)
    assert code == 0
    assert document["schema_version"] == 1
    assert {r["name"] for r in document["residuals"]} >= {"q", "v"}
    assert document["new_bytes"] == sum(
        {i: r["storage_bytes"] for i, r in enumerate(document["residuals"]) if r["is_new"]}.values()
    )
    for by in ("source", "module", "kind"):
        code, out, _ = run(capsys, f"{path}:attend", *(["--arg", "f32[64,8]"] * 3), "--by", by)
        assert code == 0
        assert "16 KiB" in out
    page = tmp_path / "report.html"
    code, out, _ = run(capsys, f"{path}:gate", "--arg", "f32[64,8]", "--html", page, "--compiled")
    assert (code, "Advice" in out, "After compilation" in out) == (0, True, True)
    assert "<!doctype html>" in page.read_text()


@pytest.mark.skipif(len(INSTALLED) < 2, reason="needs both frameworks")
def test_a_port_beside_its_original(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [f"{source(name, tmp_path)}:gate" for name in ("jax", "torch")]
    code, out, _ = run(capsys, paths[0], "--arg", "f32[64,8]", "--beside", paths[1])
    assert (code, "Side by side" in out) == (0, True)
    code, _, _ = run(
        capsys, paths[0], "--arg", "f32[64,8]", "--framework", "jax", "--beside", paths[1], "--framework", "torch"
    )
    assert code == 0, "each has its own"
    code, out, _ = run(capsys, paths[0], "--arg", "f32[64,8]", "--beside", paths[1], "--json")
    document = json.loads(out)
    left, right = (report["new_bytes"] for report in document["reports"])
    assert sum(match["difference"] for match in document["matched"]) == right - left


@pytest.mark.skipif("torch" not in INSTALLED, reason="one framework will do")
def test_what_stands_for_what_beside() -> None:
    """Of several with as many bytes the one that the same operation reads; and what is left over is only here."""
    import torch

    from residuals_lab.audit.matching import explained, matched

    def left(x: Any) -> Any:
        return (x * 2).sin().sum()

    def right(x: Any) -> Any:
        return (x.exp() * x.tanh()).sum() + (x + 1).sin().sum()

    traces = [audit(fn, torch.ones(4, 8, requires_grad=True)).trace for fn in (left, right)]
    found = {m.name: (m.left.count, m.right.count, m.difference, explained(m)) for m in matched(*traces)}
    assert found.pop("mul | add") == (1, 1, 0, "")
    assert {name: m[:3] for name, m in found.items()} == {"exp": (0, 1, 128), "tanh": (0, 1, 128)}
    assert found["exp"][3].startswith("only here: read by mul")


@BOTH
def test_what_cannot_be_audited_gets_one_line(
    framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = source(framework, tmp_path)
    assert_usage(run(capsys, f"{path}:depends", "--arg", "f32[4]"), "run it with --concrete")
    code, out, _ = run(capsys, f"{path}:depends", "--arg", "f32[4]", "--concrete")
    assert (code, "16 B of new memory" in out or "0 B of new memory" in out) == (0, True)
    assert_usage(run(capsys, f"{path}:integers", "--arg", "f32[4]"), "expected a result")
    assert_usage(run(capsys, f"{path}:broken", "--arg", "f32[4,8]"), "broken: ")
    assert_usage(run(capsys, f"{path}:stops", "--arg", "f32[4]"), ": Stop\n")
    assert_usage(run(capsys, f"{path}:nothing"), "has no function 'nothing'")
    assert_usage(run(capsys, f"{path}:gate", "--arg", "f33[4]"), "expected a dtype of")
    for shape in ("f32[4,-1]", "f32[4", "f32[n]"):
        assert_usage(run(capsys, f"{path}:gate", "--arg", shape), "expected a dtype and whole numbers, as in f32[1024")
    if framework == "torch":
        assert_usage(run(capsys, f"{path}:gate", "--arg", f"f32[{'9' * 30}]"), "--arg: f32[999")
    assert_usage(run(capsys, f"{path}:gate", "--arg", f"{path}:SHARED"), "--arg: ")
    assert_usage(run(capsys, f"{path}:gate", "--arg", "sideways"), "expected f32[1024,512], a Python literal")
    assert_usage(run(capsys, f"{path}:gate", "--input", "data.npy"), "expected NAME=FILE")
    assert_usage(run(capsys, f"{path}:gate", "--arg", "f32[4]", "--plot", tmp_path / "a" / "b.svg"), "no folder")


@BOTH
def test_what_a_target_prints_is_no_part_of_the_document(
    framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, f"{source(framework, tmp_path)}:prints", "--arg", "f32[4]", "--json", "--compiled")
    assert (code, json.loads(out)["new_bytes"], "half of it" in err) == (0, 16 if framework == "jax" else 0, True)


def test_a_run_in_jax_says_what_it_does_not_see(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "jax" not in INSTALLED:
        pytest.skip("JAX's run")
    path = source("jax", tmp_path)
    code, out, _ = run(capsys, f"{path}:gate", "--arg", "f32[64,8]", "--concrete")
    assert (code, "it is not seen how arrays are made" in out, "Nothing is wasted" in out) == (0, True, False)
    assert "closed over" not in out, "the run has made them"

"""The lock on edits that people make to their code: what grew fails with its line, and what is harmless passes."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from residuals_lab import cli, frameworks

GROWS = "  # grows"  # at the end of a line that keeps more


class Program(NamedTuple):
    """A file with a function `loss` and a model `net`, and how to call them."""

    text: str
    arguments: dict[str, str]


Edit = dict[str, str]  # what is in the text → what is written instead
Check = Callable[[str, Edit], tuple[int, str, list[str]]]

TORCH = """\
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


class Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x > 0)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0]


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        h = self.norm(x)
        h = F.gelu(self.up(h))
        h = self.drop(self.down(h))
        return x + h


def act(h):
    return torch.sigmoid(h) * torch.tanh(h)


def loss(x, w, labels):
    h = checkpoint(act, x @ w, use_reentrant=False)
    h = Clip.apply(h)
    scores = h @ w.T
    return F.cross_entropy(scores, labels)


net = nn.Sequential(Block(16), Block(16))
"""

JAX = """\
import jax
import jax.numpy as jnp


@jax.custom_vjp
def clip(x):
    return jnp.maximum(x, 0)


def clip_fwd(x):
    return clip(x), x > 0


def clip_bwd(mask, g):
    return (jnp.where(mask, g, 0),)


clip.defvjp(clip_fwd, clip_bwd)


class Module:
    def __init_subclass__(cls):
        jax.tree_util.register_pytree_with_keys_class(cls)

    def tree_flatten_with_keys(self):
        names = sorted(vars(self))
        return [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names], tuple(names)

    @classmethod
    def tree_unflatten(cls, names, values):
        made = object.__new__(cls)
        vars(made).update(zip(names, values))
        return made


class Block(Module):
    def __init__(self, width):
        self.up = jnp.ones((width, 2 * width))
        self.down = jnp.ones((2 * width, width))

    def __call__(self, x):
        h = x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
        h = jax.nn.silu(h @ self.up)
        return x + h @ self.down


class Stack(Module):
    def __init__(self, *layers):
        self.layers = layers

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def act(h):
    return jax.nn.sigmoid(h) * jnp.tanh(h)


def loss(params, x, labels):
    h = jax.checkpoint(act)(x @ params["in"])
    h = clip(h)
    scores = h @ params["out"]
    return -jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=-1).mean()


def init():
    return {"in": jnp.ones((16, 16)), "out": jnp.ones((16, 16))}


net = Stack(Block(16), Block(16))
"""

PROGRAMS = {
    "torch": Program(TORCH, {"loss": "--arg f32[32,16] --arg f32[16,16] --arg i64[32]", "net": "--arg f32[4,8,16]"}),
    "jax": Program(JAX, {"loss": "--param mine.py:init --arg f32[32,16] --arg i32[32]", "net": "--arg f32[4,8,16]"}),
}

GROWTHS: dict[str, dict[str, Edit]] = {
    "torch": {
        "gelu in float64": {"F.gelu(self.up(h))": f"F.gelu(self.up(h).double()).float(){GROWS}"},
        "gelu by hand": {
            "h = F.gelu(self.up(h))": f"h = self.up(h)\n        h = 0.5 * h * (1 + torch.erf(h / 1.4142)){GROWS}"
        },
        "an activation": {"self.drop(self.down(h))": f"self.drop(torch.sin(self.down(h))){GROWS}"},
        "a gate": {"return x + h": f"return x + h * torch.sigmoid(h){GROWS}"},
        "a norm by hand": {"h = self.norm(x)": f"h = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True){GROWS}"},
        "a block": {
            "nn.Sequential(Block(16), ": "nn.Sequential(Block(16), Block(16), ",
            "h = F.gelu(self.up(h))": f"h = F.gelu(self.up(h)){GROWS}",
        },
        "no checkpoint": {
            "* torch.tanh(h)": f"* torch.tanh(h){GROWS}",
            "checkpoint(act, x @ w, use_reentrant=False)": "act(x @ w)",
        },
        "a probability": {
            "return F.cross_entropy(scores, labels)": f"p = F.softmax(scores, -1){GROWS}\n"
            "    return F.nll_loss(p.log(), labels) + p.square().mean()"
        },
        "an input in place of its signs": {
            "ctx.save_for_backward(x > 0)": f"ctx.save_for_backward(x.exp()){GROWS}",
            "ctx.saved_tensors[0]": "(ctx.saved_tensors[0] > 1)",
        },
        "an array hidden on ctx": {
            "return x.clamp(min=0)": f"ctx.mine = x.sin(){GROWS}\n        return x.clamp(min=0)"
        },
        "a cast": {"scores = h @ w.T": f"scores = (h.double() @ w.T.double()).float(){GROWS}"},
        "a loop": {
            "    scores = h @ w.T": f"    for _ in range(3):\n        h = torch.tanh(h){GROWS}\n    scores = h @ w.T"
        },
    },
    "jax": {
        "silu by hand": {
            "h = jax.nn.silu(h @ self.up)": f"h = h @ self.up\n        h = h / (1 + jnp.exp(-h)) * jnp.tanh(h){GROWS}"
        },
        "an activation": {"return x + h @ self.down": f"return x + jnp.sin(h @ self.down){GROWS}"},
        "a gate": {"return x + h @ self.down": f"return x + jax.nn.sigmoid(x) * (h @ self.down){GROWS}"},
        "a norm": {
            "h = jax.nn.silu(h @": f"h = h - jnp.log(jnp.exp(h).sum(-1, keepdims=True)){GROWS}\n"
            "        h = jax.nn.silu(h @"
        },
        "a block": {
            "Stack(Block(16), ": "Stack(Block(16), Block(16), ",
            "h = jax.nn.silu(h @ self.up)": f"h = jax.nn.silu(h @ self.up){GROWS}",
        },
        "no checkpoint": {"* jnp.tanh(h)": f"* jnp.tanh(h){GROWS}", "jax.checkpoint(act)(": "act("},
        "floats in place of bits": {"return clip(x), x > 0": f"return clip(x), (x > 0).astype(x.dtype){GROWS}"},
        "a residual of a rule": {
            "return clip(x), x > 0": f"return clip(x), (x > 0, jnp.sin(x)){GROWS}",
            "def clip_bwd(mask, g):": "def clip_bwd(residuals, g):\n    mask, _ = residuals",
        },
        "a softplus": {
            "    return -jnp.take": f"    scores = scores * jnp.log1p(jnp.exp(scores)){GROWS}\n    return -jnp.take"
        },
        "a mask": {"h = clip(h)": f"h = jnp.where(h > 0.5, clip(h), jnp.cos(h)){GROWS}"},
        "a power": {'scores = h @ params["out"]': f'scores = (h**3) @ params["out"]{GROWS}'},
        "a loop": {
            "    scores = h": f"    for _ in range(3):\n        h = jnp.tanh(h){GROWS}\n    scores = h",
        },
    },
}

HARMLESS: dict[str, dict[str, Edit]] = {
    "torch": {
        "an argument renamed": {
            "forward(self, x)": "forward(self, hidden)",
            "norm(x)": "norm(hidden)",
            "n x +": "n hidden +",
        },
        "a parameter renamed": {"self.up": "self.fc1", "self.down": "self.fc2"},
        "a function's arguments renamed": {
            "loss(x, w, labels)": "loss(batch, w, y)",
            "x @ w": "batch @ w",
            "s, labels": "s, y",
        },
        "a Sequential around": {
            "nn.Sequential(Block(16), Block(16))": "nn.Sequential(nn.Sequential(Block(16), Block(16)))"
        },
        "a model around": {
            "net = nn.Sequential(Block(16), Block(16))": """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(16), Block(16)])

    def forward(self, tokens):
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


net = Net()"""
        },
        "other lines": {"import torch\n": "# A comment.\n\n\nimport torch\n", "    scores": "\n    scores"},
        "F.linear": {"self.up(h)": "F.linear(h, self.up.weight, self.up.bias)"},
        "a module for a function": {"F.gelu(": "nn.GELU()("},
        "a method for a function": {"torch.tanh(h)": "h.tanh()", "torch.sigmoid(h)": "h.sigmoid()"},
        "another operation": {"F.gelu(": "F.silu("},
        "another shape": {
            "        return x + h": "        return x + h.view(4, 8, 16)",
            "h = F.gelu(self.up(h))": "h = F.gelu(self.up(h.view(32, 16)))",
        },
        "a helper": {
            "h = F.gelu(self.up(h))": "h = self.expand(h)",
            "    def forward(self, x)": "    def expand(self, a):\n        return F.gelu(self.up(a))\n\n"
            "    def forward(self, x)",
        },
        "a loss module": {"F.cross_entropy(scores": "nn.CrossEntropyLoss()(scores"},
        "another name of the matmul": {"h @ w.T": "torch.matmul(h, w.t())"},
        "a metric": {"    return F.cross": "    print(scores.detach().mean().shape)\n    return F.cross"},
        "a scale": {"return x + h": "return x + 0.5 * h"},
        "the classes renamed": {"Block": "Layer", "Clip": "ReLU"},
        "annotations": {"def act(h):": "def act(h: torch.Tensor) -> torch.Tensor:"},
        "less": {"h = F.gelu(self.up(h))": "h = checkpoint(lambda h: F.gelu(self.up(h)), h, use_reentrant=False)"},
        "less at another place": {
            "self.drop(self.down(h))": "torch.sin(self.down(h))",
            "F.gelu(self.up(h))": "F.relu(self.up(h))",
        },
    },
    "jax": {
        "an argument renamed": {"def loss(params, x,": "def loss(params, batch,", "(x @ p": "(batch @ p"},
        "a parameter renamed": {"self.up": "self.w1", "self.down": "self.w2"},
        "a key renamed": {'"in"': '"first"', '"out"': '"last"'},
        "a tree around": {
            'return {"in": jnp.ones((16, 16)), "out"': 'return {"head": jnp.ones((16, 16)), "out"',
            'params["in"]': 'params["head"]',
        },
        "a Stack around": {"net = Stack(Block(16), Block(16))": "net = Stack(Stack(Block(16), Block(16)))"},
        "other lines": {"import jax\n": "# A comment.\n\n\nimport jax\n", "    scores": "\n    scores"},
        "another operation": {"clip(x), x > 0": "clip(x), x <= 0", "where(mask, g, 0)": "where(mask, 0, g)"},
        "another shape": {
            "        return x + h @ self.down": "        return x + (h @ self.down).reshape(4, 8, 16)",
            "h = jax.nn.silu(h @ self.up)": "h = jax.nn.silu(h.reshape(32, 16) @ self.up)",
        },
        "a helper": {
            "h = jax.nn.silu(h @ self.up)": "h = self.expand(h)",
            "    def __call__(self, x):\n        h = x": "    def expand(self, a):\n"
            "        return jax.nn.silu(a @ self.up)\n\n    def __call__(self, x):\n        h = x",
        },
        "jit": {"def act(h)": "@jax.jit\ndef act(h)"},
        "a jit of all": {"def loss(": "@jax.jit\ndef loss("},
        "another name of the matmul": {'h @ params["out"]': 'jnp.matmul(h, params["out"])'},
        "a named scope": {"    h = clip(h)": '    with jax.named_scope("clip"):\n        h = clip(h)'},
        "a metric": {"    return -jnp.take": "    print(scores.mean().shape)\n    return -jnp.take"},
        "a scale": {"return x + h @ self.down": "return x + 0.5 * (h @ self.down)"},
        "the classes renamed": {"Block": "Layer", "Stack": "Net", "clip": "relu"},
        "annotations": {"def act(h):": "def act(h: jax.Array) -> jax.Array:"},
        "less": {"h = jax.nn.silu(h @ self.up)": "h = jax.checkpoint(lambda h: jax.nn.silu(h @ self.up))(h)"},
        "less at another place": {"h @ self.down": "jnp.sin(h @ self.down)", "h = jax.nn.silu(": "h = jax.nn.relu("},
    },
}


def edits(of: dict[str, dict[str, Edit]]) -> list[object]:
    return [
        pytest.param(name, edit, id=f"{name}: {what}")
        for name in frameworks.installed()
        for what, edit in of[name].items()
    ]


@pytest.fixture(scope="module")
def locks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The locks of the programs as they are."""
    found = {}
    for name in frameworks.installed():
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.mktemp(name))
            Path("mine.py").write_text(PROGRAMS[name].text)
            for target, arguments in PROGRAMS[name].arguments.items():
                assert cli.main(["lock", "write", f"mine.py:{target}", *arguments.split()]) == 0
            found[name] = Path("residuals.lock").read_text()
    return found


@pytest.fixture
def check(
    locks: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Check:
    """A function that checks an edit: the exit code, the output, and the edited lines that grow."""
    monkeypatch.chdir(tmp_path)

    def checked(framework: str, edit: Edit) -> tuple[int, str, list[str]]:
        Path("residuals.lock").write_text(locks[framework])
        text = PROGRAMS[framework].text
        for old, new in edit.items():
            assert old in text
            text = text.replace(old, new)
        Path("mine.py").write_text(text)
        code = cli.main(["lock", "check"])
        lines = [f"mine.py:{i}" for i, line in enumerate(text.splitlines(), 1) if line.endswith(GROWS)]
        return code, capsys.readouterr().out, lines

    return checked


@pytest.mark.parametrize(("framework", "edit"), edits(GROWTHS))
def test_what_grows_fails_with_its_line(framework: str, edit: Edit, check: Check) -> None:
    code, out, (line,) = check(framework, edit)
    assert code == 1, out
    grown = [row for row in out.splitlines() if row.split()[0] in ("grew", "appears") and " at " in row]
    assert any(line in row for row in grown), out
    assert "FAILED: 1 of 2 targets." in out


@pytest.mark.parametrize(("framework", "edit"), edits(HARMLESS))
def test_what_is_harmless_passes(framework: str, edit: Edit, check: Check) -> None:
    code, out, _ = check(framework, edit)
    assert code == 0, out
    assert "2 targets as locked" in out or "No target grew" in out

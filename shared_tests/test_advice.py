"""The audit's advice: what it says an op would free is what is freed when the op is taken."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from residuals_lab import frameworks
from residuals_lab.audit import audit

BOTH = pytest.mark.parametrize("framework", frameworks.installed())
SOURCE = {
    "jax": """
import jax, jax.numpy as n, residuals_jax as ours

KEY = n.array([1, 2], "uint32")

def gelu(x):
    return 0.5 * x * (1 + n.tanh(0.79788456 * (x + 0.044715 * x**3)))

def dropout(x, rate):
    return n.where(jax.random.bernoulli(jax.random.key(1), 1 - rate, x.shape), x / (1 - rate), 0)

def rms_norm(x):
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)

def cross_entropy(logits, labels):
    return -n.take_along_axis(jax.nn.log_softmax(logits.astype("float32")), labels[:, None], 1).mean()

def softmax(scores):
    return jax.nn.softmax(scores)

silu = jax.nn.silu
""",
    "torch": """
import torch as n, torch.nn.functional as F, residuals_torch as ours

KEY = n.tensor([1, 2]).to(n.uint32)

def gelu(x):
    return 0.5 * x * (1 + n.tanh(0.79788456 * (x + 0.044715 * x**3)))

class Dropout(n.nn.Dropout):
    pass

def dropout(x, rate):
    return Dropout(rate)(x)

def rms_norm(x):
    wide = x.double()
    return (wide * n.rsqrt((wide * wide).mean(-1, keepdim=True) + 1e-6)).float()

def cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels)

def softmax(scores):
    e = n.exp(scores - scores.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)

def silu(x):
    return F.silu(x)
""",
}
# Each once as it is often written, and once with the op that is advised. What they share is held in both.
WRITTEN = {
    "gelu": ("gelu(h) @ w.T", "ours.gelu(h) @ w.T"),
    "rms_norm": ("rms_norm(h) @ w.T", "ours.rms_norm(h) @ w.T"),
    "dropout": ("dropout(h, 0.5) @ w.T", "ours.dropout(h, 0.5, KEY) @ w.T"),
    "softmax": ("softmax(h) @ w.T", "ours.softmax(h) @ w.T"),
    "swiglu": ("(silu(h) * n.log(x)) @ w.T", "ours.swiglu(h, n.log(x)) @ w.T"),
    "linear_cross_entropy": ("cross_entropy(h @ w.T, labels)", "ours.linear_cross_entropy(h, w, labels)"),
    "flash_attention": (
        "softmax(h @ n.cos(x).T * 8**-0.5) @ n.exp(x)",
        "ours.flash_attention(h[None], n.cos(x)[None], n.exp(x)[None])",
    ),
}


def module(framework: str, tmp_path: Path, expression: str) -> ModuleType:
    path = tmp_path / f"mine_{framework}.py"
    path.write_text(f"{SOURCE[framework]}\ndef fn(x, w, labels):\n    h = n.sin(x)\n    return {expression}\n")
    spec = spec_from_file_location("mine", path)
    found = module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def arguments(framework: str) -> list[Any]:
    adapter = frameworks.load(framework)
    x, w = (adapter.shaped(shape, "float32") for shape in ((64, 8), (40, 8)))
    if framework == "torch":
        x, w = x.requires_grad_(), w.requires_grad_()
    return [x, w, adapter.shaped((64,), {"jax": "int32", "torch": "int64"}[framework])]


@BOTH
@pytest.mark.parametrize("op", WRITTEN)
def test_what_is_freed_is_what_was_said(op: str, framework: str, tmp_path: Path) -> None:
    with frameworks.load(framework).abstractly():
        before, after = (
            audit(module(framework, tmp_path, e).fn, *arguments(framework), framework=framework) for e in WRITTEN[op]
        )
    advice = before.advice[0]
    assert advice.op == op
    assert f"mine_{framework}.py:" in advice.line
    freed = before.new_bytes - after.new_bytes
    assert 0.8 * freed <= advice.freed <= freed, "an output that the op saves may be alive anyway"
    assert after.advice == []

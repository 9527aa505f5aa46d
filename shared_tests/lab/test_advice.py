"""The audit's advice: what it says an op would free is what is freed when the op is taken."""

import inspect
import re
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from audited import array
from audited import module as written
from residuals_lab import frameworks
from residuals_lab.audit import audit

BOTH = pytest.mark.parametrize("framework", frameworks.installed())
SOURCE = {
    "jax": """
import jax, jax.numpy as n, residuals_jax as ours

KEY = n.array([1, 2], "uint32")
EVEN = n.ones((64, 8))

def gelu(x):
    return 0.5 * x * (1 + n.tanh(0.79788456 * (x + 0.044715 * x**3)))

def dropout(x, rate):
    return n.where(jax.random.bernoulli(jax.random.key(1), 1 - rate, x.shape), x / (1 - rate), 0)

def rms_norm(x):
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)

def rms_norm_0(x):
    return x * jax.lax.rsqrt((x * x).mean(0, keepdims=True) + 1e-6)

def cross_entropy(logits, labels):
    top = logits.max(-1, keepdims=True)
    log_sum_exp = n.log(n.exp(logits - top).sum(-1, keepdims=True)) + top
    return (log_sum_exp - n.take_along_axis(logits, labels[:, None], 1)).mean()

def softmax(scores, axis=-1):
    return jax.nn.softmax(scores, axis)

def log_softmax(logits):
    return jax.nn.log_softmax(logits)

def pick(x, labels):
    return n.take_along_axis(x, labels.reshape(x.shape[0], -1), 1)

logsumexp = jax.nn.logsumexp

def linear(x, w, b):
    return x @ w.T + b

def gelu_tanh(x):
    return jax.nn.gelu(x)

def layer_norm(x):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-6)

silu = jax.nn.silu
relu = jax.nn.relu

def tanh(x):
    return n.tanh(x)
sigmoid = jax.nn.sigmoid

def swish(x):
    return x * sigmoid(x)

def uniform(x):
    return jax.random.uniform(jax.random.key(1), x.shape)

def noise(x):
    return jax.random.normal(jax.random.key(1), x.shape) * n.sin(x)
""",
    "torch": """
import torch as n, torch.nn.functional as F, residuals_torch as ours

KEY = n.tensor([1, 2]).to(n.uint32)
EVEN = n.ones((64, 8))

def gelu(x):
    return 0.5 * x * (1 + n.tanh(0.79788456 * (x + 0.044715 * x**3)))

def dropout(x, rate):
    return F.dropout(x, rate)

def rms_norm(x):
    wide = x.double()
    return (wide * n.rsqrt((wide * wide).mean(-1, keepdim=True) + 1e-6)).float()

def rms_norm_0(x):
    wide = x.double()
    return (wide * n.rsqrt((wide * wide).mean(0, keepdim=True) + 1e-6)).float()

def cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels)

def softmax(scores, axis=-1):
    e = n.exp(scores - scores.amax(axis, keepdim=True))
    return e / e.sum(axis, keepdim=True)

def log_softmax(logits):
    return n.log_softmax(logits, -1)

def pick(x, labels):
    return x.gather(1, labels.reshape(x.shape[0], -1))

linear = F.linear

def logsumexp(x):
    return n.logsumexp(x, -1)

def gelu_tanh(x):
    return F.gelu(x, approximate="tanh")

def silu(x):
    return F.silu(x)

def layer_norm(x):
    return F.layer_norm(x, x.shape[-1:])

def tanh(x):
    return n.tanh(x)

relu = F.relu
sigmoid = n.sigmoid

def swish(x):
    return x * sigmoid(x)

def uniform(x):
    return n.rand_like(x)

def noise(x):
    return n.randn_like(x) * n.sin(x)
""",
}
# Each once as it is often written, and once with the op that is advised. What they share is held in both.
WRITTEN = {
    "gelu": ("gelu(h) @ w.T", "ours.gelu(h) @ w.T"),
    "rms_norm": ("rms_norm(h) @ w.T", "ours.rms_norm(h) @ w.T"),
    "silu": ("swish(h) @ w.T", "ours.silu(h) @ w.T"),
    "dropout": ("dropout(h, 0.5) @ w.T", "ours.dropout(h, 0.5, KEY) @ w.T"),
    "softmax": ("softmax(h) @ w.T", "ours.softmax(h) @ w.T"),
    "swiglu": ("(silu(h) * n.log(x)) @ w.T", "ours.swiglu(h, n.log(x)) @ w.T"),
    "linear_cross_entropy": ("cross_entropy(h @ w.T, labels)", "ours.linear_cross_entropy(h, w, labels)"),
    "flash_attention": (
        "softmax(h @ n.cos(x).T * 8**-0.5) @ n.exp(x)",
        "ours.flash_attention(h[None], n.cos(x)[None], n.exp(x)[None])",
    ),
    "attention": (
        "dropout(softmax(h @ n.cos(x).T * 8**-0.5), 0.5) @ n.sin(x + 1)",
        "ours.attention(h[None], n.cos(x)[None], n.sin(x + 1)[None], dropout=0.5, key=KEY)",
    ),
}

# Attention with masks of several makes, each with the op's argument.
KEEP = "(n.arange(64)[:, None] >= n.arange(64))"
MASKS = {
    "added, made in the forward": (
        f"softmax(h @ n.cos(x).T * 8**-0.5 + n.where({KEEP}, 0.0, -1e30)) @ n.exp(x)",
        "is_causal=True",
    ),
    "added, made of labels": (
        "softmax(h @ n.cos(x).T * 8**-0.5 + n.where(labels[:, None] == labels, 0.0, -1e30)) @ n.exp(x)",
        "mask=labels[:, None] == labels",
    ),
    "times weights, over their sum": (
        "(lambda p: (p / (p.sum(-1)[:, None] + 1e-13)) @ n.exp(x))"
        f"((lambda m: softmax(h @ n.cos(x).T * 8**-0.5 * m) * m)({KEEP} * 1.0))",
        "is_causal=True",
    ),
    "times weights, over their sum, at least tiny": (
        "(lambda p: (p / n.clip(p.sum(-1)[:, None], 1e-9)) @ n.exp(x))"
        f"((lambda m: softmax(h @ n.cos(x).T * 8**-0.5) * m)({KEEP} * 1.0))",
        "is_causal=True",
    ),
}
# A loss as language models have it. The rows that take part are a copy, which a picture of bytes counts.
LOSSES = {
    "shifted labels": (
        "cross_entropy((h @ w.T)[:-1], labels[1:])",
        "ours.linear_cross_entropy(h[:-1], w, labels[1:])",
    ),
    "shifted in a batch": (
        "cross_entropy((h.reshape(4, 16, 8) @ w.T)[:, :-1].reshape(-1, 40), labels[:60])",
        "ours.linear_cross_entropy(h.reshape(4, 16, 8)[:, :-1].reshape(-1, 8), w, labels[:60])",
    ),
    "shifted, of what is given": (
        "cross_entropy((x.reshape(4, 16, 8) @ w.T)[:, :-1].reshape(-1, 40), labels[:60])",
        "ours.linear_cross_entropy(x.reshape(4, 16, 8)[:, :-1].reshape(-1, 8), w, labels[:60])",
    ),
    "logits that are returned": (
        "(lambda z: (cross_entropy(z, labels), z))(h @ w.T)",
        "(lambda z: (ours.cross_entropy(z, labels), z))(h @ w.T)",
    ),
    "logits that are given": ("cross_entropy(z, labels)", "ours.cross_entropy(z, labels)"),
    "logits that are returned, of a shifted loss": (
        "(lambda z: (cross_entropy(z[:-1], labels[1:]), z))(h @ w.T)",
        "(lambda z: (ours.cross_entropy(z[:-1], labels[1:]), z))(h @ w.T)",
    ),
}

# Functions of one array, with the op for each. Some keep all that the op keeps and no more.
FUNCTIONS = {
    "gelu": ("gelu", "ours.gelu"),
    "rms_norm": ("rms_norm", "ours.rms_norm"),
    "layer_norm": ("layer_norm", "ours.layer_norm"),
    "silu": ("swish", "ours.silu"),
    "softmax": ("softmax", "ours.softmax"),
    "tanh": ("tanh", "ours.tanh"),
    "dropout": ("(lambda x: dropout(x, 0.5))", "(lambda x: ours.dropout(x, 0.5, KEY))"),
    "swiglu": ("(lambda x: silu(x) * n.cosh(x + 1))", "(lambda x: ours.swiglu(x, n.cosh(x + 1)))"),
    "linear_cross_entropy": (
        "(lambda x: cross_entropy(x @ w.T, labels[:len(x)]) + x)",
        "(lambda x: ours.linear_cross_entropy(x, w, labels[:len(x)]) + x)",
    ),
    "flash_attention": (
        "(lambda x: (softmax(x[None] @ n.cos(x)[None].mT * 8**-0.5) @ n.sin(x + 1)[None])[0])",
        "(lambda x: ours.flash_attention(x[None], n.cos(x)[None], n.sin(x + 1)[None])[0])",
    ),
}
USED = {
    "once": "f(h) @ w.T",
    "one after the other": "f(f(h)) @ w.T",
    "three, one after the other": "f(f(f(h))) @ w.T",
    "in layers": "f(n.sin(f(n.sin(f(h) @ w.T @ w)) @ w.T @ w)) @ w.T",
    "in a comprehension": "sum([f(n.sin(h * i)) for i in (1.0, 2.0, 3.0)]) @ w.T",
    "of the same array": "(f(h) + n.cos(f(h))) @ w.T",
    "of equal arrays": "(f(n.sin(h)) + n.cos(f(n.sin(h)))) @ w.T",
    "on two lines": "(f(n.sin(h)) +\n    n.sin(f(n.cos(h)))) @ w.T",
    "on two lines, one after the other": "f(\n    f(h)) @ w.T",
    "of two shapes": "(n.sin(f(h)) + f(n.sin(h[:32])).sum()) @ w.T",
    "of which one is a result": "(f(n.sin(h)), f(n.cos(h)) @ w.T)",
    "of arrays that are made in two ways": "f(f(f(w[labels]) + h) + h) @ w.T",
}
USED_IN = {
    "jax": {
        "in a loop": "jax.lax.scan(lambda h, _: (f(n.sin(h)), f(n.sin(h + 1))), h, length=3)",
        "compiled": "jax.jit(lambda h: f(f(h)))(h) @ w.T",
        "mapped": "jax.vmap(lambda h: f(f(h)))(n.stack([h, h + 1])) @ w.T",
        "with one in a checkpoint": "f(n.sin(h)) @ w.T + jax.checkpoint(lambda h: n.sin(f(n.cos(h))))(h) @ w.T",
    },
    "torch": {
        "with one in a checkpoint": "f(n.sin(h)) @ w.T"
        " + n.utils.checkpoint.checkpoint(lambda h: n.sin(f(n.cos(h))), h, use_reentrant=False) @ w.T",
    },
}

# What looks like one of them and is something else, for which the op would be wrong.
ELSE = {
    "softmax over queries": "softmax(h @ n.cos(x).T, -2) @ n.exp(x)",
    "attention with dropout": "dropout(softmax(h @ n.cos(x).T), 0.5) @ n.exp(x)",
    "attention with dropout of its scores": "softmax(dropout(h @ n.cos(x).T, 0.5)) @ n.exp(x)",
    "attention with dropout, and its weights": "(lambda p: (dropout(p, 0.5) @ n.exp(x), p))(softmax(h @ n.cos(x).T))",
    "attention with capped scores": "softmax(n.tanh(h @ n.cos(x).T)) @ n.exp(x)",
    "attention with weights off by one": "(lambda e: (e / (1 + e.sum(-1)[:, None])) @ n.exp(x))(n.exp(h @ n.cos(x).T))",
    "attention with a mask of its weights": "(softmax(h @ n.cos(x).T) * n.sin(h @ h.T)) @ n.exp(x)",
    "attention with a mask times its weights": f"(softmax(h @ n.cos(x).T) * ({KEEP} * 1.0)) @ n.exp(x)",
    "attention with a mask times its scores": f"softmax(h @ n.cos(x).T * ({KEEP} * 1.0)) @ n.exp(x)",
    "attention with two masks": f"(lambda p: (p / p.sum(-1)[:, None]) @ n.exp(x))"
    f"(softmax(h @ n.cos(x).T * ({KEEP} * 1.0)) * ((labels[:, None] == labels) * 1.0))",
    "attention with weights over twice their sum": f"(lambda p: (p / (p.sum(-1)[:, None] + 0.5)) @ n.exp(x))"
    f"(softmax(h @ n.cos(x).T) * ({KEEP} * 1.0))",
    "the difference of two attentions": "(softmax(h @ n.cos(x).T) - softmax(h @ n.sin(x).T)) @ n.exp(x)",
    "attention with a scale of each query": "softmax(h @ n.cos(x).T * n.exp(h[:, :1])) @ n.exp(x)",
    "attention, and its weights": "(lambda p: (p @ n.exp(x), p))(softmax(h @ n.cos(x).T))",
    "attention, and the entropy of its weights": "(lambda p: (p @ n.exp(x)).sum() - (p * n.log(p)).sum())"
    "(softmax(h @ n.cos(x).T))",
    "attention, and its log-sum-exp": "(lambda s: (softmax(s) @ n.exp(x), logsumexp(s)))(h @ n.cos(x).T)",
    "attention with a bias that is made": "softmax(h @ n.cos(x).T + n.sin(h[:, :1] * h[:, 0])) @ n.exp(x)",
    "a loss of two labels a row": "-pick(log_softmax(h @ w.T), n.stack([labels, labels], -1)).sum()",
    "a loss of one row": "-log_softmax(h @ w.T)[0, labels].sum()",
    "a loss of a number a class": "-pick(log_softmax(h @ w.T).T, labels[:40]).sum()",
    "a loss of capped logits": "-pick(log_softmax(n.tanh(h @ w.T)), labels).sum()",
    "a loss with label smoothing": "(lambda p: -pick(p, labels).sum() - p.mean())(log_softmax(h @ w.T))",
    "a loss with the square of the log-sum-exp": "(lambda z: (logsumexp(z) - pick(z, labels)[:, 0]"
    " + logsumexp(z) ** 2).sum())(h @ w.T)",
    "a loss and its logits": "(lambda z: (cross_entropy(z, labels), z))(h @ w.T)",
    "a gate by another gelu": "(gelu_tanh(h) * n.log(x)) @ w.T",
    "a gate that is read elsewhere": "(lambda y: (y * n.log(x)) @ w.T + y @ y.T @ h @ w.T)(silu(h))",
}
# What is called after one of them, and is not.
NAMED = [
    ("Softmax", "n.exp(n.sin(n.exp(x))) * n.tanh(x)"),
    ("softmax", "n.exp(x) / n.exp(x).sum()"),
    ("softmax", "(lambda e: e / e.sum(-1))(n.exp(EVEN[:8] * x[:8]))"),
    ("gelu", "0.5 * x * (1 + n.tanh(x))"),
    ("softmax", "n.exp(x) / (1 + n.exp(x).sum(-1)[:, None])"),
    ("gelu", "n.exp(x) * x / (1 + n.exp(-1.702 * x)) * n.sin(x)"),
    ("gelu", "x * (1 + n.tanh(x + x**3)) * n.roll(x, 1, 0)"),
    ("rms_norm", "n.tanh(x) * n.exp(n.sin(x))"),
    ("rms_norm", "rms_norm_0(x)"),
    ("Dropout", "n.where((n.sin(x) > 0.1), n.exp(x) * n.tanh(x), 0.0)"),
    ("dropout", "x + noise(x)"),
    ("dropout", "x * uniform(x)"),
    ("dropout", "x * n.exp((uniform(x) < 0.5) * 1.0)"),
    ("dropout", "(lambda m: x * m + n.cos(x) * (m - 1))((uniform(x) < 0.5) * 1.0)"),
    ("silu", "x / (1 + n.exp(-2 * x))"),
    ("swish", "sigmoid(2 * x) * x"),
    ("swish", "sigmoid(x) * n.sin(x)"),
    ("relu", "relu(x) ** 2"),
    ("ReLU", "relu(x) * x"),
    ("gelu", "0.5 * x * (1 + n.tanh(0.8 * (x + 0.044715 * x**3)))"),
    ("gelu", "0.5 * x * (1 + n.tanh(0.79788456 * (x + 0.0447 * x**3)))"),
    ("gelu", "x * sigmoid(1.702 * x)"),
    ("rms_norm", "x / (1e-3 + (x * x).mean(-1)[:, None] ** 0.5)"),
    ("rms_norm", "x / ((x * x).sum(-1)[:, None] + 1e-6) ** 0.5"),
    ("rms_norm", "(lambda y: y * (1e-6 + (y * y).mean(-1)) ** -0.5)(n.tanh(x[:8]))"),
    ("layer_norm", "(x - x.mean(-1)[:, None]) / ((x * x).mean(-1)[:, None] + 1e-6) ** 0.5"),
    ("sigmoid", "sigmoid(x) + x"),
    ("tanh", "x - n.tanh(x)"),
]

# Functions whose names say nothing or something else, as each framework has them: by hand, and with the op.
UNNAMED = {
    "jax": {
        "a norm in float32": (
            "lambda x, w: w * (lambda y: y * jax.lax.rsqrt(n.mean(y * y, -1, keepdims=True) + 1e-6))"
            "(x.astype('float32')).astype(x.dtype)",
            "lambda x, w: ours.rms_norm(x, w)",
        ),
        "a norm with another eps": (
            "lambda x, w: x / n.sqrt(n.square(x).mean(-1, keepdims=True) + 1e-5) * w",
            "lambda x, w: ours.rms_norm(x, w, eps=1e-5)",
        ),
        "a norm in a scope": (
            "jax.named_scope('layer_norm')(lambda x, w: x / n.sqrt((x**2).mean(-1)[:, None] + 1e-6) * w)",
            "lambda x, w: ours.rms_norm(x, w)",
        ),
        "a norm about the mean": (
            "lambda x, w: (x - x.mean(-1, keepdims=True)) / n.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + w",
            "lambda x, w: ours.layer_norm(x, w, w)",
        ),
        "gelu in a scope": (
            "jax.named_scope('ffn')(lambda x, w: jax.nn.gelu(x))",
            "lambda x, w: ours.gelu(x, approximate='tanh')",
        ),
        "the exact gelu": ("lambda x, w: jax.nn.gelu(x, approximate=False)", "lambda x, w: ours.gelu(x)"),
        "x times its sigmoid": ("lambda x, w: x / (1 + n.exp(-x))", "lambda x, w: ours.silu(x)"),
    },
    "torch": {
        "a norm in float32": (
            "lambda x, w: w * (lambda y: y * n.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6))(x.float()).to(x.dtype)",
            "lambda x, w: ours.rms_norm(x, w)",
        ),
        "a norm with another eps": (
            "lambda x, w: x / n.sqrt(n.square(x).mean(-1, keepdim=True) + 1e-5) * w",
            "lambda x, w: ours.rms_norm(x, w, eps=1e-5)",
        ),
        "PyTorch's own norm": ("lambda x, w: F.rms_norm(x, (8,), w, 1e-6)", "lambda x, w: ours.rms_norm(x, w)"),
        "a norm about the mean": (
            "lambda x, w: (x - x.mean(-1, keepdim=True)) / n.sqrt(x.var(-1, False, keepdim=True) + 1e-5) * w + w",
            "lambda x, w: ours.layer_norm(x, w, w)",
        ),
        "the exact gelu": ("lambda x, w: x * 0.5 * (1 + n.erf(x / 2**0.5))", "lambda x, w: ours.gelu(x)"),
        "x times its sigmoid": ("lambda x, w: x * n.sigmoid(x)", "lambda x, w: ours.silu(x)"),
    },
}


def module(framework: str, tmp_path: Path, expression: str) -> ModuleType:
    path = tmp_path / f"mine_{framework}.py"
    path.write_text(f"{SOURCE[framework]}\ndef fn(x, w, labels):\n    h = n.sin(x)\n    return {expression}\n")
    spec = spec_from_file_location("mine", path)
    found = module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def arguments(framework: str, dtype: str = "float32") -> list[Any]:
    adapter = frameworks.load(framework)
    x, w = (adapter.shaped(shape, dtype) for shape in ((64, 8), (40, 8)))
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


@pytest.mark.parametrize(
    ("framework", "used"), [(name, used) for name in frameworks.installed() for used in {**USED, **USED_IN[name]}]
)
@pytest.mark.parametrize("op", FUNCTIONS)
def test_what_is_used_again_frees_what_was_said(op: str, used: str, framework: str, tmp_path: Path) -> None:
    expression = {**USED, **USED_IN[framework]}[used]
    with frameworks.load(framework).abstractly():
        before, after = (
            audit(module(framework, tmp_path, re.sub(r"\bf\(", f"{f}(", expression)).fn, *arguments(framework))
            for f in FUNCTIONS[op]
        )
    ops = [advice for advice in before.advice if advice.op != "jax.checkpoint"]
    assert {advice.op for advice in ops} <= {op}
    said, freed = sum(advice.freed for advice in ops), before.new_bytes - after.new_bytes
    assert 0.8 * freed <= said <= max(freed, 0), "a loss keeps a few numbers a row that no advice counts"
    assert {advice.op for advice in after.advice} <= {"jax.checkpoint"}


@pytest.mark.skipif("torch" not in frameworks.installed(), reason="modules of PyTorch")
@pytest.mark.parametrize("name", ["gelu", "rms_norm"])
def test_a_module_that_runs_again_frees_what_was_said(name: str, tmp_path: Path) -> None:
    """One module runs twice, and another once, in a program that keeps each one's input as a part of a larger array."""
    import torch
    from torch import nn

    found = module("torch", tmp_path, "x")

    def model(fn: Callable[..., Any]) -> nn.Module:
        once, again = (type(name, (nn.Module,), {"forward": lambda _, x: fn(x)})() for _ in range(2))
        split = type("Split", (nn.Module,), {"forward": lambda _, x: x.chunk(2, -1)[1]})()
        return nn.Sequential(nn.Linear(8, 8), once, nn.Linear(8, 16), split, again, nn.Linear(8, 8), again)

    x = torch.zeros(64, 8, requires_grad=True)
    before, after = (audit(model(fn), x) for fn in (getattr(found, name), getattr(found.ours, name)))
    assert sum(advice.freed for advice in before.advice) == before.new_bytes - after.new_bytes > 0
    assert after.advice == []


@BOTH
@pytest.mark.parametrize("expression", ["f(g(h)) @ w.T", "(f(h) + g(n.sin(h))) @ w.T"])
def test_calls_that_differ_are_counted(expression: str, framework: str, tmp_path: Path) -> None:
    """Two functions of one name, of which the second needs an option of the op."""
    erf = {"jax": "jax.lax.erf", "torch": "n.erf"}[framework]
    written = (f"0.5 * x * (1 + {erf}(x * 2**-0.5))", "x * 0.5 * (n.tanh(0.79788456 * (x + 0.044715 * x**3)) + 1)")

    def kept(*bodies: str) -> Any:
        found = module(framework, tmp_path, expression)
        for name, body in zip("fg", bodies, strict=True):
            exec(f"def gelu(x):\n    return {body}\n{name} = gelu", vars(found))
        return audit(found.fn, *arguments(framework))

    before, after = kept(*written), kept("ours.gelu(x)", 'ours.gelu(x, approximate="tanh")')
    assert {(advice.op, advice.options) for advice in before.advice} == {("gelu", ""), ("gelu", 'approximate="tanh"')}
    freed = before.new_bytes - after.new_bytes
    assert 0.95 * freed <= sum(advice.freed for advice in before.advice) <= freed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("framework", "what"), [(name, w) for name in frameworks.installed() for w in UNNAMED[name]])
def test_what_code_computes_counts_and_no_name(what: str, framework: str, dtype: str, tmp_path: Path) -> None:
    """Two calls, of a function called `layer_norm` whatever it is, whose weights are a row of w."""
    by_hand, op = UNNAMED[framework][what]
    with frameworks.load(framework).abstractly():
        before, after = (
            audit(
                module(
                    framework, tmp_path, f"(lambda layer_norm: layer_norm(n.sin(layer_norm(h, w[0])), w[1]) @ w.T)({f})"
                ).fn,
                *arguments(framework, dtype),
            )
            for f in (by_hand, op)
        )
    (name,) = re.findall(r"ours\.(\w+)", op)
    assert {advice.op for advice in before.advice} == {name}
    options = re.findall(r", (\w+=[^,)]+)", op)
    assert all(option.replace("'", '"').partition("=")[0] in before.advice[0].options for option in options)
    said, freed = sum(advice.freed for advice in before.advice), before.new_bytes - after.new_bytes
    assert 0.95 * freed <= said <= freed
    assert after.advice == []


# A loop of JAX by its body, what is carried, what it goes over, and whether a checkpoint of the body pays.
LOOPS = {
    "of a matrix": ("lambda c, _: (c + n.tanh(n.sin(c @ w.T) @ w), None)", "h", "None", True),
    "with weights made before": ("lambda c, _: (c + n.tanh(n.sin(c @ m.T) @ m), None)", "h", "None", True),
    "with an array that nothing keeps": (
        "lambda c, _: (n.sin(n.sin(n.sin(c @ w.T)) @ w + h), None)",
        "x",
        "None",
        True,
    ),
    "over layers": ("lambda c, s: (c + n.tanh(n.sin(n.sin(c * s) @ w.T) @ w), None)", "h", "n.exp(w[:6])", True),
    "of two arrays": ("lambda c, _: ((n.sin(c[1] @ w.T) @ w, n.cos(c[0])), c[0].sum())", "(h, n.cos(h))", "None", True),
    "that sums": ("lambda c, s: (c + s, None)", "h[0]", "n.sin(w[:6])", False),
    "with a checkpoint": ("jax.checkpoint(lambda c, _: (c + n.sin(n.sin(c @ w.T)) @ w, None))", "h", "None", False),
    "of a nested loop": (
        "lambda c, _: (jax.lax.scan(lambda d, _: (d + n.sin(n.sin(d @ w.T)) @ w, None), c, None, 3)[0], None)",
        "h",
        "None",
        True,
    ),
}


@pytest.mark.needs("jax")
@pytest.mark.parametrize("what", LOOPS)
def test_a_checkpoint_of_a_loop_frees_what_was_said(what: str, tmp_path: Path) -> None:
    body, carry, over, pays = LOOPS[what]
    scan = f"(lambda m: jax.lax.scan({{}}, {carry}, {over}, length=6)[0])(n.sin(w))"
    before, after = (
        audit(module("jax", tmp_path, scan.format(b)).fn, *arguments("jax"), framework="jax")
        for b in (body, f"jax.checkpoint({body})")
    )
    found = [advice for advice in before.advice if advice.op == "jax.checkpoint"]
    assert len(found) == pays
    if pays:
        freed = before.new_bytes - after.new_bytes
        assert 0.95 * freed <= found[0].freed <= freed
    assert [advice for advice in after.advice if advice.op == "jax.checkpoint"] == []


@BOTH
@pytest.mark.parametrize("what", MASKS)
def test_attention_with_a_mask(what: str, framework: str, tmp_path: Path) -> None:
    by_hand, argument = MASKS[what]
    op = f"ours.flash_attention(h[None], n.cos(x)[None], n.exp(x)[None], {argument})"
    with frameworks.load(framework).abstractly():
        before, after = (
            audit(module(framework, tmp_path, e).fn, *arguments(framework), framework=framework) for e in (by_hand, op)
        )
    (advice,) = before.advice
    assert advice.op == "flash_attention"
    freed = before.new_bytes - after.new_bytes
    assert 0.5 * freed <= advice.freed <= freed, "a mask takes the place of a bias, and is smaller"


@BOTH
def test_a_product_with_one_is_no_part_of_a_norm(framework: str, tmp_path: Path) -> None:
    """Else the advice would count on that array too, which is there as long as the product is."""
    written = ("rms_norm(x * 1.0) @ w.T", "ours.rms_norm(x * 1.0) @ w.T")
    before, after = (audit(module(framework, tmp_path, e).fn, *arguments(framework)) for e in written)
    (advice,) = before.advice
    assert advice.freed == before.new_bytes - after.new_bytes


@BOTH
def test_a_number_has_no_axis(framework: str, tmp_path: Path) -> None:
    """PyTorch says of a number that becomes an array that this happens along axis 0, which rows do not have."""
    spread = {"jax": "h.sum()[None]", "torch": "h.sum().unsqueeze(0)"}[framework]
    found = module(framework, tmp_path, f"n.exp(h.reshape(-1) * {spread}).reshape(h.shape) @ w.T")
    assert audit(found.fn, *arguments(framework)).advice == []


@BOTH
def test_dropout_of_attention_weights_is_said(framework: str, tmp_path: Path) -> None:
    """Where its weights are read elsewhere, no attention is advised: the dropout alone is."""

    def said(expression: str) -> str:
        return str(audit(module(framework, tmp_path, expression).fn, *arguments(framework)))

    always = "which drops in evaluation too, keeps"
    attention = f"residuals_{framework}.attention(…, dropout=rate, key=key), {always}"
    alone = said(ELSE["attention with dropout, and its weights"])
    assert "dropout of weights, which flash_attention has not, at " in alone
    key = ", key" if framework == "jax" else ""
    assert f"residuals_{framework}.dropout(x, rate if training else 0.0{key}) keeps" in alone
    assert attention not in alone
    assert attention in said(ELSE["attention with dropout"])
    assert "flash_attention" not in said("dropout(h, 0.5) @ w.T")


@pytest.mark.needs("torch")
def test_an_op_of_the_framework_comes_first_if_it_keeps_as_little(tmp_path: Path) -> None:
    def said(by_hand: str) -> str:
        return str(audit(module("torch", tmp_path, by_hand).fn, *arguments("torch")))

    import torch

    once, ours = "F.scaled_dot_product_attention (no second derivative) or ", "residuals_torch.flash_attention keeps"
    for shape in ((1, 2, 64, 16), (2, 64, 16), (64, 16)):
        q = torch.ones(shape, requires_grad=True)
        op = (once if len(shape) == 4 else "") + ours  # in fewer dimensions PyTorch's keeps the weights
        assert f"; {op}" in str(audit(lambda q: torch.softmax(q @ q.mT, -1) @ q, q))
    options = '(…, approximate="tanh")'
    assert f"F.gelu{options} or residuals_torch.gelu{options} keeps" in said(WRITTEN["gelu"][0])
    assert "F.rms_norm" not in said(WRITTEN["rms_norm"][0]), "which keeps two arrays of the size of x"
    assert "F.linear_cross_entropy" not in said(WRITTEN["linear_cross_entropy"][0]), "which keeps the log-softmax"


@pytest.mark.needs("torch")
def test_what_a_norm_keeps_beside_its_result_is_not_that_result() -> None:
    """The framework's own op stands there already; its input, a norm's result, is kept for it alone."""
    from torch import nn, ones

    x = ones(2, 8, 4, 4, requires_grad=True)
    for before in (nn.GroupNorm(2, 8), nn.BatchNorm2d(8), nn.LayerNorm(4), nn.MaxPool2d(2)):
        for function in (nn.SiLU(), nn.GELU()):
            report = audit(nn.Sequential(before, function, nn.Conv2d(8, 8, 1)), x)
            assert report.advice == [], (before, function)


@BOTH
@pytest.mark.parametrize("what", LOSSES)
def test_a_loss_of_a_language_model(what: str, framework: str, tmp_path: Path) -> None:
    by_hand, op = LOSSES[what]
    x, w, labels = arguments(framework)
    adapter = frameworks.load(framework)
    z = adapter.shaped((64, 40), "float32")
    z = z.requires_grad_() if framework == "torch" else z
    with adapter.abstractly():
        before, after = (
            audit(
                lambda x, w, labels, z, e=e: written_with(framework, tmp_path, e).fn(x, w, labels, z), x, w, labels, z
            )
            for e in (by_hand, op)
        )
    (advice,) = before.advice
    assert f"ours.{advice.op}(" in op
    freed = before.new_bytes - after.new_bytes
    least = 0.5 if "shifted" in what else 0.8  # PyTorch need not copy a part of the rows
    assert least * freed <= advice.freed <= freed
    assert after.advice == []


def written_with(framework: str, tmp_path: Path, expression: str) -> ModuleType:
    """A module whose function is also given logits."""
    found = module(framework, tmp_path, "x")
    exec(f"def fn(x, w, labels, z):\n    h = n.sin(x)\n    return {expression}\n", vars(found))
    return found


@BOTH
def test_a_norm_with_one_more_than_its_weight(framework: str, tmp_path: Path) -> None:
    """It is advised only if the op can do that, and then with the option."""
    found = module(framework, tmp_path, "(h * ((h * h).mean(-1)[:, None] + 1e-6) ** -0.5 * (1 + w[0])) @ w.T")
    advice = audit(found.fn, *arguments(framework)).advice
    has_offset = "offset" in inspect.signature(frameworks.load(framework).public("rms_norm")).parameters
    assert {(one.op, one.options) for one in advice} == ({("rms_norm", "offset=1.0")} if has_offset else set())


@BOTH
def test_a_part_of_a_pattern_is_advised_where_it_stands_alone(framework: str, tmp_path: Path) -> None:
    """A softmax in an attention, and a larger one elsewhere by the same function."""
    expression = "{}(h) + n.cos({}(n.sin(x @ x.T)) @ h)"
    with frameworks.load(framework).abstractly():
        before, after = (
            audit(module(framework, tmp_path, expression.format(*fs)).fn, *arguments(framework))
            for fs in zip(FUNCTIONS["flash_attention"], FUNCTIONS["softmax"], strict=True)
        )
    assert {advice.op for advice in before.advice} == {"flash_attention", "softmax"}
    said, freed = sum(advice.freed for advice in before.advice), before.new_bytes - after.new_bytes
    assert 0.9 * freed <= said <= freed


@BOTH
def test_a_loss_in_two_precisions(framework: str, tmp_path: Path) -> None:
    """In JAX the sum of a softmax in bfloat16 is one in float32."""
    found = module(framework, tmp_path, "-pick(log_softmax(h @ w.T), labels).sum()")
    (advice,) = audit(found.fn, *arguments(framework, "bfloat16"), framework=framework).advice
    assert advice.op == "linear_cross_entropy"


@BOTH
def test_a_mask_is_freed_that_the_op_makes_by_itself(framework: str, tmp_path: Path) -> None:
    """A causal one, say, and not one that is made of something given."""

    def arrays(mask: str) -> int:
        found = module(framework, tmp_path, f"softmax(n.where({mask}, h @ n.cos(x).T, -1e9)) @ n.exp(x)")
        (advice,) = audit(found.fn, *arguments(framework), framework=framework).advice
        assert advice.op == "flash_attention"
        return advice.arrays

    assert arrays("n.arange(64)[:, None] >= n.arange(64)") == arrays("x[:, :1] > x[:, 0]") + 1


@pytest.mark.needs("jax")
def test_attention_of_grouped_heads() -> None:
    import jax
    import jax.numpy as jnp

    q, k = jnp.ones((64, 4, 8), "bfloat16"), jnp.ones((64, 2, 8), "bfloat16")
    (advice,) = audit(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True), q, k, k).advice
    assert (advice.op, advice.arrays) == ("flash_attention", 4)


@BOTH
@pytest.mark.parametrize("what", ELSE)
def test_nothing_is_advised_for_something_else(what: str, framework: str, tmp_path: Path) -> None:
    """A part of it may be one of ours: the softmax within, say. That is said, and is true."""
    report = audit(module(framework, tmp_path, ELSE[what]).fn, *arguments(framework), framework=framework)
    whole = {"flash_attention", "linear_cross_entropy", "swiglu", "geglu"}
    assert whole.isdisjoint(advice.op for advice in report.advice)


@BOTH
@pytest.mark.parametrize(("name", "expression"), NAMED)
def test_a_name_alone_is_no_reason(name: str, expression: str, framework: str, tmp_path: Path) -> None:
    found = module(framework, tmp_path, "named(h) @ w.T")
    exec(f"def {name}_1(x):\n    return {expression}\nnamed = {name}_1", vars(found))
    advised = {advice.op for advice in audit(found.fn, *arguments(framework), framework=framework).advice}
    assert advised <= {*re.findall(r"\b(tanh|sigmoid|relu)\(", expression)}, "what it calls may be one of them"


@BOTH
def test_advice_is_measured(framework: str, tmp_path: Path) -> None:
    """Scores where a log-sum-exp would do; a gelu that keeps each of its steps."""
    found = written(framework, tmp_path)
    q = array(framework, 64, 8)
    (advice, *_) = audit(found["attend"], q, q, q).advice
    assert advice.op == "flash_attention"
    assert advice.nbytes >= 64 * 64 * 4
    output = 0 if framework == "torch" else 64 * 8 * 4  # in PyTorch known as the function's own, which it keeps anyway
    assert advice.instead == output + 64 * 4, "the output and a number a row"
    (advice,) = audit(found["gate"], q).advice
    assert (advice.op, advice.instead) == ("gelu", 64 * 8 * 4)
    assert advice.arrays >= 3
    assert audit(frameworks.load(framework).public("gelu"), q).advice == []

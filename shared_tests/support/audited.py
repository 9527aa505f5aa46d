"""Functions to be audited, the same in both frameworks, as a file of somebody's own has them."""

from pathlib import Path
from typing import Any

from residuals_lab import frameworks
from residuals_lab.audit import Audit

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


def said(report: Audit) -> set[tuple[str, str]]:
    """What the report finds, for each array that it names; but for single inputs, which cost nothing."""
    return {(f.what, name) for f in report.findings for name in f.names if name != "x"}

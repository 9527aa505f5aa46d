"""From weights to a log-sum-exp: the bytes that attention holds for its backward, from 256 to 8,192 tokens.

`python docs/from_weights_to_logsumexp.py` traces the same attention written in several ways, in the frameworks that are
installed, and draws the figures `docs/figures/from-weights-to-logsumexp-light.svg` and `…-dark.svg`. Nothing is
computed at these lengths: JAX traces shapes, and PyTorch runs on fake tensors.
"""

import json
from contextlib import nullcontext
from math import inf
from pathlib import Path
from typing import NamedTuple

FIGURES = {
    look: Path(__file__).parent / "figures" / f"from-weights-to-logsumexp-{look}.svg" for look in ("light", "dark")
}

TOKENS = (256, 512, 1024, 2048, 4096, 8192)  # as many queries as keys
FEATURES = 64  # of one head, in float32


class Measured(NamedTuple):
    """Bytes of one way to write attention in one framework, a number for each of TOKENS, before any compilation."""

    saved: list[int]  # all arrays that the backward reads
    new: list[int]  # without q, k, v and the output, which are alive anyway


def merge(xp, one, other):
    """Attention to the keys of both, from the (out, logsumexp) of each; `xp` is jax.numpy or torch."""
    (out, logsumexp), (more, more_logsumexp) = one, other
    top = xp.maximum(logsumexp, more_logsumexp)
    is_none = top == -inf  # a row without a key in either, where −∞ less −∞ would be no number
    top = xp.where(is_none, 0.0, top)
    a, b = xp.exp(logsumexp - top), xp.exp(more_logsumexp - top)
    total = xp.where(is_none, 1.0, a + b)
    out = (a / total)[..., None] * out + (b / total)[..., None] * more
    return out, xp.where(is_none, -inf, top + xp.log(total))


def ways_in_jax():
    """Functions of q, k and v by name."""
    import jax

    from residuals_jax import attention, flash_attention
    from residuals_lab import frameworks

    policy = jax.checkpoint_policies.dots_saveable
    own = frameworks.load("jax").OWN["attention"][1]
    return {
        "plain autodiff": lambda q, k, v: jax.nn.softmax(q @ k.mT * FEATURES**-0.5) @ v,
        "attention": attention,
        "flash_attention": flash_attention,
        "framework's own": lambda q, k, v: own(q, k, v, is_causal=False, scale=None),
        "flash, dots_saveable": jax.checkpoint(flash_attention, policy=policy),
    }


def ways_in_torch():
    """Functions of q, k and v by name."""
    import torch

    from residuals_torch import attention, flash_attention

    return {
        "plain autodiff": lambda q, k, v: torch.softmax(q @ k.mT * FEATURES**-0.5, -1) @ v,
        "attention": attention,
        "flash_attention": flash_attention,
        "framework's own": torch.nn.functional.scaled_dot_product_attention,
    }


WAYS = {"jax": ways_in_jax, "torch": ways_in_torch}


def without_computing(framework):
    """A context for `trace`, and a maker of q, k and v that have no numbers in them."""
    if framework == "jax":
        import jax

        return nullcontext(), lambda shape: jax.ShapeDtypeStruct(shape, "float32")
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(), lambda shape: torch.empty(shape, requires_grad=True)


def trace(framework, fn, tokens):
    """The lab's trace of one forward and one backward, at one sequence of one head."""
    from residuals_lab import frameworks

    context, make = without_computing(framework)
    with context:
        arrays = [make((1, 1, tokens, FEATURES)) for _ in range(3)]
        return frameworks.load(framework).trace(fn, arrays, ["q", "k", "v"])


def measure(framework, fn):
    """The bytes that one way saves at each number of tokens."""
    traces = [trace(framework, fn, tokens) for tokens in TOKENS]
    return Measured([t.saved_bytes for t in traces], [t.new_bytes for t in traces])


def measure_all(framework):
    """All ways in one framework."""
    return {name: measure(framework, fn) for name, fn in WAYS[framework]().items()}


def size(nbytes):
    """Bytes for a table."""
    return f"{nbytes / 1024:.4g} KiB" if nbytes < 2**20 else f"{nbytes / 2**20:.4g} MiB"


def print_table(rows):
    """Print the saved bytes, a row for each way."""
    print(f"{'tokens':<21}" + "".join(f"{tokens:>11,}" for tokens in TOKENS))
    for name, m in rows.items():
        print(f"{name:<21}" + "".join(f"{size(n):>11}" for n in m.saved))


STYLES = {  # a line, or markers alone for what may lie on somebody else's line
    "plain autodiff": {"color": "#b9c3cc", "linewidth": 6},
    "attention": {"color": "#d1622b", "linewidth": 2},
    "flash_attention": {"color": "#3a8fae", "linewidth": 2},
    "framework's own": {"linewidth": 0, "marker": "o", "markersize": 9, "fillstyle": "none"},
    "flash, dots_saveable": {"color": "#3a8fae", "linewidth": 0, "marker": "D", "markersize": 6, "fillstyle": "none"},
}


def draw(measured, path, look):
    """The figure: a panel for each framework, bytes against tokens, both in powers of two.

    The file carries the numbers that it shows, as its description.
    """
    import matplotlib
    from matplotlib.figure import Figure

    from residuals_lab import frameworks
    from residuals_lab.lanes.figure import DARK, LIGHT

    theme = {"light": LIGHT, "dark": DARK}[look]
    with matplotlib.rc_context({**theme.settings, "svg.hashsalt": "from weights to a log-sum-exp", "font.size": 9.5}):
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        panels = figure.subplots(1, len(measured), sharey=True, squeeze=False)[0]
        for panel, (framework, rows) in zip(panels, measured.items(), strict=True):
            ends = {}  # which lines end at the same place: what is within 5 % cannot be told apart
            for name, m in rows.items():
                panel.plot(TOKENS, m.saved, label=name, clip_on=False, **{"color": theme.ink, **STYLES[name]})
                end = next((n for n in ends if abs(m.saved[-1] / n - 1) < 0.05), m.saved[-1])
                ends.setdefault(end, []).append(name)
            for end, names in ends.items():
                label = "\n".join([size(end), *names])
                side = "bottom" if end == max(ends) else "top"  # away from each other
                panel.annotate(label, (TOKENS[-1], end), xytext=(9, 0), textcoords="offset points", va=side)
            panel.set_title(frameworks.TITLES[framework], fontweight="bold", loc="left")
            panel.set_xscale("log", base=2)
            panel.set_yscale("log", base=2)
            panel.set_xticks(TOKENS, [f"{tokens:,}" for tokens in TOKENS])
            panel.set_yticks([2**n for n in range(18, 31, 2)], [size(2**n) for n in range(18, 31, 2)])
            panel.minorticks_off()
            panel.set_xlim(TOKENS[0] / 1.2, TOKENS[-1])
            panel.set_xlabel("tokens")
            panel.grid(linewidth=0.7)
            panel.set_axisbelow(True)
            panel.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("bytes saved for the backward,\none head of 64 features, float32")
        numbers = {name: {way: m._asdict() for way, m in rows.items()} for name, rows in measured.items()}
        figure.savefig(path, metadata={"Date": None, "Description": json.dumps(numbers)})


if __name__ == "__main__":
    from residuals_lab import frameworks

    measured = {name: measure_all(name) for name in frameworks.installed()}
    for name, rows in measured.items():
        print(frameworks.TITLES[name])
        print_table(rows)
    for look, path in FIGURES.items():
        draw(measured, path, look)

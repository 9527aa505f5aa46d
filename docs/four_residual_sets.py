"""Four residual sets, one gradient: y = Σ x·sin x and dx = g·(sin x + x·cos x), in JAX and in PyTorch.

`python docs/four_residual_sets.py` measures the sets in the frameworks that are installed and draws the figures
`docs/figures/four-residual-sets-light.svg` and `…-dark.svg`. What a backward keeps is one NamedTuple; `fwd` makes it
and `bwd` reads it. `np` stands for `jax.numpy` or `torch`, which have the same names for sin, cos and sum.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

FIGURES = {look: Path(__file__).parent / "figures" / f"four-residual-sets-{look}.svg" for look in ("light", "dark")}


class OnlyX(NamedTuple):
    """{x}: the least there is. The backward takes the sine again."""

    x: Any

    @classmethod
    def fwd(cls, np, x):
        return np.sum(x * np.sin(x)), cls(x)

    def bwd(self, np, g):
        return g * (np.sin(self.x) + self.x * np.cos(self.x))


class XSin(NamedTuple):
    """{x, sin x}: what the op `x_sin_x` of this project keeps."""

    x: Any
    sin_x: Any

    @classmethod
    def fwd(cls, np, x):
        sin_x = np.sin(x)
        return np.sum(x * sin_x), cls(x, sin_x)

    def bwd(self, np, g):
        return g * (self.sin_x + self.x * np.cos(self.x))


class XSinCos(NamedTuple):
    """{x, sin x, cos x}: the forward takes the cosine too. The backward only multiplies and adds."""

    x: Any
    sin_x: Any
    cos_x: Any

    @classmethod
    def fwd(cls, np, x):
        sin_x, cos_x = np.sin(x), np.cos(x)
        return np.sum(x * sin_x), cls(x, sin_x, cos_x)

    def bwd(self, np, g):
        return g * (self.sin_x + self.x * self.cos_x)


class Slope(NamedTuple):
    """{sin x + x·cos x}: the gradient itself, up to g. One array, and x is not kept at all."""

    slope: Any

    @classmethod
    def fwd(cls, np, x):
        sin_x = np.sin(x)
        return np.sum(x * sin_x), cls(sin_x + x * np.cos(x))

    def bwd(self, np, g):
        return g * self.slope


SETS = {"x": OnlyX, "x, sin x": XSin, "x, sin x, cos x": XSinCos, "sin x + x·cos x": Slope}


def in_jax(kept):
    """Σ x·sin x as a `jax.custom_vjp` that keeps this set."""
    import jax
    import jax.numpy as jnp

    @jax.custom_vjp
    def f(x):
        return kept.fwd(jnp, x)[0]

    f.defvjp(lambda x: kept.fwd(jnp, x), lambda residuals, g: (residuals.bwd(jnp, g),))
    return f


def in_torch(kept):
    """Σ x·sin x as a `torch.autograd.Function` that keeps this set; what is computed leaves as an output."""
    import torch

    class F(torch.autograd.Function):
        @staticmethod
        def forward(x):
            y, residuals = kept.fwd(torch, x)
            return y, *(r for r in residuals if r is not x)

        @staticmethod
        def setup_context(ctx, inputs, output):
            computed = output[1:]
            ctx.save_for_backward(*(inputs if "x" in kept._fields else ()), *computed)
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx, g, *through_residuals):
            if any(r is not None for r in through_residuals):
                raise NotImplementedError("the experiment is about one backward; residuals_torch.x_sin_x has both")
            return kept(*ctx.saved_tensors).bwd(torch, g)

    return lambda x: F.apply(x)[0]


IN = {"jax": in_jax, "torch": in_torch}


class Measured(NamedTuple):
    """One forward and one backward; bytes are for each float32 element of x."""

    saved: int  # bytes between forward and backward
    new: int  # of these, bytes of arrays that nothing else keeps alive: here all but x
    trigonometry: int  # sines and cosines in the backward
    arithmetic: int  # products and sums in the backward
    repeats: str  # the costly operations of the forward that the backward repeats


def measure(framework, fn):
    """The bytes and operations of one forward and one backward of `fn`, before any compilation."""
    import numpy

    from residuals_lab import frameworks

    adapter = frameworks.load(framework)
    n = 1000
    trace = adapter.trace(fn, [adapter.array(numpy.linspace(0, 1, n), "float32")], ["x"])
    backward = [step.cost for step in trace.steps if step.phase == "backward"]
    return Measured(
        saved=trace.saved_bytes // n,
        new=sum(r.storage_bytes for r in trace.residuals if r.kind != "input") // n,
        trigonometry=backward.count("transcendental"),
        arithmetic=backward.count("elementwise"),
        repeats=", ".join(trace.repeats()) or "-",
    )


def measure_all(framework):
    """The four sets in one framework."""
    return {name: measure(framework, IN[framework](kept)) for name, kept in SETS.items()}


def print_table(rows):
    """Print a table of measurements, a row for each name."""
    print(f"{'kept':<17}{'saved':>6}{'new':>5}{'trigonometry':>14}{'arithmetic':>12}  repeats")
    for name, m in rows.items():
        print(f"{name:<17}{m.saved:>6}{m.new:>5}{m.trigonometry:>14}{m.arithmetic:>12}  {m.repeats}")


def draw(measured, path, look):
    """The figure: bytes saved, x, which is alive anyway, below new arrays, and the trigonometry of the backward above.

    One picture for all frameworks, which measure the same. The file carries their numbers, as its description.
    """
    import matplotlib
    from matplotlib.figure import Figure

    from residuals_lab.lanes.figure import DARK, LIGHT

    rows, *others = measured.values()
    if any(other != rows for other in others):
        raise ValueError(f"the frameworks differ, and one picture cannot show it: {measured}")
    alive = [m.saved - m.new for m in rows.values()]
    new = [m.new for m in rows.values()]
    theme = {"light": LIGHT, "dark": DARK}[look]
    with matplotlib.rc_context({**theme.settings, "svg.hashsalt": "four residual sets", "font.size": 10}):
        figure = Figure(figsize=(7, 3.4), layout="constrained")
        axes = figure.subplots()
        names = [f"{{{name}}}" for name in rows]
        axes.bar(names, alive, 0.6, color="#b8c4d0", label="x, alive anyway")
        axes.bar(names, new, 0.6, bottom=alive, color="#d1622b", label="new memory")
        for i, m in enumerate(rows.values()):
            axes.annotate(f"backward:\n{m.trigonometry} sin/cos", (i, m.saved + 0.3), ha="center", va="bottom")
        axes.set_ylabel("bytes saved per element")
        axes.set_yticks([0, 4, 8, 12])
        axes.set_ylim(0, 16.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="upper left", frameon=False)
        numbers = {name: {kept: m._asdict() for kept, m in rows.items()} for name, rows in measured.items()}
        figure.savefig(path, metadata={"Date": None, "Description": json.dumps(numbers, ensure_ascii=False)})


if __name__ == "__main__":
    from residuals_lab import frameworks

    measured = {name: measure_all(name) for name in frameworks.installed()}
    for name, rows in measured.items():
        print(frameworks.TITLES[name])
        print_table(rows)
    for look, path in FIGURES.items():
        draw(measured, path, look)

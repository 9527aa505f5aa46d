"""What to save: the bytes that each way of saving holds alone, and those that it adds to a chain of layers.

`python docs/what_to_save.py` measures seven ops of this project in the frameworks that are installed and draws the
figures `docs/figures/what-to-save-light.svg` and `…-dark.svg`. An op is measured twice: with its rule, and as plain
autodiff of the same maths.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

FIGURES = {look: Path(__file__).parent / "figures" / f"what-to-save-{look}.svg" for look in ("light", "dark")}

# The ladder: what each op saves for its backward.
KEEPS = {
    "silu": "the input",
    "layer_norm": "input + 2 a row",
    "sigmoid": "the output",
    "relu": "the output",
    "relu_bits": "a bit",
    "dropout": "a bit",
    "dropout_remat": "the key",
}

ROWS = COLUMNS = 256
X_BYTES = 4 * ROWS * COLUMNS  # float32; weight, bias and one number a row are 1 KiB each
ARGUMENTS = {  # of these an op takes what it has
    "x": np.random.default_rng(0).standard_normal((ROWS, COLUMNS)),
    "weight": np.ones(COLUMNS),
    "bias": np.zeros(COLUMNS),
    "key": np.array([0, 42], np.uint32),
}


class Measured(NamedTuple):
    """Bytes of one op in one framework, before any compilation; `plain` is autodiff without the op's rule."""

    saved: int  # alone: all arrays that the backward reads
    added: int  # in linear → op → linear: the arrays that are there because of the op
    plain_saved: int
    plain_added: int
    repeats: str  # the costly operations that the backward repeats


def added_bytes(adapter, call, fn, arrays):
    """The bytes that `fn` adds to linear → fn → linear.

    That is all residuals but inputs and parameters, which somebody else keeps, and but the output of `fn`, which the
    second linear saves in any case. The ops here have an output of x's size.
    """
    x, *others = arrays
    before, after = (adapter.array(np.eye(COLUMNS), "float32") for _ in range(2))

    def chain(x, before, after, *others):
        return fn(x @ before, *others) @ after

    inputs = [x, before, after, *others, *call.constants_in(adapter)]
    residuals = adapter.trace(chain, inputs, [str(i) for i in range(len(inputs))]).residuals
    computed = {r.storage: r.storage_bytes for r in residuals if r.kind not in {"input", "parameter"}}
    return sum(computed.values()) - X_BYTES


def measure(framework, name):
    """The bytes that one op saves alone, and adds to a chain."""
    from residuals_lab import frameworks
    from residuals_lab.ops import BY_NAME
    from residuals_lab.ops.call import Call

    adapter = frameworks.load(framework)
    call = Call.of(BY_NAME[name], ARGUMENTS)
    arrays = [adapter.array(a, "float32") for a in call.arrays.values()]
    ours, plain = call.ours(adapter), call.plain(adapter)
    trace = call.trace(adapter, ours, arrays)
    return Measured(
        saved=trace.saved_bytes,
        added=added_bytes(adapter, call, ours, arrays),
        plain_saved=call.trace(adapter, plain, arrays).saved_bytes,
        plain_added=added_bytes(adapter, call, plain, arrays),
        repeats=", ".join(trace.repeats()) or "-",
    )


def measure_all(framework):
    """The ladder in one framework."""
    return {name: measure(framework, name) for name in KEEPS}


def kib(nbytes):
    """Bytes for a table."""
    return "0" if nbytes == 0 else f"{nbytes} B" if nbytes < 1024 else f"{nbytes / 1024:.4g} KiB"


def print_table(rows):
    """Print a table of measurements, a row for each op."""
    print(f"{'':<31}{'this rule':^30}{'plain autodiff':^20}".rstrip())
    print(f"{'op':<15}{'keeps':<16}{'saved':>9}{'added':>9}  {'repeats':<10}{'saved':>10}{'added':>9}")
    for name, m in rows.items():
        print(
            f"{name:<15}{KEEPS[name]:<16}{kib(m.saved):>9}{kib(m.added):>9}  {m.repeats:<10}"
            f"{kib(m.plain_saved):>10}{kib(m.plain_added):>9}"
        )


def units(nbytes):
    """Bytes as a multiple of x, for a label."""
    return f"{nbytes} B" if 0 < nbytes < 1024 else f"{nbytes / X_BYTES:.2f}".rstrip("0").rstrip(".")


def draw(measured, path, look):
    """The figure: a panel for each framework, and for each op a bar for its rule and one for plain autodiff.

    The length of a bar is the bytes saved alone; its dark part is those added in a chain. The file carries the numbers
    that it shows, as its description.
    """
    import matplotlib
    from matplotlib.figure import Figure

    from residuals_lab import frameworks
    from residuals_lab.lanes.figure import DARK, LIGHT

    sides = (  # whose bar it is, where it is, and the colours of what is added and of what is free in a chain
        ("this rule", "", -0.2, "#d1622b", "#f2cdb8"),
        ("plain autodiff", "plain_", 0.2, "#5f7285", "#cfd7de"),
    )
    theme = {"light": LIGHT, "dark": DARK}[look]
    with matplotlib.rc_context({**theme.settings, "svg.hashsalt": "what to save", "font.size": 9.5}):
        figure = Figure(figsize=(9, 5.6), layout="constrained")
        panels = figure.subplots(1, len(measured), sharey=True, squeeze=False)[0]
        for panel, (framework, rows) in zip(panels, measured.items(), strict=True):
            for whose, prefix, shift, dark, light in sides:
                saved = [getattr(m, f"{prefix}saved") for m in rows.values()]
                added = [getattr(m, f"{prefix}added") for m in rows.values()]
                places = [i + shift for i in range(len(rows))]
                free = [s - a for s, a in zip(saved, added, strict=True)]
                in_x = [[n / X_BYTES for n in bytes_] for bytes_ in (added, free, saved)]
                panel.barh(places, in_x[0], 0.36, color=dark, label=f"{whose}: added in a chain")
                panel.barh(places, in_x[1], 0.36, left=in_x[0], color=light, label=f"{whose}: free in a chain")
                for place, end, s, a in zip(places, in_x[2], saved, added, strict=True):
                    panel.text(end + 0.06, place, f"{units(s)}  →  {units(a)}", va="center", color=theme.ink)
            panel.set_title(frameworks.TITLES[framework], fontweight="bold", loc="left")
            panel.set_yticks(range(len(rows)), [f"{name}\n{KEEPS[name]}" for name in rows])
            panel.set_xticks(range(4))
            panel.set_xlim(0, 4.1)
            panel.set_xlabel("saved alone  →  added in linear → op → linear,\nin units of the input x")
            panel.tick_params(axis="y", length=0)
            panel.spines[["top", "right"]].set_visible(False)
        panels[0].invert_yaxis()
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
        numbers = {name: {op: m._asdict() for op, m in rows.items()} for name, rows in measured.items()}
        figure.savefig(path, metadata={"Date": None, "Description": json.dumps(numbers)})


if __name__ == "__main__":
    from residuals_lab import frameworks

    measured = {name: measure_all(name) for name in frameworks.installed()}
    for name, rows in measured.items():
        print(frameworks.TITLES[name])
        print_table(rows)
    for look, path in FIGURES.items():
        draw(measured, path, look)

"""What is worth knowing about a GPU, in ten minutes, in one file: `python gpu.py` needs neither nox nor a network.

It takes the frameworks that this Python has, times the ops, runs the quick shared tests on the GPU, and writes
`gpu.md`: the machine, the versions, what was printed, and what there was no time for. What is worth most comes first.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent
OPS = ["gelu", "swiglu", "softmax", "rms_norm", "layer_norm", "flash_attention", "cross_entropy"]
OPS += ["linear_cross_entropy", "dropout", "attention"]
VERSIONS = """
import importlib.metadata as m
here = m.packages_distributions()
print(", ".join(f"{name} {m.version(name)}" for name in ("torch", "jax", "numpy", "pytest") if name in here))
try:
    import torch
    print(torch.cuda.get_device_name() if torch.cuda.is_available() else "PyTorch finds no GPU")
except ImportError:
    pass
try:
    import jax
    print(jax.devices())
except ImportError:
    pass
"""


class Step(NamedTuple):
    """A command, and the most minutes that it may take."""

    name: str
    minutes: float
    command: list[str]


def steps(device: str, size: int) -> Iterator[Step]:
    """What to run, in this order."""
    yield Step("versions", 0.5, ["-c", VERSIONS])
    bench = ["-m", "residuals_lab", "bench", *OPS, "--device", device, "--size", str(size)]
    yield Step("bench, PyTorch, compiled", 2.5, [*bench, "--framework", "torch", "--compiled", "--minutes", "2"])
    yield Step("bench, JAX", 1.5, [*bench, "--framework", "jax", "--minutes", "1"])
    tests = ["-m", "pytest", "-q", "--quick", "--device", device, "--maxfail", "30", "-p", "no:cacheprovider"]
    for framework in ("torch", "jax"):
        folders = [f"shared_tests/{folder}" for folder in ("ops", framework)]
        yield Step(f"quick tests, {framework}", 2, [*tests, *folders, "-k", f"{framework}:{device}"])
    yield Step(
        "bench, PyTorch, eager, bfloat16", 1.5, [*bench, "--framework", "torch", "--dtype", "bf16", "--minutes", "1"]
    )
    yield Step("bench, JAX, bfloat16", 1.5, [*bench, "--framework", "jax", "--dtype", "bf16", "--minutes", "1"])


def run(step: Step, seconds: float) -> tuple[str, str]:
    """How the step ended, and the last of what it printed."""
    folders = [str(ROOT / "packages" / name / "src") for name in ("numpy", "jax", "torch", "lab")]
    settings = {"PYTHONPATH": os.pathsep.join(folders), "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "NO_COLOR": "1"}
    begun = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, *step.command], cwd=ROOT, env={**os.environ, **settings}, timeout=seconds,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        ended, printed = f"exit code {done.returncode}", done.stdout
    except subprocess.TimeoutExpired as problem:
        out = problem.stdout or b""
        ended, printed = "stopped: no time left", out if isinstance(out, str) else out.decode(errors="replace")
    return f"{ended}, {time.monotonic() - begun:.0f} s", "\n".join(printed.splitlines()[-80:])


def main() -> None:
    """Run the steps while there is time, and write the file after each of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--minutes", type=float, default=10, help="in all (default: 10)")
    parser.add_argument("--size", type=int, default=2**24, help="elements of an op's first array")
    parser.add_argument("--out", type=Path, default=Path("gpu.md"))
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    today = datetime.datetime.now(datetime.UTC).date()
    page = [f"# {today}: {platform.platform()}, Python {platform.python_version()}, device {given.device}\n"]
    for step in steps(given.device, given.size):
        left = end - time.monotonic()
        print(step.name, flush=True)
        ended, printed = run(step, min(left, 60 * step.minutes)) if left > 5 else ("not run: no time left", "")
        page.append(f"## {step.name}\n\n{ended}\n\n```text\n{printed}\n```\n")
        given.out.write_text("\n".join(page), encoding="utf-8")
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()

"""The adapters: the only place where a framework is imported, and each imports its own.

An adapter is a module that has the names of `protocol.Framework`. All that the lab does with a framework goes through
its adapter.
"""

import importlib.util

from residuals_lab.errors import MissingFramework, UsageError
from residuals_lab.frameworks.protocol import Framework as Framework

NAMES = ("jax", "torch")
TITLES = {"numpy": "NumPy", "jax": "JAX", "torch": "PyTorch"}
INSTALL = {
    "jax": "pip install ./packages/jax",
    "torch": "pip install -c constraints.txt ./packages/torch",
}
NONE_INSTALLED = f"no framework is installed; run: {' or: '.join(INSTALL.values())}"


def is_installed(name: str) -> bool:
    """Whether a framework and its ops package can be imported, without importing them.

    A folder named `jax` on the path looks like an empty namespace package, so only a spec with a file counts.
    """

    def found(module: str) -> bool:
        spec = importlib.util.find_spec(module)
        return spec is not None and spec.origin is not None

    return found(name) and found(f"residuals_{name}")


def installed() -> tuple[str, ...]:
    return tuple(name for name in NAMES if is_installed(name))


def require(name: str) -> None:
    """MissingFramework if a framework is not installed."""
    if name not in NAMES:
        raise UsageError(f"framework: expected one of {', '.join(NAMES)}, got {name!r}")
    if not is_installed(name):
        raise MissingFramework(f"{TITLES[name]} or residuals_{name} is not installed; run: {INSTALL[name]}")


def load(name: str) -> Framework:
    """The adapter of a framework; MissingFramework if it is not installed."""
    require(name)
    if name == "jax":
        from residuals_lab.frameworks import jax

        return jax
    from residuals_lab.frameworks import torch

    return torch

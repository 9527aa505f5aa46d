"""Right functions, and the one question about them: does the check leave them alone?"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

# Read when JAX starts: eight devices to shard over, and programs that run once are compiled in a hurry.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"

from residuals_lab import frameworks
from residuals_lab.check import check

DTYPES, SEEDS = ("float32", "float64"), (0, 1, 2)
ALL = pytest.mark.parametrize(("dtype", "seed"), [(dtype, seed) for dtype in DTYPES for seed in SEEDS])


class Right(NamedTuple):
    """A function without a fault, and the shapes of its arguments."""

    fn: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    more: dict[str, Any]  # options of the check


def right(fn: Callable[..., Any], *shapes: tuple[int, ...], **more: Any) -> Right:
    """One argument of shape (4, 6) unless shapes are given."""
    return Right(fn, shapes or ((4, 6),), more)


def array(framework: str, a: np.ndarray, dtype: str) -> Any:
    """A differentiated array of a framework; JAX has to be in 64 bits already."""
    if np.iscomplexobj(a):
        adapter = frameworks.load(framework)
        made = adapter.constant(a.astype("complex64" if dtype == "float32" else "complex128"))
        return made.requires_grad_() if framework == "torch" else made
    return frameworks.load(framework).array(a, dtype)


def passes(framework: str, case: Right, dtype: str, seed: int) -> None:
    """Assert that the check finds nothing, with all of its rules but those that take a compiler."""
    rng = np.random.default_rng(seed)
    with frameworks.load(framework).precision("float64"):
        args = [array(framework, rng.standard_normal(shape), dtype) for shape in case.shapes]
        found = check(case.fn, *args, framework=framework, seed=seed, quick=True, **case.more)
    assert found.passed, str(found)

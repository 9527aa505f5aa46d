"""The ops that draw, keys for them, and what chance allows."""

import numpy as np

from residuals_lab.ops import OPS

DROPOUTS = [op.name for op in OPS if "rate" in op.static]
KEYS = np.random.default_rng(5).integers(2**32, size=(8, 2), dtype=np.uint32)
SIGMAS = 5  # one of three million right results is further away; the keys never change, so neither does the outcome


def assert_share(found: np.ndarray, p: float) -> None:
    """The share of True is `p`, as far as chance allows."""
    assert abs(found.mean() - p) <= SIGMAS * np.sqrt(p * (1 - p) / found.size)

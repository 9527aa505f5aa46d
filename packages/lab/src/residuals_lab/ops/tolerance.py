"""How wrong a result may be. No tolerance was chosen to pass: each follows from the dtype or from plain autodiff."""

import numpy as np

ULP = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
FLOAT64_LIMIT = 1e-9
FLOAT32_ROUNDINGS = 8


def error(found: np.ndarray, truth: np.ndarray) -> float:
    """The largest difference, relative to the largest entry of the truth, or absolute where the truth is zero.

    Infinite if shapes, NaNs or infinities differ. Complex numbers are compared as their real and imaginary parts.
    """
    if np.iscomplexobj(found) or np.iscomplexobj(truth):
        found, truth = np.stack([np.real(found), np.imag(found)]), np.stack([np.real(truth), np.imag(truth)])
    found, truth = np.asarray(found, np.float64), np.asarray(truth, np.float64)
    finite = np.isfinite(truth)
    if found.shape != truth.shape or not np.array_equal(found[~finite], truth[~finite], equal_nan=True):
        return float("inf")
    found, truth = found[finite], truth[finite]
    if not np.isfinite(found).all():
        return float("inf")
    difference = np.abs(found - truth).max(initial=0.0)
    scale = np.abs(truth).max(initial=0.0)
    return float(difference / scale if scale else difference)


def rounding(dtype: str) -> float:
    """The largest error allowed to a result computed in float32 or wider and rounded once, however exact autodiff is.

    It is 1e-9 in float64, a few ulps in float32, and one ulp below.
    """
    return {"float64": FLOAT64_LIMIT, "float32": FLOAT32_ROUNDINGS * ULP["float32"]}.get(dtype, ULP[dtype])


def limit(dtype: str, plain_error: float) -> float:
    """The largest error allowed: 1e-9 in float64; else twice plain autodiff's in the same dtype, and its rounding.

    Another formula for the same gradient rounds elsewhere: in float32 that is a few ulps where autodiff may have none.
    """
    return FLOAT64_LIMIT if dtype == "float64" else 2 * plain_error + rounding(dtype)

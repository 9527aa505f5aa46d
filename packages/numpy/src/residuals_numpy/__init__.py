"""The analytic truth, in float64: one module an op, each with `forward`, `vjp`, `residuals` and `samples`."""

from residuals_numpy.ops import geglu, group_norm, layer_norm, rms_norm, scaled, softmax, swiglu, x_sin_x

__version__ = "0.1.0"
__all__ = ["geglu", "group_norm", "layer_norm", "rms_norm", "scaled", "softmax", "swiglu", "x_sin_x"]

"""The analytic truth, in float64: one module an op, each with `forward`, `vjp`, `residuals` and `samples`."""

from residuals_numpy.ops import gelu, relu, relu_bits, rms_norm, scaled, sigmoid, silu, tanh, x_sin_x

__version__ = "0.1.0"
__all__ = ["gelu", "relu", "relu_bits", "rms_norm", "scaled", "sigmoid", "silu", "tanh", "x_sin_x"]

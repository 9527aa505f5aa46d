"""The analytic truth, in float64: one module an op, each with `forward`, `vjp`, `residuals` and `samples`."""

from residuals_numpy.ops import (
    batch_norm,
    dropout,
    dropout_remat,
    geglu,
    gelu,
    group_norm,
    layer_norm,
    relu,
    relu_bits,
    rms_norm,
    scaled,
    sigmoid,
    silu,
    softmax,
    swiglu,
    tanh,
    x_sin_x,
)

__version__ = "0.1.0"
__all__ = [
    "batch_norm",
    "dropout",
    "dropout_remat",
    "geglu",
    "gelu",
    "group_norm",
    "layer_norm",
    "relu",
    "relu_bits",
    "rms_norm",
    "scaled",
    "sigmoid",
    "silu",
    "softmax",
    "swiglu",
    "tanh",
    "x_sin_x",
]

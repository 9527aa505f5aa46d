"""Ops as `jax.custom_vjp` that save exactly the residuals they name: functions here, their parts in `ops`."""

from residuals_jax.ops.attention import attention
from residuals_jax.ops.batch_norm import batch_norm
from residuals_jax.ops.cross_entropy import cross_entropy
from residuals_jax.ops.dropout import dropout
from residuals_jax.ops.dropout_remat import dropout_remat
from residuals_jax.ops.flash_attention import flash_attention
from residuals_jax.ops.geglu import geglu
from residuals_jax.ops.gelu import gelu
from residuals_jax.ops.group_norm import group_norm
from residuals_jax.ops.layer_norm import layer_norm
from residuals_jax.ops.linear_cross_entropy import linear_cross_entropy
from residuals_jax.ops.qk_norm_attention import qk_norm_attention
from residuals_jax.ops.relu import relu
from residuals_jax.ops.relu_bits import relu_bits
from residuals_jax.ops.rms_norm import rms_norm
from residuals_jax.ops.scaled import scaled
from residuals_jax.ops.sigmoid import sigmoid
from residuals_jax.ops.silu import silu
from residuals_jax.ops.softmax import softmax
from residuals_jax.ops.swiglu import swiglu
from residuals_jax.ops.tanh import tanh
from residuals_jax.ops.x_sin_x import custom_vjp_with_extra_residual, f_with_sin, x_sin_x

__version__ = "0.1.0"
__all__ = [
    "attention",
    "batch_norm",
    "cross_entropy",
    "custom_vjp_with_extra_residual",
    "dropout",
    "dropout_remat",
    "f_with_sin",
    "flash_attention",
    "geglu",
    "gelu",
    "group_norm",
    "layer_norm",
    "linear_cross_entropy",
    "qk_norm_attention",
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

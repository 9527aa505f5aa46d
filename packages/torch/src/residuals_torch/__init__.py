"""Ops as `torch.autograd.Function` that save exactly the residuals they name: functions here, their parts in `ops`."""

from residuals_torch.fusing import fuse, unfuse
from residuals_torch.ops.attention import attention
from residuals_torch.ops.batch_norm import batch_norm
from residuals_torch.ops.cross_entropy import cross_entropy
from residuals_torch.ops.dropout import dropout
from residuals_torch.ops.dropout_remat import dropout_remat
from residuals_torch.ops.flash_attention import flash_attention
from residuals_torch.ops.geglu import geglu
from residuals_torch.ops.gelu import gelu
from residuals_torch.ops.group_norm import group_norm
from residuals_torch.ops.layer_norm import layer_norm
from residuals_torch.ops.linear_cross_entropy import linear_cross_entropy
from residuals_torch.ops.qk_norm_attention import qk_norm_attention
from residuals_torch.ops.relu import relu
from residuals_torch.ops.relu_bits import relu_bits
from residuals_torch.ops.rms_norm import rms_norm
from residuals_torch.ops.scaled import scaled
from residuals_torch.ops.sigmoid import sigmoid
from residuals_torch.ops.silu import silu
from residuals_torch.ops.softmax import softmax
from residuals_torch.ops.swiglu import swiglu
from residuals_torch.ops.tanh import tanh
from residuals_torch.ops.x_sin_x import custom_vjp_with_extra_residual, f_with_sin, x_sin_x

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
    "fuse",
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
    "unfuse",
    "x_sin_x",
]

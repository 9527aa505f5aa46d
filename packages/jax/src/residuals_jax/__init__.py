"""Ops as `jax.custom_vjp` that save exactly the residuals they name: functions here, their parts in `ops`."""

from residuals_jax.ops.dropout import dropout
from residuals_jax.ops.dropout_remat import dropout_remat
from residuals_jax.ops.rms_norm import rms_norm
from residuals_jax.ops.scaled import scaled
from residuals_jax.ops.x_sin_x import custom_vjp_with_extra_residual, f_with_sin, x_sin_x

__version__ = "0.1.0"
__all__ = ["custom_vjp_with_extra_residual", "dropout", "dropout_remat", "f_with_sin", "rms_norm", "scaled", "x_sin_x"]

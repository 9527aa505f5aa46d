"""See, choose and prove what a backward pass keeps, in JAX and in PyTorch. The command is `residuals`."""

__version__ = "0.1.0"

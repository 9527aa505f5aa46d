"""One module an op, at the same path in the NumPy, JAX and PyTorch packages."""

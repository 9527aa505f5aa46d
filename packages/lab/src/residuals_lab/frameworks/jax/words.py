"""JAX's names for operations, and those operations that a trace does not record as such."""

from typing import Any

import jax.numpy as jnp

# JAX's name for an operation → the traces' name, where they differ.
OPS = {
    "broadcast_in_dim": "broadcast",
    "conv_general_dilated": "conv",
    "convert_element_type": "convert",
    "dot_general": "matmul",
    "empty2": "empty",
    "logistic": "sigmoid",
    "max": "maximum",
    "min": "minimum",
    "random_bits": "random",
    "reduce_and": "all",
    "reduce_max": "max",
    "reduce_min": "min",
    "reduce_or": "any",
    "reduce_prod": "prod",
    "reduce_sum": "sum",
    "select_n": "where",
    "threefry2x32": "random",
    "top_k": "topk",
}
# Call → the parameter that holds its body, which is a part of the caller's trace.
BODIES = {
    "checkpoint": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "eval_jaxpr": "call_jaxpr",  # JAX 0.11 and later, around what a checkpoint computed
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "remat2": "jaxpr",
    "shard_map": "jaxpr",
}
PROGRAMS = {"jit", "pjit"}  # calls that are compiled and run as one program
# Operations that pass their operands on as they are: names, barriers for the compiler and for the derivative.
BARRIERS = {"optimization_barrier"}  # each a program by itself
IDENTITIES = {"name", "stop_gradient", *BARRIERS}
COPIES = {"copy", "copy_p"}  # the same values in another array


def keeps_precision(eqn: Any) -> bool:
    """Whether this is the `reduce_precision` that a checkpoint puts on what it saves: it reduces nothing."""
    if eqn.primitive.name != "reduce_precision":
        return False
    kept = jnp.finfo(eqn.invars[0].aval.dtype)
    return (eqn.params["exponent_bits"], eqn.params["mantissa_bits"]) == (kept.nexp, kept.nmant)

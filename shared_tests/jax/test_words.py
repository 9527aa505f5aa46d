"""What the adapter takes for names of JAX's operations: there are such operations."""

import pytest
from jax.extend.core import primitives

from residuals_lab.frameworks.jax import words

NAMES = {getattr(primitive, "name", "") for primitive in vars(primitives).values()}
# Those that are not among JAX's public primitives, or that only some releases of it have.
OTHERS = {
    "checkpoint",
    "closed_call",
    "copy_p",
    "core_call",
    "empty2",
    "eval_jaxpr",
    "optimization_barrier",
    "pjit",
    "shard_map",
}
TABLES = (words.OPS, words.BODIES, words.PROGRAMS, words.IDENTITIES, words.COPIES)


@pytest.mark.parametrize("name", sorted(set().union(*TABLES) - OTHERS))
def test_jax_has_an_operation_of_this_name(name: str) -> None:
    assert name in NAMES

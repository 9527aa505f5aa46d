"""The losses under flags of JAX that people leave on, and on an Explicit mesh whose labels are sharded otherwise."""

from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from losses import call_of, each_reduction, value_and_gradients
from residuals_lab import frameworks
from residuals_lab.ops.tolerance import FLOAT64_LIMIT, error

each_op = pytest.mark.parametrize("op", ["cross_entropy", "linear_cross_entropy"])
FLAGS = {
    "jax_debug_nans": True,
    "jax_numpy_rank_promotion": "raise",
    "jax_numpy_dtype_promotion": "strict",
}


def assert_right(call: Any) -> None:
    y, gradients = value_and_gradients(call, frameworks.load("jax"))
    assert error(y, call.forward()) <= FLOAT64_LIMIT
    for d, truth in zip(gradients, call.vjp(np.ones(np.shape(y))).values(), strict=True):
        assert error(d, truth) <= FLOAT64_LIMIT


@each_op
@each_reduction
@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_that_is_left_on_does_not_matter(op: str, reduction: str, flag: str) -> None:
    """With a label that is ignored, of 64 bits, and several chunks."""
    before = getattr(jax.config, flag)
    try:
        jax.config.update(flag, FLAGS[flag])
        assert_right(call_of(op, np.array([1, -100, 2], np.int64), reduction=reduction))
    finally:
        jax.config.update(flag, before)


@each_op
@pytest.mark.parametrize("dtype", ["int4", "uint4"])
def test_labels_of_4_bits(op: str, dtype: str) -> None:
    assert_right(call_of(op, np.array(jax.numpy.array([1, 2, 4], dtype)), ignore_index=2))


@each_op
@pytest.mark.parametrize("given", [None, P(), P("d")], ids=str)
def test_labels_are_sharded_as_the_rows(op: str, given: P | None) -> None:
    """On Explicit axes, the default of `jax.make_mesh`, where labels may be plain, replicated, or sharded otherwise."""
    axes = dict.fromkeys(("d", "m"), 2)
    mesh = jax.make_mesh((2, 2), tuple(axes), axis_types=(AxisType.Explicit,) * 2, devices=jax.devices("cpu")[:4])
    call = call_of(op, np.arange(8, dtype=np.int32).reshape(4, 2) % 5)
    first, *others = (jax.numpy.asarray(a, "float32") for a in call.arrays.values())
    labels = jax.numpy.asarray(call.constants["labels"])
    with jax.set_mesh(mesh):
        rows = jax.device_put(first, NamedSharding(mesh, P("d", "m")))
        there = labels if given is None else jax.device_put(labels, NamedSharding(mesh, given))
        loss = frameworks.load("jax").public(op)
        gradient = jax.jit(jax.grad(lambda rows: loss(rows, *others, there)))(rows)
    assert gradient.sharding.spec == P("d", "m", None)
    assert error(np.asarray(gradient), next(iter(call.vjp(np.ones(())).values()))) <= 1e-5

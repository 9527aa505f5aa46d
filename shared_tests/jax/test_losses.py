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
    """On Explicit axes, the default of `jax.make_mesh`, where labels may be plain, replicated, or sharded otherwise;
    and so is the weight of each label's class.
    """
    axes = dict.fromkeys(("d", "m"), 2)
    mesh = jax.make_mesh((2, 2), tuple(axes), axis_types=(AxisType.Explicit,) * 2, devices=jax.devices("cpu")[:4])
    name, of_classes = "weight" if op == "cross_entropy" else "class_weight", np.linspace(0.5, 2, 5)
    call = call_of(op, np.arange(8, dtype=np.int32).reshape(4, 2) % 5, **{name: of_classes})
    first, *others = (jax.numpy.asarray(a, "float32") for a in call.arrays.values())
    weights = {name: jax.numpy.asarray(of_classes, "float32")}
    labels = jax.numpy.asarray(call.constants["labels"])
    with jax.set_mesh(mesh):
        rows = jax.device_put(first, NamedSharding(mesh, P("d", "m")))
        there = labels if given is None else jax.device_put(labels, NamedSharding(mesh, given))
        loss = frameworks.load("jax").public(op)
        gradient = jax.jit(jax.grad(lambda rows: loss(rows, *others, there, **weights)))(rows)
    assert gradient.sharding.spec == P("d", "m", None)
    assert error(np.asarray(gradient), next(iter(call.vjp(np.ones(())).values()))) <= 1e-5


def test_the_logits_of_16_bits_are_a_product_of_16_bits() -> None:
    """Which an accelerator multiplies as they are, and sums in float32; a copy in float32 it would not."""
    call = frameworks.load("jax").public("linear_cross_entropy")
    x, weight = jax.numpy.ones((6, 3), "bfloat16"), jax.numpy.ones((4, 3), "bfloat16")
    jaxpr = str(jax.make_jaxpr(lambda x, weight: call(x, weight, jax.numpy.arange(6) % 4))(x, weight))
    assert "preferred_element_type=float32" in jaxpr
    assert "f32[6,3]" not in jaxpr


@pytest.mark.parametrize("axis", [1, -2])
def test_classes_on_another_axis(axis: int) -> None:
    """Asked for by `axis` alone; labels of a shape that fits axis 1 are no reason to guess."""
    call = frameworks.load("jax").public("cross_entropy")
    logits, labels = np.random.default_rng(0).standard_normal((2, 5, 3)), np.ones((2, 3), int)
    found, moved = call(logits, labels, axis=axis), call(np.moveaxis(logits, 1, -1), labels)
    assert error(np.asarray(found), np.asarray(moved)) <= 1e-6
    message = r"^labels: expected shape \[2, 5\], one label a row, got \[2, 3\]; pass axis=1 if that is the axis"
    with pytest.raises(ValueError, match=message):
        call(logits, labels)

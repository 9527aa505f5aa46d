"""What JAX's keys ask of the ops that draw."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import residuals_jax
from draws import DROPOUTS, KEYS
from residuals_numpy._lib.dropout import random_bits

each_op = pytest.mark.parametrize("op", DROPOUTS)
X = np.arange(1, 200, dtype=np.float32)


@each_op
def test_a_key_comes_as_words_or_typed(op: str) -> None:
    f, typed = getattr(residuals_jax, op), jax.random.key(7)
    np.testing.assert_array_equal(f(X, 0.5, typed), f(X, 0.5, jax.random.key_data(typed)))
    np.testing.assert_array_equal(jax.grad(lambda x: f(x, 0.5, typed).sum())(X), f(X, 0.5, typed) / X)


@each_op
def test_the_gradient_of_a_key_is_float0(op: str) -> None:
    f, words = getattr(residuals_jax, op), jnp.asarray(KEYS[0])
    for fn in (f, jax.jit(f, static_argnums=1)):
        found = jax.grad(lambda x, key, fn=fn: fn(x, 0.5, key).sum(), (0, 1), allow_int=True)(X, words)
        assert found[1].dtype == jax.dtypes.float0
        _, pull = jax.vjp(lambda x, key, fn=fn: fn(x, 0.5, key), X, jax.random.key(7))
        assert pull(jnp.ones_like(X))[1].dtype == jax.dtypes.float0


@each_op
@pytest.mark.parametrize("typed", [False, True])
def test_vmap_over_keys(op: str, typed: bool) -> None:
    f = getattr(residuals_jax, op)
    keys = jax.random.wrap_key_data(KEYS) if typed else jnp.asarray(KEYS)
    found = jax.vmap(jax.grad(lambda x, key: f(x, 0.5, key).sum()), (None, 0))(X, keys)
    for row, key in zip(found, KEYS, strict=True):
        np.testing.assert_array_equal(row, f(X, 0.5, jnp.asarray(key)) / X)


@each_op
def test_a_scan_splits_its_key(op: str) -> None:
    """Each layer has a key of its own, and the backward of each zeroes what its forward zeroed."""
    f = getattr(residuals_jax, op)

    def layers(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.lax.scan(lambda x, key: (y := f(x, 0.5, key), y), x, jax.random.split(jax.random.key(0), 4))

    (y, each), gradient = jax.jit(lambda x: (layers(x), jax.grad(lambda x: layers(x)[0].sum())(x)))(X)
    np.testing.assert_array_equal(y, each[-1])
    np.testing.assert_array_equal(gradient, y / X)
    assert len({tuple(np.flatnonzero(row)) for row in each}) == 4


def test_the_bits_of_numpy_are_those_of_jax() -> None:
    for key, shape in product(KEYS, ((7,), (3, 4, 5), (), (3, 0))):
        bits = jax.random.bits(jax.random.wrap_key_data(key), shape, "uint32")
        np.testing.assert_array_equal(random_bits(key, shape), bits)

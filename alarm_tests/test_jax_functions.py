"""Functions of `jax.nn` and `jax.numpy`, and losses of Optax, are left alone."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from alarms import ALL, passes, right

LABELS = jnp.array([0, 5, 2, 2])
TWO = ((4, 6), (4, 6))

FUNCTIONS = {
    **{
        name: right(getattr(jax.nn, name))
        for name in (
            "relu",
            "relu6",
            "sigmoid",
            "softplus",
            "soft_sign",
            "silu",
            "log_sigmoid",
            "leaky_relu",
            "hard_sigmoid",
            "hard_silu",
            "hard_tanh",
            "elu",
            "celu",
            "selu",
            "gelu",
            "glu",
            "squareplus",
            "mish",
            "softmax",
            "log_softmax",
            "standardize",
            "logsumexp",
            "sparse_plus",
            "log1mexp",
        )
    },
    "one_hot": right(lambda x: jax.nn.one_hot(LABELS, 6, dtype=x.dtype) * x),
    "attention": right(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True), *[(2, 4, 1, 3)] * 3),
    **{
        name: right(getattr(jnp, name))
        for name in (
            "abs",
            "sin",
            "arctan",
            "expm1",
            "sinc",
            "sort",
            "max",
            "min",
            "median",
            "cumsum",
            "var",
            "std",
            "square",
            "sign",
            "round",
            "ravel",
            "flip",
            "diff",
            "ptp",
            "cbrt",
            "tril",
            "prod",
            "nansum",
        )
    },
    "clip": right(lambda x: jnp.clip(x, -0.5, 0.5)),
    "maximum": right(jnp.maximum, *TWO),
    "hypot": right(jnp.hypot, *TWO),
    "arctan2": right(jnp.arctan2, *TWO),
    "logaddexp": right(jnp.logaddexp, *TWO),
    "matmul": right(jnp.matmul, (4, 6), (6, 3)),
    "einsum": right(lambda x, y: jnp.einsum("ij,kj->ik", x, y), (4, 6), (3, 6)),
    "outer": right(jnp.outer, (4,), (6,)),
    "kron": right(jnp.kron, (2, 3), (3, 2)),
    "convolve": right(jnp.convolve, (8,), (3,)),
    "interp": right(lambda x: jnp.interp(x, jnp.array([-1.0, 0.0, 2.0]), jnp.array([0.0, 1.0, 3.0]))),
    "where": right(lambda x: jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0)))),
    "take": right(lambda x: jnp.take(x, LABELS, axis=1)),
    "segment_sum": right(lambda x: jax.ops.segment_sum(x, LABELS, 6)),
    "norm": right(lambda x: jnp.linalg.norm(x, axis=-1)),
    "solve": right(jnp.linalg.solve, (4, 4), (4, 2)),
    "slogdet": right(lambda x: jnp.linalg.slogdet(x)[1], (4, 4)),
    "cholesky": right(lambda x: jnp.linalg.cholesky(x @ x.T + jnp.eye(4)), (4, 4)),
    "eigvalsh": right(lambda x: jnp.linalg.eigvalsh(x + x.T), (4, 4)),
    "svdvals": right(lambda x: jnp.linalg.svd(x, compute_uv=False)),
    "fft": right(jnp.fft.rfft),
    "scan": right(lambda x: jax.lax.scan(lambda c, row: (jnp.tanh(c + row), c), jnp.zeros_like(x[0]), x)),
    "optax.l2_loss": right(optax.l2_loss, *TWO),
    "optax.huber_loss": right(optax.huber_loss, *TWO),
    "optax.log_cosh": right(optax.log_cosh, *TWO),
    "optax.cosine_distance": right(optax.cosine_distance, *TWO),
    "optax.cross_entropy": right(lambda x: optax.softmax_cross_entropy_with_integer_labels(x, LABELS)),
    "optax.softmax_cross_entropy": right(lambda x: optax.softmax_cross_entropy(x, jax.nn.one_hot(LABELS, 6))),
    "optax.sigmoid_bce": right(lambda x: optax.sigmoid_binary_cross_entropy(x, jnp.full(x.shape, 0.3))),
    "optax.focal": right(lambda x: optax.sigmoid_focal_loss(x, jnp.full(x.shape, 1.0))),
    "optax.hinge": right(lambda x: optax.hinge_loss(x, jnp.ones(x.shape))),
    "optax.kl": right(lambda x, y: optax.kl_divergence(jax.nn.log_softmax(x), jax.nn.softmax(y)), *TWO),
    "optax.poly": right(lambda x: optax.losses.poly_loss_cross_entropy(x, jax.nn.one_hot(LABELS, 6))),
    "optax.smooth_labels": right(lambda x: optax.smooth_labels(jax.nn.softmax(x), 0.1)),
    "optax.ctc": right(
        lambda x: optax.ctc_loss(x, jnp.zeros(x.shape[:2]), jnp.array([[1, 2], [3, 1]]), jnp.zeros((2, 2))), (2, 5, 4)
    ),
    "optax.triplet": right(optax.losses.triplet_margin_loss, *[(4, 6)] * 3),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@ALL
def test_a_function_of_jax_is_left_alone(name: Any, dtype: str, seed: int) -> None:
    passes("jax", FUNCTIONS[name], dtype, seed)

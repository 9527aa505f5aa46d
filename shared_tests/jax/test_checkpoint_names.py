"""Residuals have names in JAX, by which a policy of `jax.checkpoint` keeps them instead of computing them again."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from residuals_jax import flash_attention, rms_norm
from residuals_lab.audit import Audit, audit

LAYERS, HEADS, TOKENS, WIDTH = 3, 2, 16, 8
KEPT = ("rms_norm.rstd", "flash_attention.out", "flash_attention.logsumexp")


def layer(x: jax.Array, weights: jax.Array) -> tuple[jax.Array, None]:
    h = rms_norm(x, jnp.ones(WIDTH))
    return x + flash_attention(*(h @ w for w in weights), is_causal=True), None


def audited(*names: str) -> Audit:
    policy = jax.checkpoint_policies.save_only_these_names(*names)

    def layers(x: jax.Array, weights: jax.Array) -> Any:
        return jax.lax.scan(jax.checkpoint(layer, policy=policy), x, weights)[0]

    weights = jnp.ones((LAYERS, 3, WIDTH, WIDTH))
    return audit(layers, jnp.ones((HEADS, TOKENS, WIDTH)), weights, framework="jax")


def test_a_policy_keeps_what_it_names_in_a_scan() -> None:
    """And what is kept is not computed again: the attention's sum of exponentials, the norm's mean of squares."""
    rows = LAYERS * HEADS * TOKENS
    nothing, some = audited("nothing"), audited(*KEPT)
    more = some.trace.new_bytes - nothing.trace.new_bytes
    assert more == 4 * rows * (1 + WIDTH + 1)
    assert {*nothing.trace.repeats()} >= {"rsqrt", "exp", "sum", "matmul"}
    assert {*some.trace.repeats()} == {"matmul"}, "that of q, k and v, and the scores, which the rule computes again"
    assert {r.name for r in some.residuals} == {"weights", "carry", "rstd", "out", "logsumexp"}


@pytest.mark.parametrize("name", KEPT)
def test_each_name_is_one_array(name: str) -> None:
    (found,) = (r.value.shape for r in audited(name).residuals if f".{r.name}" in name)
    assert found[:3] == (LAYERS, HEADS, TOKENS)

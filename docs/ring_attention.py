"""Ring attention in JAX: every device has a part of the sequence, and the keys and values go round.

`plain_ring` and `ring_attention` are for the inside of `jax.shard_map`, on (..., heads, part of the sequence, features)
in float32 or wider. They differ in what is kept for the backward: what autodiff wants, or what `Residuals` names.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from from_weights_to_logsumexp import merge
from jax import Array

from residuals_jax import flash_attention
from residuals_jax.ops import flash_attention as rule


def send_on(arrays, axis):
    """Every device sends its arrays to the next one, and has those of the one before."""
    devices = jax.lax.axis_size(axis)
    return jax.lax.ppermute(arrays, axis, [(i, (i + 1) % devices) for i in range(devices)])


def all_keys(q, k, v, axis, is_causal):
    """`out` and `logsumexp` of this device's queries and all keys."""
    here = jax.lax.axis_index(axis)
    whole = flash_attention(q, k, v, is_causal=is_causal, return_logsumexp=True)

    def step(carry, sent):  # how often these keys have been sent on
        k, v, whole = carry
        k, v = send_on((k, v), axis)
        out, logsumexp = flash_attention(q, k, v, return_logsumexp=True)
        if is_causal:  # keys of a device after this one are as if there were none
            logsumexp = jnp.where(sent <= here, logsumexp, -jnp.inf)
        return (k, v, merge(jnp, whole, (out, logsumexp))), None

    (_, _, whole), _ = jax.lax.scan(step, (k, v, whole), jnp.arange(1, jax.lax.axis_size(axis)))
    return whole


def plain_ring(q, k, v, axis, is_causal=False):
    """`out` of this device's queries and all keys, by autodiff."""
    return all_keys(q, k, v, axis, is_causal)[0]


class Residuals(NamedTuple):
    q: Array  # (..., h, s, d)  input: this device's part
    k: Array  # (..., kv, s, d)  input: this device's part, sent round again by the backward
    v: Array  # (..., kv, s, e)  input: this device's part, sent round again by the backward
    out: Array  # (..., h, s, e)  output, of all keys
    logsumexp: Array  # (..., h, s)  new, of all keys: makes weights of any part's scores


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def ring_attention(q, k, v, axis, is_causal=False):
    """`out` of this device's queries and all keys, with a backward that goes round again."""
    return all_keys(q, k, v, axis, is_causal)[0]


def fwd(q, k, v, axis, is_causal):
    out, logsumexp = all_keys(q, k, v, axis, is_causal)
    return out, Residuals(q, k, v, out, logsumexp)


def bwd(axis, is_causal, residuals, g):
    q, k, v, out, logsumexp = residuals
    here = jax.lax.axis_index(axis)

    def gradients(k, v, logsumexp, is_causal):  # what these keys add to dq, and what these queries add to dk and dv
        part = rule.Residuals(q, k, v, bias=None, mask=None, out=out, logsumexp=logsumexp)
        return rule.bwd(is_causal, None, None, None, part, g)[:3]

    def step(carry, sent):
        travelling, dq = carry
        k, v, dk, dv = send_on(travelling, axis)
        shift = jnp.where(sent <= here, logsumexp, jnp.inf) if is_causal else logsumexp  # e to the −∞ is no weight
        more_dq, more_dk, more_dv = gradients(k, v, shift, False)
        return ((k, v, dk + more_dk, dv + more_dv), dq + more_dq), None

    dq, dk, dv = gradients(k, v, logsumexp, is_causal)
    steps = jnp.arange(1, jax.lax.axis_size(axis))
    ((_, _, dk, dv), dq), _ = jax.lax.scan(step, ((k, v, dk, dv), dq), steps)
    return dq, *send_on((dk, dv), axis)  # the last step home


ring_attention.defvjp(fwd, bwd)


def saved_by_each_device(fn, devices, tokens, features):
    """The bytes that each device saves for the backward, if it has `tokens` of one head in float32."""
    from residuals_lab import frameworks

    mesh = jax.make_mesh((devices,), ("seq",), devices=jax.devices("cpu")[:devices])
    parts = jax.P(None, "seq", None)
    placed = jax.NamedSharding(mesh, parts)
    arrays = [jax.ShapeDtypeStruct((1, devices * tokens, features), "float32", sharding=placed) for _ in range(3)]
    ring = jax.shard_map(lambda q, k, v: fn(q, k, v, "seq"), mesh=mesh, in_specs=parts, out_specs=parts)
    residuals = frameworks.load("jax").trace(ring, arrays, ["q", "k", "v"]).residuals
    # In the trace, an array that is made inside is that of one device; an input is whole, and a device has its part.
    return sum(r.storage_bytes // devices if r.kind == "input" else r.storage_bytes for r in residuals)

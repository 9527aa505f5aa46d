"""Functions of arrays that several ops need; nothing here knows about an op."""

import math
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def floating(name: str, a: ArrayLike) -> Array:
    """`a` as an array; TypeError unless it is a real floating one of 16 bits or more (float8 has no arithmetic)."""
    if isinstance(a, type) or not (isinstance(a, float) or hasattr(a, "__array__")):
        raise TypeError(f"{name}: expected a floating array, got {type(a).__name__}")
    a = a if isinstance(a, Array) else jnp.asarray(a)  # which would copy a tracer, and the copy would be saved
    if not jnp.issubdtype(a.dtype, jnp.floating) or a.dtype.itemsize < 2:
        raise TypeError(f"{name}: expected a floating array, got {a.dtype}{list(a.shape)}")
    # A Python number that is differentiated reaches a rule as it is, without a shape.
    return jax.lax.convert_element_type(a, a.dtype) if jax.typeof(a).weak_type and a.ndim == 0 else a


def nonnegative(name: str, value: float, most: float = math.inf) -> float:
    """`value`, the same in every trace, as a float; TypeError unless it is a number, ValueError unless in [0, most]."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a Python number, got {type(value).__name__}")
    expected = ">= 0" if most == math.inf else f"from 0 to {most}"
    if not 0 <= value <= most:
        raise ValueError(f"{name}: expected a number {expected}, got {value}")
    return float(value)


def whole(name: str, value: int, least: int) -> int:
    """`value`, the same in every trace, as an int; TypeError unless it is one, ValueError unless from `least` on."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}")
    if not least <= value < 2**31 - 1:  # the last is kept for labels that are too large
        raise ValueError(f"{name}: expected an int from {least} to {2**31 - 2}, got {value}")
    return int(value)


def class_labels(name: str, labels: Any, shape: tuple[int, ...], classes: int, ignore_index: int) -> Array:
    """`labels` as an array; TypeError unless integers, ValueError unless of this shape, each a class or ignored.

    The values are read on the host, where they are there: not in a trace, nor where other processes have a part.
    """
    try:
        given = labels if hasattr(labels, "dtype") else jnp.asarray(labels)
    except (TypeError, ValueError, OverflowError) as problem:
        raise TypeError(f"{name}: expected an integer array, got {labels!r:.60}") from problem
    if not jnp.issubdtype(given.dtype, jnp.integer):
        raise TypeError(f"{name}: expected an integer array, got {given.dtype}{list(given.shape)}")
    if given.shape != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, one label a row, got {list(given.shape)}")
    if not isinstance(given, jax.core.Tracer) and getattr(given, "is_fully_addressable", True):
        values = jax.device_get(given)
        wrong = values[((values < 0) | (values >= classes)) & (values != ignore_index)]
        if wrong.size:
            expected = f"classes from 0 to {classes - 1}, or {ignore_index} to ignore"
            raise ValueError(f"{name}: expected {expected}, got {wrong.flat[0]}")
    return given if isinstance(given, Array) else jnp.asarray(given)


def signed(labels: Array) -> Array:
    """Labels in a dtype that has -100 and any number of classes; one that is too large for it stays too large."""
    if jnp.issubdtype(labels.dtype, jnp.unsignedinteger):
        return jnp.minimum(labels, min(jnp.iinfo(labels.dtype).max, 2**31 - 1)).astype(jnp.int32)
    return labels.astype(jnp.promote_types(labels.dtype, jnp.int32))


def where_counted(a: Array, labels: Array, classes: int, ignore_index: int) -> Array:
    """`a`, one number a row, where the `signed` label counts: 0 where it is ignored, NaN where it is no class."""
    is_class = (labels >= 0) & (labels < classes)
    # In this order, since of no rows `where` takes the first without a look at the second, and its type on a mesh.
    return jnp.where(labels != ignore_index, jnp.where(is_class, a, jnp.nan), 0)


def two_words(name: str, key: Any) -> Array:
    """The two uint32 of a key, which comes as they are or as `jax.random.key` makes it; TypeError otherwise."""
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if jax.random.key_impl(key) != "threefry2x32":
            raise TypeError(f"{name}: expected a threefry2x32 key, got {jax.random.key_impl(key)}")
        key = jax.random.key_data(key)
    if not hasattr(key, "dtype"):
        raise TypeError(f"{name}: expected two uint32 or a jax.random.key, got {type(key).__name__}")
    if key.dtype != "uint32" or key.shape != (2,):
        raise TypeError(f"{name}: expected two uint32 or a jax.random.key, got {key.dtype}{list(key.shape)}")
    return key if isinstance(key, Array) else jnp.asarray(key)


def wide(a: Array) -> Array:
    """`a` in float32 if it is narrower, so that statistics and sums accumulate there."""
    return a.astype(jnp.float32) if a.dtype.itemsize < 4 else a


Types = tuple[Any, ...]  # one for each input, None where it is absent


def types(*inputs: Array | jax.ShapeDtypeStruct | None) -> Types:
    """What the gradient of each of `inputs` has to look like: static, so a rule may know it without saving them."""
    return tuple(None if a is None else jax.typeof(a) for a in inputs)


def match(cotangent: Array, primal: Any) -> Array:
    """The cotangent as its primal, an array or its type, needs it: of the same shape, dtype, varying axes and sharding.

    An axis along which the primal was broadcast is summed. Under `shard_map` the cotangent of a replicated primal is
    one device's share, and the shares are summed. `custom_vjp` would take another dtype without a word. Under Explicit
    mesh axes the sharding is part of the type.
    """
    # A NumPy array that is differentiated comes as JAX's own kind of it, which is no `Array`.
    kind = primal if isinstance(primal, jax.core.ShapedArray) else jax.typeof(primal)
    cotangent = sum_to(cotangent, primal.shape)
    shares = _varying(jax.typeof(cotangent)) - _varying(kind)
    if shares:
        cotangent = jax.lax.psum(cotangent, tuple(sorted(shares)))
    cotangent = cotangent.astype(primal.dtype)
    made_on_a_mesh = not kind.sharding.mesh.empty  # and not before, as a parameter may be: then it has no sharding
    if made_on_a_mesh and jax.typeof(cotangent).sharding != kind.sharding:
        cotangent = jax.sharding.reshard(cotangent, kind.sharding)
    return cotangent


def logsumexp(a: Array) -> Array:
    """(...): log Σ exp a over the last axis; −∞ where that is empty, or −∞ throughout, as a part of a row may be."""
    # Any shift gives the same sum, so the maximum is a constant to the derivative.
    top = jax.lax.stop_gradient(jnp.max(a, axis=-1, initial=-jnp.inf))
    top = jnp.where(top != -jnp.inf, top, 0)  # in this order, as in `where_counted`
    total = jnp.sum(jnp.exp(a - top[..., None]), axis=-1)
    return jnp.where(total != 0, top + jnp.log(jnp.where(total != 0, total, 1)), -jnp.inf)


def pack_bits(a: Array) -> Array:
    """(..., n) booleans as (..., ⌈n/8⌉) bytes, the first in the lowest bit; a scalar counts as n = 1.

    It is `jnp.packbits` that splits one axis in two, which an Explicit sharding can follow.
    """
    bits = a.reshape(a.shape or (1,)).astype(jnp.uint8)
    *lead, n = bits.shape
    if n == 0:  # an axis that Explicit shardings cannot split
        return bits
    bits = jnp.pad(bits, [(0, 0)] * len(lead) + [(0, -n % 8)]).reshape(*lead, (n + 7) // 8, 8)
    return jnp.sum(bits << jnp.arange(8, dtype=jnp.uint8), axis=-1, dtype=jnp.uint8)


def unpack_bits(packed: Array, shape: tuple[int, ...]) -> Array:
    """The booleans of this shape that `pack_bits` packed; `jnp.unpackbits` raises where an axis is empty."""
    *lead, m = packed.shape
    if m == 0:
        return packed.astype(bool)
    bits = (packed[..., None] >> jnp.arange(8, dtype=jnp.uint8)) & 1
    return bits.astype(bool).reshape(*lead, 8 * m)[..., : shape[-1] if shape else 1].reshape(shape)


def sum_to(a: Array, shape: tuple[int, ...]) -> Array:
    lead = tuple(range(a.ndim - len(shape)))
    stretched = tuple(i + len(lead) for i, n in enumerate(shape) if n == 1)
    return a.sum(axis=lead + stretched, keepdims=True).squeeze(lead) if lead + stretched else a


def _varying(array_type: Any) -> frozenset[str]:
    """The manual mesh axes along which an array differs from device to device."""
    manual = getattr(array_type, "manual_axis_type", None)  # JAX 0.10.1 and later; `vma` before
    return frozenset(array_type.vma if manual is None else manual.varying)


def keep_mask(key: Array | None, shape: tuple[int, ...], rate: float) -> Array | None:
    """Which elements dropout keeps: those whose uniform number in [0, 1) is below 1 - rate, both in float32.

    None at the rates 0 and 1, where there is nothing to draw.
    """
    if key is None or rate in (0.0, 1.0):
        return None
    return jax.random.uniform(jax.random.wrap_key_data(key, impl="threefry2x32"), shape, "float32") < 1 - rate


def drop(a: Array, mask: Array | None, rate: float) -> Array:
    """`a` / (1 - rate) where it is kept, 0 elsewhere whatever `a` is there."""
    if mask is None:
        return a if rate == 0.0 else jnp.where(False, a, 0)
    return jnp.where(mask, wide(a) * (1 / (1 - rate)), 0).astype(a.dtype)


def check_attention(
    q: Array, k: Array, v: Array, bias: Array | None, mask: Array | None, is_causal: bool, scale: Any = None
) -> None:
    """ValueError unless these are q (..., h, s, d), k (..., kv, t, d), v (..., kv, t, e), h a multiple of kv, and bias
    and mask broadcast to (..., h, s, t); TypeError unless mask and is_causal are boolean and scale is a number or None.
    """
    if not isinstance(is_causal, bool):
        raise TypeError(f"is_causal: expected True or False, got {is_causal!r}")
    if isinstance(scale, bool) or not isinstance(scale, Real | None):
        raise TypeError(f"scale: expected a Python number or None, got {type(scale).__name__}")
    if q.ndim < 3:
        raise ValueError(f"q: expected at least 3 axes, (..., heads, queries, features), got shape {list(q.shape)}")
    *lead, heads, rows, features = q.shape
    key_heads, keys = k.shape[-3:-1] if k.ndim == q.ndim else (0, 0)
    if k.shape != (*lead, key_heads, keys, features):
        raise ValueError(
            f"k: expected {[*lead, 'kv', 't', features]}, to go with q {list(q.shape)}, got {list(k.shape)}"
        )
    if heads != key_heads and (key_heads == 0 or heads % key_heads):
        raise ValueError(f"k: expected heads that divide the {heads} of q, got {key_heads}")
    if v.shape[:-1] != k.shape[:-1]:
        raise ValueError(f"v: expected {[*k.shape[:-1], 'e']}, as k is {list(k.shape)}, got {list(v.shape)}")
    if mask is not None and mask.dtype != bool:
        raise TypeError(f"mask: expected booleans, got {mask.dtype}{list(mask.shape)}")
    for name, a in (("bias", bias), ("mask", mask)):
        if a is not None:
            check_broadcasts(name, a, (*lead, heads, rows, keys))


def check_broadcasts(name: str, a: Array, shape: tuple[int, ...]) -> None:
    """ValueError unless `a` broadcasts to `shape`."""
    lead = len(shape) - a.ndim
    if lead < 0 or any(n not in (1, m) for n, m in zip(a.shape, shape[lead:], strict=True)):
        raise ValueError(f"{name}: expected a shape that broadcasts to {list(shape)}, got {list(a.shape)}")


def scaling(scale: float | None, q: Array) -> float:
    """`scale`, or 1/√d."""
    return max(q.shape[-1], 1) ** -0.5 if scale is None else float(scale)


def fold(a: Array, key_heads: int) -> Array:
    """(..., h, s, d) as (..., key_heads, h/key_heads·s, d): query heads that share a key head, one below the other."""
    *lead, heads, rows, columns = a.shape
    return a if heads == key_heads else a.reshape(*lead, key_heads, heads // key_heads * rows, columns)


def unfold(a: Array, like: Array) -> Array:
    """(..., key_heads, h/key_heads·s, d) as (..., h, s, d), where `like` is (..., h, s, any)."""
    return a if a.shape[:-1] == like.shape[:-1] else a.reshape(*like.shape[:-1], a.shape[-1])


def hide(scores: Array, mask: Array | None, is_causal: bool, first: Array | int = 0) -> Array:
    """−∞ where a query does not attend: where `mask` is False, and at keys after the query if `is_causal`.

    `first` is the position of the first query.
    """
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    if is_causal:
        rows, keys = (jax.lax.broadcasted_iota(jnp.int32, scores.shape[-2:], axis) for axis in (0, 1))
        scores = jnp.where(keys <= rows + first, scores, -jnp.inf)
    return scores


def attended(scores: Array) -> tuple[Array, Array, Array]:
    """Each row of scores as e = exp(scores − their maximum), its (..., s, 1) sum, and its (..., s) log-sum-exp.

    The weights are e over the sum. Of a row without a key they are 0 over 1, and the log-sum-exp is −∞.
    """
    # Any shift gives the same, so the maximum is a constant to the derivative.
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf))
    top = jnp.where(top == -jnp.inf, 0, top)
    e = jnp.exp(scores - top)
    total = jnp.sum(e, axis=-1, keepdims=True)
    is_none = total == 0
    total = jnp.where(is_none, 1, total)
    return e, total, jnp.where(is_none, -jnp.inf, jnp.log(total) + top)[..., 0]

"""`flash_attention` beside `attention`: the same numbers, merged from parts of the keys too, and nothing quadratic."""

from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from markdown import script
from residuals_lab import frameworks
from residuals_lab.ops.tolerance import error

LIMIT = 1e-12  # two ways to compute the same in float64: a few roundings apart
LESSON = script("from_weights_to_logsumexp")
FEATURES = 8


@pytest.fixture(params=frameworks.installed())
def adapter(request: pytest.FixtureRequest) -> ModuleType:
    return frameworks.load(request.param)


@pytest.fixture
def block(adapter: ModuleType) -> int:
    return adapter.op("flash_attention").BLOCK


@pytest.fixture
def xp(adapter: ModuleType) -> ModuleType:
    """The framework's namespace of NumPy's names."""
    return import_module({"jax": "jax.numpy", "torch": "torch"}[adapter.NAME])


def draw(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape) for shape in shapes]


def assert_same(adapter: ModuleType, one: Callable[..., Any], other: Callable[..., Any], arrays: list[Any]) -> None:
    """The same value and the same gradients, for a random cotangent."""
    with adapter.precision("float64"):
        args = [adapter.array(a) for a in arrays]
        g = adapter.array(np.random.default_rng(1).standard_normal(adapter.outline(one, *args).shape))
        found, truth = (adapter.value_and_vjp(fn, args, g) for fn in (one, other))
        for a, b in zip((found[0], *found[1]), (truth[0], *truth[1]), strict=True):
            assert error(adapter.to_numpy(a), adapter.to_numpy(b)) <= LIMIT


@pytest.mark.parametrize(
    ("queries", "bias_shape"), [(1, (5,)), (1, ()), (7, ()), (257, ()), (257, (2, 1, 5)), (257, (2, 257, 1))]
)
def test_edges_of_blocks_and_biases(adapter: ModuleType, queries: int, bias_shape: tuple[int, ...]) -> None:
    """One query, which attends one of the keys; a last block of one; a bias of one number, or row; second order.

    The same number for all keys of a row has no gradient, so the difference is an absolute one.
    """
    shapes = (2, queries, 3), (2, 5, 3), (2, 5, 3), bias_shape
    with adapter.precision("float64"):
        args = [adapter.array(a) for a in draw(*shapes)]
        g, *us = (adapter.array(a) for a in draw((2, queries, 3), *shapes))
        found = []
        for name in ("flash_attention", "attention"):
            op = adapter.public(name)

            def called(q: Any, k: Any, v: Any, bias: Any, op: Any = op) -> Any:
                return op(q, k, v, bias=bias, is_causal=True)

            y, gradients = adapter.value_and_vjp(called, args, g)
            found.append((y, *gradients, *adapter.second_vjp(called, args, g, us)))
        for a, b in zip(*found, strict=True):
            np.testing.assert_allclose(adapter.to_numpy(a), adapter.to_numpy(b), rtol=LIMIT, atol=10 * LIMIT)


@pytest.mark.parametrize("is_causal", [False, True, "lower_right"])
@pytest.mark.parametrize(
    ("queries", "keys", "heads"),
    [((0, 7), (0, 5), 1), ((1, -1), (1, 1), 2), ((1, 1), (0, 9), 4), ((2, 44), (2, 44), 2), ((2, 0), (1, 3), 4)],
)
def test_it_is_attention(
    adapter: ModuleType, block: int, queries: tuple[int, int], keys: tuple[int, int], heads: int, is_causal: bool | str
) -> None:
    """Lengths are so many blocks and so many more; a bias has a gradient too."""
    s, t = (blocks * block + more for blocks, more in (queries, keys))
    key_heads = max(heads // 2, 1)
    shapes = (heads, s, FEATURES), (key_heads, t, FEATURES), (key_heads, t, 3), (1, t)

    def called(name: str) -> Callable[..., Any]:
        op = adapter.public(name)
        return lambda q, k, v, bias: op(q, k, v, bias=bias, is_causal=is_causal)

    assert_same(adapter, called("flash_attention"), called("attention"), draw(*shapes))


@pytest.mark.parametrize("is_causal", [False, True, "lower_right"])
@pytest.mark.parametrize(("queries", "keys"), [((2, 9), (0, 300)), ((1, 3), (2, 40))])
@pytest.mark.parametrize("bias_shape", [(1, 1), (1, 0), (0, 1)])  # one for all where 0, else one for each
def test_windows_and_softcaps_are_those_of_attention(
    adapter: ModuleType,
    block: int,
    queries: tuple[int, int],
    keys: tuple[int, int],
    is_causal: bool | str,
    bias_shape: tuple[int, int],
) -> None:
    """In blocks without a key too, with a bias of each kind."""
    s, t = (blocks * block + more for blocks, more in (queries, keys))
    shapes = (2, s, FEATURES), (1, t, FEATURES), (1, t, 3), (s if bias_shape[0] else 1, t if bias_shape[1] else 1)

    def called(name: str) -> Callable[..., Any]:
        op, options = adapter.public(name), {"is_causal": is_causal, "window": 30, "softcap": 2.0}
        if bias_shape[1]:
            return lambda q, k, v, bias: op(q, k, v, bias=bias, **options)
        # What all keys of a row have in common has no gradient, but for rounding: it gets one from elsewhere.
        return lambda q, k, v, bias: op(q, k, v, bias=bias, **options) + bias

    assert_same(adapter, called("flash_attention"), called("attention"), draw(*shapes))


@pytest.mark.parametrize("more", [-3, 9])  # within one block, and in two
def test_halves_of_the_keys_merge(adapter: ModuleType, block: int, xp: ModuleType, more: int) -> None:
    """Rows that attend no key of the first half, of the second, of either; gradients of the log-sum-exp as well."""
    heads, s, t = 2, block + more, 14
    half = t // 2
    arrays = draw((heads, s, FEATURES), (heads, t, FEATURES), (heads, t, 3), (heads, s, t))
    mask = np.random.default_rng(2).random((s, t)) < 0.8
    mask[0, :half] = mask[1, half:] = mask[2] = False
    attention, flash = adapter.public("attention"), adapter.public("flash_attention")
    constant = adapter.constant(mask)

    def with_logsumexp(out: Any, logsumexp: Any) -> Any:
        """Both in one array, so that both have a cotangent; −∞ is compared as a number that has no gradient."""
        return xp.concatenate([out, xp.where(logsumexp == -xp.inf, -1e3, logsumexp)[..., None]], -1)

    def merged(q: Any, k: Any, v: Any, bias: Any) -> Any:
        parts = [
            flash(q, k[:, a:b], v[:, a:b], bias=bias[..., a:b], mask=constant[..., a:b], return_logsumexp=True)
            for a, b in ((0, half), (half, t))
        ]
        return with_logsumexp(*LESSON.merge(xp, *parts))

    def whole(q: Any, k: Any, v: Any, bias: Any) -> Any:
        _, logsumexp = flash(q, k, v, bias=bias, mask=constant, return_logsumexp=True)
        return with_logsumexp(attention(q, k, v, bias=bias, mask=constant), logsumexp)

    assert_same(adapter, merged, whole, arrays)


def made_in_jax(fn: Callable[..., Any], arrays: list[np.ndarray]) -> Iterator[int]:
    """The number of elements of every value of both passes, in every body of a loop or call."""
    import jax
    from jax.extend import core

    def in_jaxpr(jaxpr: Any) -> Iterator[int]:
        for eqn in jaxpr.eqns:
            yield from (v.aval.size for v in eqn.outvars)
            for leaf in jax.tree.leaves(eqn.params, is_leaf=lambda a: isinstance(a, core.Jaxpr | core.ClosedJaxpr)):
                if isinstance(leaf, core.Jaxpr | core.ClosedJaxpr):
                    yield from in_jaxpr(getattr(leaf, "jaxpr", leaf))

    forward, (out, pull) = jax.make_jaxpr(lambda *a: jax.vjp(fn, *a), return_shape=True)(*arrays)
    yield from in_jaxpr(forward.jaxpr)
    yield from in_jaxpr(jax.make_jaxpr(lambda pull, g: pull(g))(pull, out).jaxpr)


def made_in_torch(fn: Callable[..., Any], arrays: list[np.ndarray]) -> list[int]:
    """The number of elements of every tensor that an operation of either pass returns."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    sizes: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            sizes.extend(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))
            return out

    args = [torch.tensor(a, dtype=torch.float32, requires_grad=True) for a in arrays]
    with Sizes():
        out = fn(*args)
        torch.autograd.grad(out, args, torch.ones_like(out))
    return sizes


MADE = {"jax": made_in_jax, "torch": made_in_torch}


@pytest.mark.parametrize("is_causal", [False, True])
def test_nothing_is_quadratic(adapter: ModuleType, block: int, is_causal: bool) -> None:
    """No value has as many elements as one head's scores; `attention`, which is looked at in the same way, has some."""
    queries, keys = 4 * block, 3 * block + 5
    shapes = (2, queries, FEATURES), (1, keys, FEATURES), (1, keys, FEATURES), (1, keys)
    arrays = [a.astype(np.float32) for a in draw(*shapes)]
    mask = adapter.constant(np.arange(keys) != 3)

    def largest(name: str) -> int:
        op = adapter.public(name)
        made = MADE[adapter.NAME](lambda q, k, v, b: op(q, k, v, bias=b, mask=mask, is_causal=is_causal), arrays)
        return max(made)

    assert largest("flash_attention") < queries * keys <= largest("attention")


def test_keys_outside_of_the_windows_of_a_block_are_skipped(adapter: ModuleType, block: int) -> None:
    """No array of scores has more keys than the windows of a block have together."""
    queries, window = 4 * block, 20
    arrays = [a.astype(np.float32) for a in draw(*[(2, queries, FEATURES)] * 3)]
    flash = adapter.public("flash_attention")
    made = {
        option: max(MADE[adapter.NAME](lambda q, k, v, w=option: flash(q, k, v, is_causal=True, window=w), arrays))
        for option in (window, None)
    }
    assert made[window] == 2 * block * (block + window - 1) < made[None] == 2 * block * queries

"""What PyTorch's generator asks of `dropout` without a key, and what its transformations ask of keys."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import residuals_torch
from draws import DROPOUTS, KEYS, assert_share

pytestmark = [
    pytest.mark.usefixtures("forgetful"),
]


@pytest.fixture
def x() -> Iterator[Tensor]:
    """Ones, so that a value shows the mask; the global generator is put back."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield torch.ones(64, 50, requires_grad=True)


def drawn(x: Tensor) -> Tensor:
    return residuals_torch.dropout(x, 0.5, None)


def compiled(backend: str) -> Callable[[Tensor], Tensor]:
    return torch.compile(drawn, fullgraph=True, backend=backend)


@pytest.mark.parametrize("how", ["eager", "aot_eager", "inductor"])
def test_without_a_key_the_global_generator_draws(x: Tensor, how: str) -> None:
    f = drawn if how == "eager" else compiled(how)
    state = torch.get_rng_state()
    first, second = f(x), f(x)
    assert not torch.equal(first, second)
    for y in (first, second):
        assert_share(y.detach().numpy() != 0, 0.5)
        before = torch.get_rng_state()
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(torch.get_rng_state(), before), "a backward draws nothing"
        assert torch.equal(gradient, y), "it zeroes what the forward zeroed"
    torch.set_rng_state(state)
    assert torch.equal(f(x), first)


@pytest.mark.parametrize("how", ["eager", "aot_eager"])
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoint_draws_the_same_again(x: Tensor, how: str, use_reentrant: bool) -> None:
    f = drawn if how == "eager" else compiled(how)
    y = checkpoint(lambda x: f(x).sin(), x, use_reentrant=use_reentrant)
    torch.rand(7)  # somebody else draws in between
    y.sum().backward()
    kept = y.detach() != 0
    torch.testing.assert_close(x.grad, torch.where(kept, 2 * torch.tensor(2.0).cos(), 0))


def test_a_compiled_checkpoint_draws_the_same_again(x: Tensor) -> None:
    fn = torch.compile(
        lambda x: checkpoint(lambda x: drawn(x).sin(), x, use_reentrant=False), fullgraph=True, backend="aot_eager"
    )
    y = fn(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.where(y.detach() != 0, 2 * torch.tensor(2.0).cos(), 0))


@pytest.mark.parametrize("op", DROPOUTS)
def test_vmap_over_keys(op: str) -> None:
    f, x = getattr(residuals_torch, op), torch.arange(1.0, 20)
    keys = torch.from_numpy(KEYS)

    def gradient(x: Tensor, key: Tensor) -> Tensor:
        return torch.func.grad(lambda x: f(x, 0.5, key).sum())(x)

    for keys_axis in (0, 1):
        batch = torch.from_numpy(np.moveaxis(KEYS, 0, keys_axis).copy())
        found = torch.vmap(gradient, (None, keys_axis))(x, batch)
        for row, key in zip(found, keys, strict=True):
            assert torch.equal(row * x, f(x, 0.5, key))


@pytest.mark.parametrize("key", [None, torch.from_numpy(KEYS[0])], ids=["no-key", "key"])
@pytest.mark.parametrize("how", ["eager", "aot_eager"])
def test_weights_are_dropped_as_by_the_op(x: Tensor, how: str, key: Tensor | None) -> None:
    """By the same draw, in a checkpoint too; v is the identity, so that y is the weights."""
    q, v = x.detach()[None].sin().requires_grad_(), torch.eye(64)[None]

    def attend(q: Tensor) -> Tensor:
        return residuals_torch.attention(q, q.cos(), v, dropout=0.25, key=key)

    fn = attend if how == "eager" else torch.compile(attend, fullgraph=True, backend=how)
    weights = residuals_torch.attention(q, q.cos(), v)
    g = torch.randn_like(weights)
    for f in (fn, lambda q: checkpoint(fn, q, use_reentrant=False)):
        torch.manual_seed(7)
        expected = residuals_torch.dropout(weights, 0.25, key)
        torch.manual_seed(7)
        y = f(q)
        assert_share(y.detach().numpy() != 0, 0.75)
        torch.testing.assert_close(y, expected)
        torch.rand(7)  # somebody else draws in between
        torch.testing.assert_close(*(torch.autograd.grad(a, q, g, retain_graph=True) for a in (y, expected)))


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_vmap_without_a_key(x: Tensor, randomness: str) -> None:
    y = torch.vmap(drawn, randomness=randomness)(torch.ones(3, 100))
    assert torch.equal(y[0], y[1]) == (randomness == "same")

"""What the ops that draw ask for: one mask for one key everywhere, right rates, and draws that do not depend."""

from itertools import pairwise, product
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from draws import DROPOUTS, KEYS, assert_share
from residuals_numpy._lib.dropout import random_bits

each_op = pytest.mark.parametrize("op", DROPOUTS)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("device")


def mask(adapter: ModuleType, op: str, key: np.ndarray, shape: tuple[int, ...], rate: float, device: str) -> np.ndarray:
    """What is kept of ones."""
    y = adapter.public(op)(adapter.array(np.ones(shape), "float32", device), rate, adapter.constant(key, device))
    return adapter.to_numpy(y) != 0


@each_op
def test_the_mask_is_that_of_the_bits(adapter: ModuleType, op: str, device: str) -> None:
    """Bit for bit; across the blocks in which PyTorch works, with words at the ends of their range."""
    ends = np.array([[0, 0], [2**32 - 1, 2**32 - 1], [2**31, 1]], np.uint32)
    shapes = ((2, 3, 5), (2**18 + 9,), (), (0, 4))
    for key, shape, rate in product((*ends, KEYS[0]), shapes, (0.1, 0.3, 0.5)):
        expected = (random_bits(key, shape) >> 9) * 2.0**-23 < np.float32(1 - rate)
        np.testing.assert_array_equal(mask(adapter, op, key, shape, rate, device), expected)


def test_the_bits_are_those_of_the_paper() -> None:
    """The known answers of the authors' own library, for 20 rounds of two words: counters 0 and the first key's."""
    assert random_bits(np.zeros(2, np.uint32), (1,))[0] == 0x6B200159 ^ 0x99BA4EFE


@each_op
@pytest.mark.parametrize("rate", [0.0, 0.001, 0.1, 0.5, 0.9, 1.0])
def test_the_rate(adapter: ModuleType, op: str, rate: float, device: str) -> None:
    for key in KEYS[:3]:
        assert_share(mask(adapter, op, key, (100_000,), rate, device), 1 - rate)


@each_op
def test_draws_do_not_depend_on_each_other(adapter: ModuleType, op: str, device: str) -> None:
    """Neighbours along either axis, the same place under keys that differ in one bit of either word, rows."""
    p, shape = 0.7, (256, 300)
    near = [KEYS[0], *(KEYS[0] ^ np.uint32(flip) for flip in ((1, 0), (0, 1), (2**31, 0), (0, 2**31)))]
    masks = [mask(adapter, op, key, shape, 1 - p, device) for key in (*near, *KEYS[1:])]
    for m in masks:
        for step in (1, 2, 8, 128):
            assert_share(m[:, :-step] & m[:, step:], p**2)
            assert_share(m[:-step] & m[step:], p**2)
    for a, b in (*pairwise(masks), *((masks[0], m) for m in masks[2:])):
        assert_share(a & b, p**2)


@each_op
def test_what_is_dropped_is_zero_whatever_it_was(adapter: ModuleType, op: str, device: str) -> None:
    x = np.tile([1.0, np.nan, np.inf, -np.inf], 25)
    key = adapter.constant(KEYS[0], device)
    for rate in (0.5, 1.0):
        y = adapter.to_numpy(adapter.public(op)(adapter.array(x, "float32", device), rate, key))
        kept = mask(adapter, op, KEYS[0], x.shape, rate, device)
        np.testing.assert_array_equal(y, np.where(kept, x * 2, 0))


@each_op
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_where_nothing_is_drawn_no_key_is_needed(adapter: ModuleType, op: str, rate: float, device: str) -> None:
    y = adapter.public(op)(adapter.array(np.ones(3), "float32", device), rate, None)
    np.testing.assert_array_equal(adapter.to_numpy(y), np.full(3, 1 - rate))


@each_op
def test_whole_channels_are_dropped(adapter: ModuleType, op: str, device: str) -> None:
    x = adapter.array(np.ones((4, 8, 5, 6)), "float32", device)
    key = adapter.constant(KEYS[0], device)
    for broadcast in ((2, 3), (-1, -2), [2, 3]):
        y = adapter.to_numpy(adapter.public(op)(x, 0.5, key, broadcast=broadcast))
        np.testing.assert_array_equal(y, np.broadcast_to(y[:, :, :1, :1], y.shape))
    np.testing.assert_array_equal(y[:, :, 0, 0] != 0, mask(adapter, op, KEYS[0], (4, 8, 1, 1), 0.5, device)[:, :, 0, 0])


@each_op
@pytest.mark.parametrize(
    ("broadcast", "kind", "message"),
    [
        ((2,), ValueError, r"broadcast: expected some of the 1 axes of x, got \(2,\)"),
        (0, TypeError, "broadcast: expected a tuple of ints, got 0"),
        ((0.0,), TypeError, r"broadcast: expected a tuple of ints, got \(0.0,\)"),
    ],
)
def test_wrong_axes_are_named(
    adapter: ModuleType, op: str, device: str, broadcast: Any, kind: type[Exception], message: str
) -> None:
    args = adapter.array(np.ones(3), "float32", device), 0.5, adapter.constant(KEYS[0], device)
    with pytest.raises(kind, match=f"^{message}$"):
        adapter.public(op)(*args, broadcast=broadcast)


BAD: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "rate above 1": (1.5, KEYS[0], ValueError, "rate: expected a number from 0 to 1, got 1.5"),
    "rate below 0": (-0.5, KEYS[0], ValueError, "rate: expected a number from 0 to 1, got -0.5"),
    "rate not a number": (float("nan"), KEYS[0], ValueError, "rate: expected a number from 0 to 1, got nan"),
    "rate of words": ("half", KEYS[0], TypeError, "rate: expected a Python number, got str"),
    "key of other words": (0.5, KEYS[0].astype(np.int32), TypeError, r"key: expected two uint32.*, got int32\[2\]"),
    "key of three words": (0.5, np.zeros(3, np.uint32), TypeError, r"key: expected two uint32.*, got uint32\[3\]"),
    "key of a number": (0.5, 7, TypeError, "key: expected two uint32.*, got int"),
}


@each_op
@pytest.mark.parametrize("bad", BAD)
def test_bad_arguments_are_named(adapter: ModuleType, op: str, bad: str, device: str) -> None:
    rate, key, kind, message = BAD[bad]
    given = adapter.constant(key, device) if isinstance(key, np.ndarray) else key
    with pytest.raises(kind, match=f"^{message}$"):
        adapter.public(op)(adapter.array(np.ones(3), "float32", device), rate, given)

"""What every op costs in memory, in every framework: never more than plain autodiff or the framework's own op."""

import numpy as np
import pytest

from draws import assert_share
from residuals_lab import frameworks
from residuals_lab.ops import BY_NAME, OPS, footprint
from residuals_lab.ops.footprint import Footprint
from residuals_lab.ops.tolerance import error

# Where ours is more: the framework, the op, in what, than which; ours and theirs in units of the first array.
EXCEPTIONS = {
    # F.relu holds y, and plain autodiff x, which are alive anyway. The bits are the price of holding neither: they pay
    # where nobody else holds it.
    ("torch", "relu_bits"): {
        ("new", "plain"): (1 / 32, 0.0),
        ("new", "own"): (1 / 32, 0.0),
        ("chain", "own"): (1 / 32, 0.0),
    },
    # F.scaled_dot_product_attention holds no weights but a log-sum-exp a row, as flash_attention does.
    ("torch", "attention"): {
        ("saved", "own"): (7.0, 4 + 1 / 64),
        ("new", "own"): (4.0, 1 / 64),
        ("chain", "own"): (7.0, 3 + 1 / 64),
    },
    # F.cross_entropy holds an array of its own as large as the logits, which are alive anyway, and labels of 64 bits;
    # ours the logits, labels of 32 bits, and two numbers a row.
    ("torch", "cross_entropy"): {("saved", "own"): (1 + 3 / 1024 + 1 / 2**16, 1 + 2 / 1024 + 1 / 2**16)},
}
BOTH = pytest.mark.parametrize("framework", frameworks.installed())
OWN = [(op, name) for name in frameworks.installed() for op in frameworks.load(name).OWN]
EVERY = pytest.mark.parametrize("op", [op.name for op in OPS])


@BOTH
@EVERY
def test_ours_is_never_more(op: str, framework: str) -> None:
    """Held alone, new alone, added to linear → op → linear. An exception that is not one any longer fails too."""
    adapter = frameworks.load(framework)
    call = footprint.call_of(BY_NAME[op], adapter)
    unit = 4 * next(iter(call.arrays.values())).size
    ours = footprint.measure(call, adapter, call.ours(adapter))
    others = {"plain": footprint.measure(call, adapter, call.plain(adapter))}
    if op in adapter.OWN:
        others["own"] = footprint.measure(call, adapter, call.own(adapter))
    more = {
        (what, name): (mine / unit, its / unit)
        for name, other in others.items()
        for what, mine, its in zip(Footprint._fields, ours, other, strict=True)
        if mine > its
    }
    assert more == EXCEPTIONS.get((framework, op), {})


@BOTH
@EVERY
def test_bytes_in_a_chain_are_the_bytes_really_held(op: str, framework: str) -> None:
    adapter = frameworks.load(framework)
    call = footprint.call_of(BY_NAME[op], adapter)
    chain, arrays = footprint.chained(call, call.ours(adapter))
    inputs = [adapter.array(a, "float32") for a in arrays.values()] + call.constants_in(adapter)
    trace = footprint.chain_trace(call, adapter, call.ours(adapter))
    assert trace.saved_bytes == adapter.saved_bytes(chain, inputs) > 0


@BOTH
def test_what_the_neighbours_hold_is_not_counted(framework: str) -> None:
    """Between two linear layers, nothing costs nothing, a saved output nothing, and a saved input one array."""
    adapter = frameworks.load(framework)
    call = footprint.call_of(BY_NAME["softmax"], adapter)
    assert footprint.measure(call, adapter, lambda x: x) == (0, 0, 0)
    array = 4 * call.arrays["x"].size
    assert footprint.measure(call, adapter, call.ours(adapter)) == (array, 0, 0)
    assert footprint.measure(call, adapter, adapter.checkpointed(call.plain(adapter))) == (array, 0, array)


@pytest.mark.parametrize(("op", "framework"), OWN)
def test_the_frameworks_own_does_the_same_and_is_counted_right(op: str, framework: str) -> None:
    """Otherwise the comparison would be with something else. Of what is drawn at random, the sizes are the same."""
    adapter = frameworks.load(framework)
    call = footprint.call_of(BY_NAME[op], adapter)
    args = [adapter.array(a, "float32") for a in call.arrays.values()]
    ours, own = (adapter.to_numpy(fn(*args)) for fn in (call.ours(adapter), call.own(adapter)))
    if op.startswith("dropout"):
        rate, x = call.static["rate"], call.arrays["x"]
        assert np.isclose(own, np.where(own == 0, 0, x / (1 - rate))).all()
        assert_share(own != 0, 1 - rate)
    else:
        assert error(own, ours) < 1e-4
    traced = call.trace(adapter, call.own(adapter), args).saved_bytes
    assert traced == call.saved_bytes(adapter, call.own(adapter), args) > 0

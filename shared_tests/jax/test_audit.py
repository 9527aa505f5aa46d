"""The audit of what only JAX has: loops in a trace, names for values, a run that shows less."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import io_callback

from audited import array, source
from command import residuals
from residuals_lab import frameworks
from residuals_lab.audit import audit, frozen, parameter
from residuals_lab.errors import UsageError


def test_a_result_that_depends_on_nothing_is_said() -> None:
    with pytest.raises(UsageError, match="depends on what is differentiated"):
        audit(lambda x: jax.lax.stop_gradient(x) * 2, array("jax", 4))


def test_names_in_a_loop_and_by_checkpoint_name() -> None:
    layer_norm = frameworks.load("jax").public("layer_norm")

    def fn(x: Any) -> Any:
        named = checkpoint_name(jax.numpy.exp(x), "grown")
        return jax.lax.scan(lambda c, _: (layer_norm(c), None), named, length=3)[0]

    report = audit(fn, array("jax", 4, 8))
    assert {r.name for r in report.residuals} == {"grown", "carry", "mean", "rstd"}
    assert report.findings == [], "no step makes all that a loop carries"


def test_a_run_in_jax_says_what_it_does_not_see(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = f"{source('jax', tmp_path)}:gate"
    code, out, _ = residuals(capsys, "audit", target, "--arg", "f32[64,8]", "--concrete")
    assert (code, "does not show how arrays are made" in out, "Nothing that this looks for" in out) == (0, True, False)
    assert "closed over" not in out, "the run has made them"


def test_what_a_loop_computes_again_counts_for_each_iteration() -> None:
    def step(x: Any, _: None) -> tuple[Any, None]:
        return jax.checkpoint(lambda x: jax.numpy.sin(jax.numpy.exp(x)))(x), None

    report = audit(lambda x: jax.lax.scan(step, x, length=3)[0], array("jax", 4, 8))
    assert [(r.op, r.count, r.nbytes) for r in report.repeats] == [("exp", 3, 3 * 128)]


def test_what_an_iteration_derives_again() -> None:
    """A stacked array follows from what each iteration has, and from what they share; a carry follows from nothing."""

    def fn(slope: Any, shifts: Any, wrap: Any = lambda body: body) -> Any:
        grid = jax.numpy.linspace(0.0, 1.0, 256).reshape(16, 16)

        def body(total: Any, shift: Any) -> tuple[Any, None]:
            return total + (shift + grid) * slope, None

        return jax.lax.scan(wrap(body), jax.numpy.zeros((16, 16)), shifts)[0].sum()

    slope, shifts = array("jax"), frozen(array("jax", 16))
    report = audit(fn, slope, shifts)
    assert [(f.what, f.nbytes, f.names) for f in report.findings] == [("derivable", 16 * 1024, ("add",))]
    assert audit(partial(fn, wrap=jax.checkpoint), slope, shifts).new_bytes < 2 * 1024

    def recurrent(h: Any, w: Any) -> Any:
        return jax.lax.scan(lambda h, _: (h + jax.numpy.tanh(h @ w), None), h, None, length=32)[0]

    report = audit(recurrent, array("jax", 8, 8), parameter(array("jax", 8, 8)))
    found = {f.names: (f.what, f.nbytes) for f in report.findings}
    assert found == {("sub",): ("derivable", 32 * 256)}, "1 - tanh², but neither the carry nor the tanh"

    def doubling(h: Any, w: Any) -> Any:
        return jax.lax.scan(lambda h, _: ((h * 2) @ w, None), h, None, length=32)[0]

    assert audit(doubling, array("jax", 8, 8), parameter(array("jax", 8, 8))).findings == []


def ruled(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A sine that saves cos(x) for its gradient, and exp(x), which `backward(g, exp(x))` may read."""
    rule = jax.custom_vjp(jax.numpy.sin)
    rule.defvjp(
        lambda x: (jax.numpy.sin(x), (jax.numpy.cos(x), jax.numpy.exp(x))),
        lambda kept, g: (backward(g, kept[1]) * kept[0],),
    )
    return lambda x: rule(x * 2).sum()


def printed(g: Any, y: Any) -> Any:
    jax.debug.print("{}", y.sum())
    return g


def told(g: Any, y: Any) -> Any:
    io_callback(lambda _: None, None, y, ordered=True)
    return g


def multiplied(g: Any, y: Any) -> Any:
    shape = jax.ShapeDtypeStruct(g.shape, g.dtype)
    return jax.pure_callback(lambda g, y: np.asarray(g) * np.asarray(y), shape, g, y)


def as_numpy(g: Any, y: Any) -> Any:
    return g * np.asarray(y)


@pytest.mark.parametrize("backward", [printed, told, multiplied])
def test_what_only_a_callback_reads_is_read(backward: Callable[..., Any]) -> None:
    report = audit(ruled(backward), array("jax", 4, 8))
    assert not [f for f in report.findings if f.what == "unused"]
    unread = audit(ruled(lambda g, y: g), array("jax", 4, 8))
    assert [f.names for f in unread.findings if f.what == "unused"] == [("exp",)]


def test_what_needs_numbers_is_run_with_them() -> None:
    """A backward that leaves JAX, of which only a run shows anything; an argument that is an array of NumPy's, or that
    says how often a loop runs.
    """
    x = array("jax", 4, 8)
    looped = lambda x, n: jax.lax.fori_loop(0, n, lambda i, y: jax.numpy.sin(y), x * 2).sum()  # noqa: E731
    masked = lambda x, m: (jax.numpy.sin(x * 2) * np.asarray(m)).sum()  # noqa: E731
    for fn, given, arrays in ((ruled(as_numpy), (), 2), (masked, (np.ones(8, bool),), 1)):
        with pytest.raises(UsageError, match="run it with --concrete"):
            audit(fn, x, *given)
        report = audit(fn, x, *given, is_concrete=True)
        assert [r.storage_bytes for r in report.residuals if r.value.shape == x.shape] == [128] * arrays
        assert report.findings == []
    with pytest.raises(UsageError, match="run it with --concrete"):
        audit(looped, x, jax.numpy.int32(3))
    assert audit(looped, x, jax.numpy.int32(3), is_concrete=True).new_bytes == 3 * 128 + 4, "the three cosines, and 2.0"


def test_a_gathered_weight_is_a_copy_of_parameters() -> None:
    """By name or by sharding; and to gather it is said to be communication."""
    jnp, spec = jax.numpy, jax.sharding.PartitionSpec
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))

    def gathered(x: Any, w: Any) -> Any:
        inner = lambda x, w: jnp.tanh(x @ jax.lax.all_gather(w, "i", tiled=True))  # noqa: E731
        return jax.shard_map(inner, mesh=mesh, in_specs=(spec("i"), spec("i")), out_specs=spec("i"))(x, w).sum()

    def constrained(x: Any, w: Any) -> Any:
        whole = jax.sharding.NamedSharding(mesh, spec())
        return jnp.tanh(x @ jax.lax.with_sharding_constraint(w * 2, whole)).sum()

    for fn, op in ((gathered, "all_gather"), (constrained, "sharding_constraint")):
        report = audit(fn, array("jax", 8, 16), parameter(array("jax", 16, 32)))
        (copy,) = (f for f in report.findings if f.is_copy_of_parameters)
        assert (copy.nbytes, copy.names, f"{op} (communication)" in copy.why) == (2048, (op,), True)


def test_of_the_branches_of_a_conditional_the_largest_is_counted() -> None:
    """One of them runs in each iteration: their sum would be more than there is."""

    def again(x: jax.Array) -> jax.Array:
        return jax.lax.switch(jnp.int32(x[0, 0]), [jnp.exp, lambda x: jnp.exp(x) + jnp.exp(2 * x), jnp.exp], x).sum()

    report = audit(jax.checkpoint(again), jax.ShapeDtypeStruct((4, 8), "float32"))
    found = {r.op: (r.count, r.nbytes, r.is_at_most) for r in report.repeats}
    assert found["exp"] == (2, 2 * 128, True)
    assert "to save it would keep at most" in str(report)
    straight = audit(jax.checkpoint(lambda x: jnp.exp(jnp.exp(x)).sum()), jax.ShapeDtypeStruct((4, 8), "float32"))
    assert not any(r.is_at_most for r in straight.repeats)


def test_copies_outside_of_a_jit_are_said() -> None:
    """`jnp.asarray` copies what is differentiated if it stands for numbers: not in a jit or a loop, or if mapped."""
    x, w = array("jax", 4, 8), array("jax", 8, 8)

    def dense(x: Any, w: Any) -> Any:
        return jnp.sin(jnp.asarray(x) @ jnp.asarray(w, "float32"))

    copying = [
        (dense, 128 + 256),
        (jax.jit(dense), 0),
        (jax.vmap(dense, (0, None)), 256),
        (lambda x, w: jax.lax.scan(lambda c, _: (dense(c, w), None), x, None, 3)[0], 0),
    ]
    for fn, more in copying:
        report = audit(fn, x, w)
        assert audit(fn, x, w, is_concrete=True).new_bytes == report.new_bytes + more
        said = [f"Outside of jax.jit it keeps {more} B more"] if more else []
        assert [note.partition(":")[0] for note in report.trace.notes] == said


def test_a_head_with_its_classes_last_is_turned_round_for_the_loss() -> None:
    """The op of both has them first: so a copy of the weight is kept, and counted; not of one that is turned."""
    x, labels, ours = array("jax", 64, 8), jnp.arange(64) % 32, frameworks.load("jax").public("linear_cross_entropy")

    def loss(x: Any, w: Any, head: Callable[..., Any] = jnp.matmul) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(head(jnp.sin(x), w)), labels[:, None], 1).mean()

    def mapped(x: Any, w: Any) -> Any:
        return jax.vmap(lambda row: w @ row)(x)

    last, first = array("jax", 8, 32), array("jax", 32, 8)
    for w, usual, lean, call, shared in (  # with the bytes that the product keeps too
        (last, loss, lambda x, w: ours(jnp.sin(x), w.T, labels), "(…, weight.T, …)", 0),
        (first, lambda x, w: loss(x, w.T), lambda x, w: ours(jnp.sin(x), w, labels), "", 1024),
        (first, lambda x, w: loss(x, w, mapped), lambda x, w: ours(jnp.sin(x), w, labels), "", 0),
    ):
        (advice,) = audit(usual, x, w).advice
        assert advice.call("jax") == f"residuals_jax.linear_cross_entropy{call}"
        freed = audit(usual, x, w).new_bytes - audit(lean, x, w).new_bytes - shared
        assert freed - 2 * 4 * len(x) <= advice.freed <= freed, "at most the indices of the labels are not counted"


def test_what_is_written_already_is_not_advised() -> None:
    """`jax.nn.sigmoid` saves y·(1 - y), and ours y itself, which a product saves too."""
    (advice,) = audit(lambda x, w: jax.nn.sigmoid(x @ w) @ w, array("jax", 4, 8), array("jax", 8, 8)).advice
    assert advice.call("jax") == "residuals_jax.sigmoid"


def test_an_array_of_one_element_is_passed_over_as_a_number_is() -> None:
    """Here the index, which counts from the end where it is negative."""
    report = audit(lambda x: jnp.sin(x)[jnp.arange(1)].sum(), array("jax", 8))
    assert [(r.value.elements, r.op) for r in report.residuals if r.is_new] == [(8, "cos"), (1, "broadcast")]
    assert report.findings == []

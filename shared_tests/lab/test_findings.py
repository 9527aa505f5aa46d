"""Findings count a storage once, are disjoint, and true together: what is found can be given up all at once."""

import random
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest

from audited import array
from residuals_lab import frameworks
from residuals_lab.audit import Audit, audit, parameter
from residuals_lab.audit.waste import _Kept
from residuals_lab.trace import Trace

INSTALLED = frameworks.installed()
BOTH = pytest.mark.parametrize("framework", INSTALLED)


def numpy_of(framework: str) -> ModuleType:
    if framework == "jax":
        import jax.numpy as n
    else:
        import torch as n
    return n


def converted(framework: str, x: Any, dtype: str) -> Any:
    return x.astype(dtype) if framework == "jax" else x.to(getattr(numpy_of(framework), dtype))


def copied(x: Any) -> Any:
    return x.clone() if hasattr(x, "clone") else x.copy()


def program(framework: str, seed: int) -> Callable[..., Any]:
    """A function of two matrices: operations drawn by a seed, each of arrays that were made before."""
    n = numpy_of(framework)
    steps: Sequence[Callable[..., Any]] = (
        lambda a, _: n.sin(a),
        lambda a, _: n.exp(a * 0.1),
        lambda a, b: a * b,
        lambda a, b: a * b + a,
        lambda a, b: a @ b,
        lambda a, _: a * n.tanh(a),
        lambda a, _: a.T,
        lambda a, b: (lambda y: y * copied(y))(a @ b),
        lambda a, _: copied(a.T),
        lambda a, _: copied(a),
        lambda a, _: n.concatenate([a[:2], a[:2] * 2]),
        lambda a, b: n.concatenate([a[2:], b[:2]]),
        lambda a, _: a[None][0] * a,
        lambda a, b: n.where(a > b, a, 0.0),
        lambda a, _: converted(framework, converted(framework, a, "bfloat16") * 2, "float32"),
        lambda a, _: a * converted(framework, n.arange(16).reshape(4, 4) > 5, "float32"),
        lambda a, _: a / a.sum(0),
    )

    def fn(x: Any, w: Any) -> Any:
        drawn, made = random.Random(seed), [x, w, x * 2]
        for _ in range(12):
            made.append(drawn.choice(steps)(drawn.choice(made[-4:]), drawn.choice(made)))
        return (made[-1] * made[-2]).sum() + made[-3].sum()

    return fn


def closed_under_cheap_steps(trace: Trace, there: set[int]) -> set[int]:
    """All values that cheap and transcendental steps of the forward make of some, one step after the other."""
    made = {n for step in trace.steps for n in step.outs if n not in step.ins}
    there = there | ({*trace.values} - made)
    for step in trace.steps[: trace.boundary]:
        if step.cost in ("view", "elementwise", "transcendental") and step.op != "carry" and there.issuperset(step.ins):
            there.update(step.outs)
    return there


def assert_true_together(report: Audit) -> None:
    """The findings free no more than there is, and what stays gives again all that they free."""
    assert sum(f.nbytes for f in report.findings) <= report.new_bytes
    found = [*_Kept(report.trace).wasted()]
    storages = [f.residual.storage for f in found if f.residual.is_new]
    assert len(storages) == len({*storages}), "each storage is found once"
    given_up = {f.residual.storage for f in found if f.residual.is_new and f.what != "pinned"}
    stays = {a.value.number for a in report.residuals if a.storage not in given_up}
    slices = {n for number in stays | {*report.trace.alive} for n in report.trace.slices(number)}
    again = closed_under_cheap_steps(report.trace, slices)
    for f in found:
        if f.what in ("duplicate", "derivable"):
            gone = [a for a in report.residuals if a.storage == f.residual.storage and a.is_needed]
            assert all(report.trace.slices(a.value.number)[-1] in again for a in gone), (f.what, f.residual.name)


@BOTH
@pytest.mark.parametrize("seed", range(25))
def test_of_any_program(framework: str, seed: int) -> None:
    x, w = array(framework, 4, 4), array(framework, 4, 4)
    assert_true_together(audit(program(framework, seed), x, w, framework=framework))
    assert_true_together(audit(program(framework, seed), x, parameter(w), framework=framework))


def both(framework: str, fn: Callable[..., Any], *shapes: tuple[int, ...]) -> Audit:
    report = audit(fn, *(array(framework, *shape) for shape in shapes), framework=framework)
    assert_true_together(report)
    return report


def freed(report: Audit) -> list[tuple[str, int]]:
    return [(f.what, f.nbytes) for f in report.findings]


@BOTH
def test_an_activation_of_several_steps_beside_its_operand(framework: str) -> None:
    """x·σ(x) follows from x; a transcendental operation by itself is a choice, and is not found."""
    n = numpy_of(framework)

    def fn(x: Any, w: Any) -> Any:
        y = n.exp(x @ w)
        return ((y * n.tanh(y)) @ w).sum()

    report = both(framework, fn, (8, 8), (8, 8))
    products = [f for f in report.findings if "mul" in f.names]
    assert [(f.what, f.nbytes) for f in products] == [("derivable", 256)]
    assert not any(name in ("exp", "tanh") for f in report.findings for name in f.names)


@BOTH
def test_a_reduction_is_not_derivable(framework: str) -> None:
    report = both(framework, lambda x, w: ((x @ w).sum(0) * x).sum() + ((x / x.sum(0)) @ w).sum(), (8, 8), (8, 8))
    assert not any(name in ("sum", "matmul") for f in report.findings for name in f.names)


@BOTH
def test_copies_of_parameters(framework: str) -> None:
    """A weight that is made ready for use, by any cheap steps, is a copy; their sum is a line of its own."""
    n = numpy_of(framework)

    def fn(x: Any, packed: Any, scale: Any, other: Any) -> Any:
        x = n.tanh(x @ (converted(framework, packed, "float32") * scale))
        return n.tanh(x @ (other * 2 + 1)).sum()

    packed = converted(framework, array(framework, 16, 16), "int8")
    given = [array(framework, 4, 16), packed, array(framework, 16), array(framework, 16, 16)]
    report = audit(fn, given[0], *map(parameter, given[1:]), framework=framework)
    assert_true_together(report)
    copies = [f for f in report.findings if f.is_copy_of_parameters]
    assert sum(f.nbytes for f in copies) == 3 * 1024, "the weight, what is converted for it, and the other one"
    assert "3 KiB  are copies of parameters" in str(report)
    of_inputs = audit(fn, *given, framework=framework)
    assert not any(f.is_copy_of_parameters for f in of_inputs.findings)


@BOTH
def test_a_table_that_is_made_of_a_few_numbers_is_no_copy(framework: str) -> None:
    n = numpy_of(framework)

    def fn(x: Any, frequencies: Any) -> Any:
        return (x * (n.arange(256)[:, None] * frequencies)).sum()

    report = audit(fn, array(framework, 256, 4), parameter(array(framework, 4)), framework=framework)
    assert [(f.names, f.is_copy_of_parameters) for f in report.findings if "mul" in f.names] == [(("mul",), False)]


@BOTH
def test_a_widened_array_is_named(framework: str) -> None:
    """By the name and the dtype that it had."""

    def fn(x: Any, angle: Any) -> Any:
        wide = converted(framework, x, "float32")
        return (wide @ wide.T).sum() + ((x * angle) @ angle.T).sum()

    x = converted(framework, array(framework, 8, 16), "bfloat16")
    report = audit(fn, x, array(framework, 16)[None].repeat(*((8, 1) if framework == "torch" else (8, 0))))
    whys = [f.why for f in report.findings]
    assert any(why.startswith("a float32 copy of the bfloat16 x: ") for why in whys), whys


@BOTH
def test_a_mask_follows_from_nothing(framework: str) -> None:
    n = numpy_of(framework)

    def fn(x: Any) -> Any:
        row = n.arange(64)
        return n.where(row[:, None] >= row[None], n.sin(x), 0.0).sum()

    report = both(framework, fn, (64, 64))
    (mask,) = (f for f in report.findings if f.what == "derivable")
    assert (mask.nbytes, "of constants" in mask.why) == (64 * 64, True)


@BOTH
def test_a_repetition_of_what_is_kept_is_said(framework: str) -> None:
    """Not that to keep it would cost anything."""
    if framework == "torch":
        n = numpy_of(framework)
        report = both(framework, lambda x: (n.sin(x) * n.cos(x)).sum(), (4, 8))
    else:
        import jax
        import jax.numpy as jnp

        rule = jax.custom_vjp(jnp.sin)
        rule.defvjp(lambda x: (jnp.sin(x), (x, jnp.cos(x))), lambda kept, g: (g * (kept[1] + jnp.cos(kept[0])) / 2,))
        report = both(framework, lambda x: rule(x).sum(), (4, 8))
    assert {(r.op, r.is_kept, r.nbytes) for r in report.repeats} >= {("cos", True, 128)}
    assert "repeated although it is kept, 128 B" in str(report)
    assert "Nothing that this looks for" not in str(report)
    calm = both(framework, lambda x: numpy_of(framework).exp(x).sum(), (4, 8))
    assert "Nothing that this looks for" in str(calm)

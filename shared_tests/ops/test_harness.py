"""The tests are tested: each of these wrong ops has to be caught by the test that is meant for it."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cases import Case, cases
from residuals_lab import frameworks

from . import test_ops

Where = tuple[str, str, str]  # framework, op, dtype

WRONG: list[Any] = []  # pytest parameters: where, what makes the wrong op, the test meant for it


def wrong(framework: str, op: str, test: Callable[[Case], None], dtype: str = "float64") -> Callable[[Any], Any]:
    """Register a function that makes a wrong op out of the right module, and the test that has to fail on it.

    It returns what differs from the right one: `fwd`, `bwd`, or a whole public function as `public`.
    """

    def register(make: Any) -> Any:
        if framework in frameworks.installed():
            WRONG.append(pytest.param((framework, op, dtype), make, test, id=f"{make.__name__}-{framework}"))
        return make

    return register


def case_of(where: Where, make: Callable[[Any], Any], patch: pytest.MonkeyPatch) -> Case:
    """The op's first case, with the wrong op in place of the right one."""
    framework, op, dtype = where
    case = next(c for c in cases([framework], "cpu") if c.source.op.name == op and c.first and c.dtype == dtype)
    module = case.adapter.op(op)
    right = SimpleNamespace(**vars(module))
    parts = {**vars(right), **make(right)}
    public = parts.get("public")
    if framework == "jax":
        public = public or jax_public(SimpleNamespace(**parts))  # custom_vjp holds on to the functions it was given
    else:
        public = public or case.adapter.public(op)  # the Function looks `bwd` up when it runs
        patch.setattr(module, "bwd", parts["bwd"])
    adapter = SimpleNamespace(**vars(case.adapter))
    adapter.op, adapter.public = lambda name: SimpleNamespace(**parts), lambda name: public
    return replace(case, adapter=adapter)


def jax_public(op: Any) -> Any:
    import jax

    rule = jax.custom_vjp(lambda *arrays: op.fwd(*arrays)[0])
    rule.defvjp(getattr(op, "rule_fwd", op.fwd), op.bwd)
    return lambda *arrays, **named: rule(*arrays, *named.values())


@wrong("jax", "x_sin_x", test_ops.test_forward_and_gradients)
@wrong("torch", "x_sin_x", test_ops.test_forward_and_gradients)
def wrong_sign(op: Any) -> Any:
    return {"bwd": lambda residuals, g: (-op.bwd(residuals, g)[0],)}


@wrong("jax", "x_sin_x", test_ops.test_forward_and_gradients)
@wrong("torch", "x_sin_x", test_ops.test_forward_and_gradients)
def ignored_cotangent(op: Any) -> Any:
    return {"bwd": lambda residuals, g: op.bwd(residuals, 0 * g + 1)}


@wrong("jax", "scaled", test_ops.test_backward_formula_has_the_primals_shape_and_dtype)
@wrong("torch", "scaled", test_ops.test_backward_formula_has_the_primals_shape_and_dtype)
def missing_reduction(op: Any) -> Any:
    return {"bwd": lambda residuals, g: (g * residuals.scale, g * residuals.x)}


@wrong("jax", "x_sin_x", test_ops.test_forward_and_gradients)
@wrong("torch", "x_sin_x", test_ops.test_forward_and_gradients)
def swapped_in_the_backward(op: Any) -> Any:
    return {"bwd": lambda residuals, g: op.bwd(op.Residuals(residuals.sin_x, residuals.x), g)}


@wrong("jax", "x_sin_x", test_ops.test_residuals_are_the_declared_ones)
def swapped_in_both_so_that_the_gradient_is_right(op: Any) -> Any:
    def fwd(x: Any) -> Any:
        y, (x, sin_x) = op.fwd(x)
        return y, op.Residuals(sin_x, x)

    return {"fwd": fwd, "bwd": lambda residuals, g: op.bwd(op.Residuals(residuals.sin_x, residuals.x), g)}


@wrong("jax", "x_sin_x", test_ops.test_residuals_are_the_declared_ones, "bfloat16")
def left_out_where_x_is_narrow(op: Any) -> Any:
    import jax.numpy as jnp

    def fwd(x: Any) -> Any:
        y, residuals = op.fwd(x)
        return y, residuals._replace(sin_x=None)

    return {"fwd": fwd, "bwd": lambda residuals, g: op.bwd(residuals._replace(sin_x=jnp.sin(residuals.x)), g)}


@wrong("torch", "x_sin_x", test_ops.test_residuals_are_the_declared_ones)
def swapped_names(op: Any) -> Any:
    def fwd(x: Any) -> Any:
        y, (x, sin_x) = op.fwd(x)
        return y, op.Residuals(sin_x, x)

    return {"fwd": fwd, "public": op.x_sin_x}


@wrong("jax", "x_sin_x", test_ops.test_backward_repeats_what_is_declared)
def recomputed_sin(op: Any) -> Any:
    import jax.numpy as jnp

    return {"bwd": lambda residuals, g: (g * (jnp.sin(residuals.x) + residuals.x * jnp.cos(residuals.x)),)}


@wrong("torch", "x_sin_x", test_ops.test_backward_repeats_what_is_declared)
def recomputed_sin_in_torch(op: Any) -> Any:
    return {"bwd": lambda residuals, g: (g * (residuals.x.sin() + residuals.x * residuals.x.cos()),)}


@wrong("jax", "x_sin_x", test_ops.test_backward_repeats_what_is_declared)
@wrong("torch", "x_sin_x", test_ops.test_backward_repeats_what_is_declared)
def declared_but_not_recomputed(op: Any) -> Any:
    return {"RECOMPUTES": {"sin": "it says"}}


@wrong("jax", "x_sin_x", test_ops.test_every_residual_earns_its_place)
@wrong("torch", "x_sin_x", test_ops.test_every_residual_earns_its_place)
def a_residual_that_nothing_reads(op: Any) -> Any:
    return {"bwd": lambda residuals, g: op.bwd(op.fwd(residuals.x)[1], g)}


@wrong("jax", "x_sin_x", test_ops.test_residuals_are_the_declared_ones)
def an_undeclared_extra_array(op: Any) -> Any:
    import jax.numpy as jnp

    def rule_fwd(x: Any) -> Any:
        y, residuals = op.fwd(x)
        return y, (residuals, jnp.cos(x))

    rule = {"rule_fwd": rule_fwd, "fwd": op.fwd, "bwd": lambda residuals, g: op.bwd(residuals[0], g)}
    return {"public": jax_public(SimpleNamespace(**rule))}


@wrong("torch", "x_sin_x", test_ops.test_residuals_are_the_declared_ones)
def an_undeclared_tensor_on_ctx(op: Any) -> Any:
    class Rule(op.XSinX):
        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            op.XSinX.setup_context(ctx, inputs, output)
            ctx.kept = {"cos": inputs[0].detach().cos()}

    return {"public": lambda x: Rule.apply(x)[0]}


@wrong("jax", "x_sin_x", test_ops.test_second_order_is_right)
def a_silent_double_backward(op: Any) -> Any:
    import jax

    return {"bwd": lambda residuals, g: op.bwd(residuals._replace(sin_x=jax.lax.stop_gradient(residuals.sin_x)), g)}


@wrong("torch", "x_sin_x", test_ops.test_second_order_is_right)
def a_silent_double_backward_in_torch(op: Any) -> Any:
    """Sin x is saved as an intermediate, a constant to autograd."""
    import torch

    class Rule(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            y, residuals = op.fwd(x)
            ctx.save_for_backward(*residuals)
            return y

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return op.bwd(op.Residuals(*ctx.saved_tensors), g)

    return {"public": lambda x: Rule.apply(x)}  # PyTorch 2.11's `apply` takes no arguments by name


@wrong("torch", "x_sin_x", test_ops.test_inputs_cotangents_and_residuals_are_left_as_they_were)
def an_overwritten_residual(op: Any) -> Any:
    import torch

    def bwd(residuals: Any, g: Any) -> Any:
        with torch.no_grad():
            return (residuals.sin_x.add_(residuals.x * residuals.x.cos()).mul(g),)

    return {"bwd": bwd}


@wrong("jax", "rms_norm", test_ops.test_residuals_are_the_declared_ones, "bfloat16")
@wrong("torch", "rms_norm", test_ops.test_residuals_are_the_declared_ones, "bfloat16")
def statistics_of_low_precision(op: Any) -> Any:
    """They take x's own dtype all the way, so that plain autodiff of the same `fwd` is as wrong as the op."""

    def fwd(x: Any, weight: Any, axis: int, offset: float, eps: float) -> Any:
        rstd = (x * x).mean(-1)[..., None] + eps
        rstd = rstd**-0.5
        return x * rstd * weight, op.Residuals(x, weight, rstd)

    return {"fwd": fwd, "public": lambda x, weight, **static: fwd(x, weight, *static.values())[0]}


def strides(case: Case) -> None:
    from ..torch import test_eager

    test_eager.test_strides_of_cotangent(case, "every-second")


@wrong("torch", "scaled", strides)
def a_stride_assumption(op: Any) -> Any:
    """A backward that takes its cotangent's memory as it comes, as a kernel without a stride argument does."""

    def bwd(residuals: Any, g: Any, like: Any = None) -> Any:
        rows, columns = g.shape
        return op.bwd(residuals, g.as_strided((rows, columns), (columns, 1)), like)

    return {"bwd": bwd}


@pytest.mark.parametrize(("where", "make", "test"), WRONG)
def test_a_wrong_op_is_caught(where: Where, make: Any, test: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(where, make, monkeypatch)
    with case.adapter.precision(case.dtype), pytest.raises(AssertionError):
        test(case)


@pytest.mark.parametrize(("where", "make", "test"), WRONG)
def test_the_right_op_passes(where: Where, make: Any, test: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So what is caught above is the fault, not the harness."""
    case = case_of(where, lambda right: {"public": right.rms_norm} if where[1] == "rms_norm" else {}, monkeypatch)
    with case.adapter.precision(case.dtype):
        test(case)

"""Calls of somebody's function in PyTorch; `residuals_lab.frameworks.calls` says what the names mean."""

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from residuals_lab.frameworks.calls import Function, Pull, Returned, Setting
from residuals_lab.frameworks.torch.recording import dtype_name
from residuals_lab.frameworks.torch.tracing import accumulated, nodes, tensors

CONJUGATES = True
FUNCTIONAL = True
PARTIAL = ()
CONSTANT_RESIDUALS = True
QUICK = ("torch.utils.checkpoint", "torch.utils.checkpoint(use_reentrant=True)")


def _reentrant(fn: Function) -> Function:
    """A reentrant checkpoint, which sees no tensor in a tree."""
    return lambda *arrays: checkpoint(lambda *again: tuple(_outputs(fn, again)), *arrays, use_reentrant=True)


def _compiled(fn: Function) -> Function:
    def whole(*arrays: Tensor) -> Any:
        return fn(*arrays)

    # A code object of its own: of one that it has compiled eight times, Dynamo says so in a log, and compiles no more.
    whole.__code__ = whole.__code__.replace()
    return torch.compile(whole, backend="aot_eager", dynamic=False)


TRANSFORMS: dict[str, Callable[[Function], Function]] = {
    "torch.utils.checkpoint": lambda fn: lambda *arrays: checkpoint(fn, *arrays, use_reentrant=False),
    "torch.utils.checkpoint(use_reentrant=True)": _reentrant,
    "torch.compile": _compiled,
}


def under_autocast(fn: Function) -> Function:
    def wrapped(*arrays: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return fn(*arrays)

    return wrapped


def _transposed(a: Tensor) -> Tensor | None:
    return a.mT.contiguous().mT if a.ndim > 1 and min(a.shape[-2:]) > 1 else None


def _every_second(a: Tensor) -> Tensor | None:
    return torch.stack([a, torch.full_like(a, 7)], -1)[..., 0] if a.numel() > 1 else None


def _cut_out(a: Tensor) -> Tensor | None:
    return torch.cat([a, a], -1)[..., : a.shape[-1]] if a.ndim > 1 and a.shape[-1] > 0 and a.shape[0] > 1 else None


def _expanded(a: Tensor) -> Tensor | None:
    return a.reshape(-1)[:1].reshape([1] * a.ndim).expand(a.shape) if a.numel() > 1 else None


def _row_expanded(a: Tensor) -> Tensor | None:
    return a[:1].expand(a.shape) if a.ndim > 1 and len(a) > 1 else None


LAYOUTS: dict[str, Callable[[Tensor], Tensor | None]] = {
    "cut out of a wider array": _cut_out,
    "every second element of a larger array": _every_second,
    "transposed": _transposed,
    "one row, expanded": _row_expanded,
    "expanded, with strides of 0": _expanded,
}


def parts(fn: Any) -> tuple[Function, Any]:
    if not isinstance(fn, torch.nn.Module):
        return fn, None
    parameters = dict(fn.named_parameters())

    def called(parameters: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        buffers = {name: b.detach().clone() for name, b in fn.named_buffers()}  # which a forward may write to
        floats = [p for p in parameters.values() if p.is_floating_point()]
        if floats:  # a check in float64 needs its statistics in float64
            buffers = {n: b.to(floats[0].dtype) if b.is_floating_point() else b for n, b in buffers.items()}
        return torch.func.functional_call(fn, {**parameters, **buffers}, args, kwargs)

    return called, {name: p.detach().requires_grad_(p.requires_grad) for name, p in parameters.items()}


def is_differentiable(a: Any) -> bool:
    return isinstance(a, Tensor) and a.requires_grad


def is_inexact(a: Any) -> bool:
    return isinstance(a, Tensor) and (a.is_floating_point() or a.is_complex())


def to_numpy(a: Tensor) -> np.ndarray:
    a = a.detach().cpu().resolve_conj().resolve_neg()
    if a.is_complex():
        return a.to(torch.complex128).numpy().copy()
    return (a.double() if a.is_floating_point() else a).numpy().copy()


def like(a: Tensor, values: np.ndarray) -> Tensor:
    values = values if np.iscomplexobj(values) == a.is_complex() or a.is_complex() else values.real
    return torch.tensor(values, device=a.device).to(a.dtype)


def share_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


_COMPLEX = {"float64": torch.complex128, "float32": torch.complex64}


def cast(a: Tensor, dtype: str) -> Tensor:
    wanted = _COMPLEX.get(dtype, torch.complex64) if a.is_complex() else getattr(torch, dtype)
    return a.detach().to(wanted).requires_grad_(a.requires_grad) if is_inexact(a) else a


def _outputs(fn: Function, arrays: Sequence[Tensor]) -> list[Tensor]:
    return [y for y in tensors(fn(*arrays)) if is_inexact(y)]


def forward(fn: Function, arrays: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return _outputs(fn, [a.detach() for a in arrays])


def differentiable_outputs(fn: Function, arrays: Sequence[Tensor], wrt: Sequence[int]) -> list[bool]:
    return [y.requires_grad for y in _outputs(fn, [a.detach().requires_grad_(i in wrt) for i, a in enumerate(arrays)])]


def vjp(fn: Function, arrays: Sequence[Tensor], wrt: Sequence[int]) -> tuple[list[Tensor], Pull]:
    given = [a.detach().requires_grad_(i in wrt) for i, a in enumerate(arrays)]
    outs = _outputs(fn, given)

    def pull(gs: Sequence[Tensor | None]) -> list[Tensor | None]:
        used = [(y, g) for y, g in zip(outs, gs, strict=True) if y.requires_grad and g is not None]
        if not used:
            return [None] * len(wrt)
        ys, given_gs = zip(*used, strict=True)
        some = [given[i] for i in wrt]
        try:
            return list(torch.autograd.grad(ys, some, given_gs, allow_unused=True, retain_graph=True))
        except RuntimeError as problem:
            if "use_reentrant=True" not in str(problem):
                raise
            leaves = [node.variable for node in nodes(ys) if hasattr(node, "variable")]
            return accumulated(ys, given_gs, [*some, *leaves], retain_graph=True)[: len(some)]

    return outs, pull


def without_cotangents(fn: Function, arrays: Sequence[Tensor], wrt: Sequence[int]) -> list[Tensor | None]:
    given = [a.detach().requires_grad_(i in wrt) for i, a in enumerate(arrays)]
    # What `torch.autograd.gradcheck` uses too: an identity whose backward gives None.
    ys: list[Any] = [torch._C._functions.UndefinedGrad()(y) for y in _outputs(fn, given) if y.requires_grad]
    if not ys:
        return []
    ones = [torch.ones_like(y) for y in ys]
    try:
        return list(torch.autograd.grad(ys, [given[i] for i in wrt], ones, allow_unused=True))
    except RuntimeError as problem:
        if "use_reentrant=True" in str(problem):  # such a checkpoint takes no `grad`
            return []
        raise


def _of_some(fn: Function, arrays: Sequence[Tensor], wrt: Sequence[int]) -> Function:
    """`fn` as a function of the arrays at these places, with the others as they are."""

    def of_some(*some: Tensor) -> tuple[Tensor, ...]:
        chosen = dict(zip(wrt, some, strict=True))
        return tuple(_outputs(fn, [chosen.get(i, a) for i, a in enumerate(arrays)]))

    return of_some


def functional_vjp(
    fn: Function, arrays: Sequence[Tensor], wrt: Sequence[int], gs: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    arrays = [a.detach() for a in arrays]
    made: Any = torch.func.vjp(_of_some(fn, arrays, wrt), *(arrays[i] for i in wrt))
    outs, pull = made
    return list(outs), list(pull(tuple(gs)))


def batched_vjp(
    fn: Function, arrays: Sequence[Tensor], wrt: Sequence[int], gs: Sequence[Tensor], axes: Sequence[int | None]
) -> tuple[list[Tensor], list[Tensor]]:
    def one(arrays: list[Tensor], gs: list[Tensor]) -> Any:
        return functional_vjp(fn, arrays, wrt, gs)

    plain = [a.detach() for a in arrays]
    found: Any = torch.vmap(one, in_dims=(list(axes), [0] * len(gs)), randomness="same")(plain, list(gs))
    return found[0], found[1]


def second(
    fn: Function, arrays: Sequence[Tensor], wrt: Sequence[int], gs: Sequence[Tensor], us: Sequence[Tensor]
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    given = [a.detach().requires_grad_(i in wrt) for i, a in enumerate(arrays)]
    outs, gs = _outputs(fn, given), [g.detach().requires_grad_() for g in gs]
    some, used = [given[i] for i in wrt], [(y, g) for y, g in zip(outs, gs, strict=True) if y.requires_grad]
    if not used:
        return [None] * len(wrt), [None] * len(gs)
    ys, y_gs = zip(*used, strict=True)
    firsts = torch.autograd.grad(ys, some, y_gs, create_graph=True, allow_unused=True)
    pairs = [(d, u) for d, u in zip(firsts, us, strict=True) if d is not None and d.requires_grad]
    if any("Error" in type(node).__name__ for node in nodes([d for d, _ in pairs])):
        # Reached from `backward`, this node raises; `grad` with respect to other arrays never runs it.
        raise RuntimeError("marked with @once_differentiable")
    if not pairs:
        return [None] * len(wrt), [None] * len(gs)
    found = torch.autograd.grad([d for d, _ in pairs], (*some, *gs), [u for _, u in pairs], allow_unused=True)
    return list(found[: len(wrt)]), list(found[len(wrt) :])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def settings() -> dict[str, Setting]:
    return {
        "torch's default dtype": Setting(torch.get_default_dtype(), torch.set_default_dtype),
        "torch's default device": Setting(torch.get_default_device(), torch.set_default_device),
        "torch's gradient mode": Setting(torch.is_grad_enabled(), torch._C._set_grad_enabled),
        "torch's number of threads": Setting(torch.get_num_threads(), torch.set_num_threads),
        "torch's deterministic algorithms": Setting(
            torch.are_deterministic_algorithms_enabled(), torch.use_deterministic_algorithms
        ),
    }


def random_state() -> bytes:
    return torch.get_rng_state().numpy().tobytes()


def returned(fn: Function, arrays: Sequence[Tensor], wrt: Sequence[int]) -> list[Returned]:
    """By a look at what the `backward` of every `autograd.Function` in the graph returns."""
    outs, pull = vjp(fn, arrays, wrt)
    found: list[Returned] = []
    rules = {n._forward_cls for n in nodes([y for y in outs if y.requires_grad]) if hasattr(n, "_forward_cls")}
    with _spied(rules, found):
        pull([torch.ones_like(y) for y in outs])
    return found


@contextmanager
def _spied(rules: set[Any], found: list[Returned]) -> Iterator[None]:
    """While it is open, what the backwards of these rules return goes into `found`."""
    patches = []
    for rule in rules:
        slot = "vjp" if "vjp" in vars(rule) else "backward"
        original = getattr(rule, slot)

        def spy(ctx: Any, *gs: Any, rule: Any = rule, original: Any = original) -> Any:
            grads = original(ctx, *gs)
            several = grads if isinstance(grads, tuple) else (grads,)
            for i, (d, edge) in enumerate(zip(several, ctx.next_functions, strict=False)):
                expected = _expected(edge)
                if isinstance(d, Tensor) and expected is not None:
                    found.append(Returned(rule.__name__, i, tuple(d.shape), dtype_name(d), *expected))
            return grads

        patches.append(patch.object(rule, slot, staticmethod(spy)))
    for p in patches:
        p.start()
    try:
        yield
    finally:
        for p in patches:
            p.stop()


def _expected(edge: tuple[Any, int]) -> tuple[tuple[int, ...], str] | None:
    """The shape and the dtype of the array to which an edge of the graph leads."""
    node, i = edge
    if node is None:
        return None
    if hasattr(node, "variable"):
        return tuple(node.variable.shape), dtype_name(node.variable)
    about = node._input_metadata[i]
    return tuple(about.shape), str(about.dtype).removeprefix("torch.")


def gradient_dtypes(fn: Function, arrays: Sequence[Tensor], wrt: Sequence[int]) -> list[str | None]:
    outs, pull = vjp(fn, arrays, wrt)
    return [None if d is None else dtype_name(d) for d in pull([torch.ones_like(y) for y in outs])]


def has_rule(fn: Function, arrays: Sequence[Tensor], wrt: Sequence[int]) -> bool:
    outs, _ = vjp(fn, arrays, wrt)
    return any(hasattr(node, "_forward_cls") for node in nodes([y for y in outs if y.requires_grad]))


def leaks(fn: Function, arrays: Sequence[Tensor], wrt: Sequence[int]) -> str:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        outs, pull = vjp(fn, arrays, wrt)
        rules = [n for n in nodes([y for y in outs if y.requires_grad]) if hasattr(n, "_forward_cls")]
        alive = [(weakref.ref(node), node._forward_cls.__name__) for node in rules]
        del outs, pull, rules
        return next((name for node, name in alive if node() is not None), "")
    finally:
        if was_enabled:
            gc.enable()


def refuses(problem: BaseException) -> str:
    text = str(problem)
    if "setup_context" in text:
        return "forward has ctx; split it into forward(...) and setup_context(ctx, inputs, output)"
    if "generate_vmap_rule" in text or "vmap staticmethod" in text:
        return "the rule says nothing about vmap; set generate_vmap_rule = True, or write a vmap staticmethod"
    if "once_differentiable" in text:
        return "marked with @once_differentiable"
    if "use_reentrant=True" in text:
        return "a reentrant checkpoint is in it; say use_reentrant=False"
    return ""

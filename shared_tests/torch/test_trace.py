"""What the PyTorch adapter sees: values through writes and views, and what is held where no hook looks."""

import logging
import subprocess
import sys
import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from residuals_lab import frameworks
from residuals_lab.audit import audit
from residuals_lab.audit.waste import waste
from residuals_lab.errors import UsageError
from residuals_lab.trace import Trace
from residuals_lab.trace.groups import by, tree

SHARED = torch.linspace(0.1, 0.8, 8)


def trace(fn: Any) -> Trace:
    return frameworks.load("torch").trace(fn, [torch.linspace(0.1, 0.8, 8, requires_grad=True)], ["x"])


def held(fn: Any) -> list[tuple[str, str, int]]:
    return [(r.name, r.kind, r.storage_bytes) for r in trace(fn).residuals]


def recomputing(fn: Any) -> Any:
    return lambda x: checkpoint(fn, x, use_reentrant=False)


def test_a_value_is_followed_through_writes() -> None:
    assert held(lambda x: x.sin().mul_(2).exp_().sum()) == [("x", "input", 32), ("exp", "new", 32)]
    assert trace(recomputing(lambda x: x.sin().exp_().sum())).repeats() == ["exp", "sin"]


def test_a_written_value_is_another_value() -> None:
    """The second sine is of another x, so it is no repetition of the first."""

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x.clone())
            return x.sin().sum()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return g * x.mul_(2).sin()

    assert trace(Twice.apply).repeats() == []


def test_a_view_holds_what_it_is_a_view_of() -> None:
    assert held(lambda x: (x[::2].sin() * 2).sum()) == [("x", "view", 32)]
    (residual,) = trace(lambda x: x.exp()[:2].sin().sum()).residuals[:1]
    assert (residual.name, residual.storage_bytes) == ("exp", 32)


def test_one_storage_counts_once() -> None:
    assert trace(lambda x: (x.sin() * x * x).sum()).saved_bytes == 32 * 3
    assert trace(lambda x: (x.view(2, 4) * x.view(2, 4)).sum()).saved_bytes == 32


class Box:
    """An object that a ctx can carry."""

    def __init__(self, t: Tensor) -> None:
        self.t = t


def hiding(keep: Any, fetch: Any) -> Any:
    class Hiding(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            keep(ctx, x.cos())
            return x.sin().sum()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g * fetch(ctx)

    return Hiding.apply


class Slots:
    __slots__ = ("t",)

    def __init__(self, t: Tensor) -> None:
        self.t = t

    def method(self) -> Tensor:
        return self.t


def in_module(t: Tensor) -> Any:
    module = torch.nn.Identity()
    module.kept = t
    return module


STATE: dict[str, Tensor] = {}
UNREAD: dict[str, Any] = {
    "partial": lambda t: partial(torch.mul, t),
    "default": lambda t: lambda g, t=t: g,
    "bound method": lambda t: Slots(t).method,
    "set": lambda t: {t},
    "slots": Slots,
    "module": in_module,
    "generator": lambda t: (s for s in [t]),
}
HIDING = {
    "attribute": (lambda ctx, t: setattr(ctx, "t", t), lambda ctx: ctx.t),
    "list": (lambda ctx, t: setattr(ctx, "ts", [t]), lambda ctx: ctx.ts[0]),
    "closure": (lambda ctx, t: setattr(ctx, "f", lambda: t), lambda ctx: ctx.f()),
    "object": (lambda ctx, t: setattr(ctx, "box", Box(t)), lambda ctx: ctx.box.t),
    "module": (lambda ctx, t: STATE.update(t=t), lambda ctx: STATE["t"]),
}


@pytest.mark.parametrize("place", HIDING)
def test_a_hidden_tensor_is_found(place: str) -> None:
    name = {"attribute": "t", "list": "ts", "closure": "f", "object": "box"}.get(place, "cos")  # on ctx it has one
    assert held(hiding(*HIDING[place])) == [(name, "hidden", 32)]


def test_what_hides_and_is_never_read_is_found() -> None:
    both = lambda ctx, t: (setattr(ctx, "box", Box(Box(t))), setattr(ctx, "t", t.exp()))  # noqa: E731
    assert sorted(held(hiding(both, lambda ctx: ctx.t))) == [("box", "hidden", 32), ("t", "hidden", 32)]


@pytest.mark.parametrize("is_abstract", [True, False])
@pytest.mark.parametrize("place", UNREAD)
def test_what_hangs_on_ctx_is_found_wherever_it_hides(place: str, is_abstract: bool) -> None:
    """By its memory, which goes with the graph: nothing reads it."""
    fn = hiding(
        lambda ctx, t: (setattr(ctx, "it", UNREAD[place](t)), setattr(ctx, "read", t.exp())), lambda ctx: ctx.read
    )
    report = audit(fn, torch.ones(8, requires_grad=True), is_concrete=not is_abstract)
    assert sorted((r.op, r.kind, r.is_new, r.is_unused) for r in report.residuals) == [
        ("cos", "hidden", True, True), ("exp", "hidden", True, False),
    ]  # fmt: skip
    assert [f.nbytes for f in report.findings if f.what == "hidden" and "the backward never reads it" in f.why] == [32]
    assert report.trace.notes == []


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_a_checkpoint_closes_over_is_held(reentrant: bool) -> None:
    def fn(x: Tensor) -> Tensor:
        mask = torch.zeros(64, 8) + x.detach().sum()
        again = lambda y, mask=mask: (y * 2).sin()  # noqa: E731
        return checkpoint(partial(again), x.exp(), use_reentrant=reentrant).sum()

    for is_concrete in (True, False):
        report = audit(fn, torch.ones(8, requires_grad=True), is_concrete=is_concrete)
        assert {(r.name, r.storage_bytes) for r in report.residuals if r.is_new} == {("add", 64 * 32), ("exp", 32)}
        never_read = [f.nbytes for f in report.findings if "the backward never reads it" in f.why]
        assert never_read == [64 * 32]


def test_what_a_hook_and_the_metadata_of_a_node_hold() -> None:
    def fn(x: Tensor) -> Tensor:
        y, hooked, noted = x.exp(), x.sin(), x.detach().cos()
        y.register_hook(lambda g, hooked=hooked: g)
        y.grad_fn.metadata["noted"] = noted
        return y.sum()

    report = audit(fn, torch.ones(8, requires_grad=True))
    assert {(r.op, r.kind) for r in report.residuals if r.is_new} == {
        ("exp", "new"), ("sin", "hidden"), ("cos", "hidden"),
    }  # fmt: skip


class OwnOutput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.y = x.exp()
        return ctx.y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.y


def test_a_reference_cycle_leaks() -> None:
    report = audit(OwnOutput.apply, torch.ones(8, requires_grad=True))
    (note,) = report.trace.notes
    assert note.startswith("Leaks: 32 B made at ")
    assert "test_trace.py:" in note
    assert note in str(report)
    assert note in report.document()["notes"]
    assert audit(lambda x: OwnOutput.apply(x).detach() * x, torch.ones(8, requires_grad=True)).trace.notes != []
    assert audit(lambda x: x.exp().sin(), torch.ones(8, requires_grad=True)).trace.notes == []


def test_what_a_global_variable_holds_too_is_said() -> None:
    fn = hiding(*HIDING["module"])
    for is_concrete in (True, False):
        (note,) = audit(fn, torch.ones(8, requires_grad=True), is_concrete=is_concrete).trace.notes
        assert note.startswith("Held elsewhere too: 32 B of the new memory")
        STATE.clear()


def reading(read: Any) -> Any:
    class Reading(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x.exp())
            return x.sin()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return read(ctx.saved_tensors[0], g)

    return Reading.apply


READS: dict[str, Any] = {
    "numpy": lambda t, g: torch.from_numpy(np.cos((t / 2).numpy())) * g,
    "array": lambda t, g: torch.as_tensor(np.asarray(t) * 2) * g,
    "item": lambda t, g: g * t.max().item(),
    "list": lambda t, g: g * sum(t.tolist()),
    "pointer": lambda t, g: g * bool(t[1:].data_ptr()),
    "DLPack": lambda t, g: torch.from_dlpack(np.from_dlpack(t)) * g,
    "equal": lambda t, g: g if torch.equal(t, g) else g * 2,
}


@pytest.mark.parametrize("how", READS)
def test_numbers_that_python_reads_are_read(how: str) -> None:
    report = audit(reading(READS[how]), torch.ones(8, requires_grad=True), is_concrete=True)
    assert [(r.name, r.is_unused) for r in report.residuals] == [("exp", False)]
    assert report.findings == []
    assert torch.ones(2).tolist() == [1, 1]
    assert not hasattr(Tensor.numpy, "__wrapped__"), "PyTorch is as it was"


def test_what_is_not_read_is_unused_all_the_same() -> None:
    report = audit(reading(lambda t, g: g * t.numel()), torch.ones(8, requires_grad=True), is_concrete=True)
    assert [f.what for f in report.findings] == ["unused"]


def test_the_bytes_of_a_nested_tensor_are_those_of_its_parts() -> None:
    """Its values are the argument's; only the offsets and what the layer makes are new."""
    linear = torch.nn.Linear(8, 16)

    def fn(x: Tensor) -> Tensor:
        rows = torch.nested.nested_tensor_from_jagged(x, torch.tensor([0, 3, 8]))
        return linear(rows).sin().values()

    report = audit(fn, torch.rand(8, 8, requires_grad=True), is_concrete=True)
    found = {(r.kind, tuple(r.value.shape)) for r in report.residuals}
    assert found >= {("input", (8, 8)), ("parameter", (16, 8)), ("new", (8, 16)), ("new", (3,))}
    assert report.new_bytes == 8 * 16 * 4 + 24
    with pytest.raises(UsageError, match="run it with --concrete"):
        audit(fn, torch.rand(8, 8, requires_grad=True))


def test_what_is_written_into_after_it_is_saved_is_refused() -> None:
    """As PyTorch does, which does not look where there are hooks."""

    def fn(x: Tensor) -> Tensor:
        y = x.exp()
        y.mul_(2)
        return y.sum()

    with pytest.raises(UsageError, match=r"saved at .*test_trace.py:\d+ is written into"):
        trace(fn)


def test_what_no_line_of_the_users_saves_has_its_module() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(inplace=True), torch.nn.Dropout(inplace=True))
    with pytest.raises(UsageError, match=r"saved at Sequential/\d is written into"):
        audit(model, torch.ones(8, requires_grad=True))


def inner(w: Tensor, x: Tensor) -> Tensor:
    return (torch.tanh(x * w) - x).square().mean()


def test_what_torch_func_saves_is_told_by_its_memory() -> None:
    """And all that is outside of it as usual."""

    def fn(x: Tensor, w: Tensor) -> Tensor:
        return (x * (w - torch.func.grad(inner)(w, x))).sin()

    x, w = torch.rand(8, requires_grad=True), torch.rand(8, requires_grad=True)
    for is_concrete in (False, True):
        report = audit(fn, x, w, is_concrete=is_concrete)
        (note,) = report.trace.notes
        assert note.startswith("What torch.func.grad or its like at shared_tests/torch/test_trace.py:"), note
        assert {"tanh", "mul", "sub"} <= {r.op for r in report.residuals if r.kind == "new"}
        assert "hidden" not in {r.kind for r in report.residuals}
    with torch.autograd.graph.disable_saved_tensors_hooks("PyTorch is as it was"):
        pass


def test_a_module_that_is_called_with_the_parameters_of_a_transformation() -> None:
    """Which wrap its own: they have no memory to be known by."""
    model = torch.nn.Linear(3, 1)

    def loss(given: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, given, x).square().mean()

    def fn(x: Tensor) -> Tensor:
        found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(dict(model.named_parameters()), x)
        return found["weight"].square().sum()

    x = torch.rand(8, 3, requires_grad=True)
    expected = audit(fn, x).new_bytes
    assert audit(fn, x, is_concrete=True).new_bytes == expected > 0


class Remembers(torch.nn.Module):
    """Leaves in itself what nobody needs for the backward."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.last = x.detach().exp()
        self.seen.append(x + 1)
        return x.sin()


def test_what_a_module_remembers_is_no_residual() -> None:
    x = torch.rand(8, requires_grad=True)
    assert [audit(Remembers(), x, is_concrete=c).new_bytes for c in (True, False)] == [0, 0]
    model = Remembers()
    audit(model, x)
    assert (model.seen, hasattr(model, "last")) == ([], False)


class Result:
    __slots__ = ("y",)

    def __init__(self, y: Tensor) -> None:
        self.y = y


def test_a_result_that_is_an_object() -> None:
    for make in (Box, Result, lambda y: Box([y])):
        report = audit(lambda x, make=make: make(x.sin().exp()), torch.ones(8, requires_grad=True))
        assert [(r.name, r.kind) for r in report.residuals] == [("x", "input"), ("exp", "output")]


def test_compiled_modules_of_torchscript() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(model)
    x = torch.ones(8, 8, requires_grad=True)
    expected = audit(model, x).new_bytes
    assert [audit(scripted, x, is_concrete=c).new_bytes for c in (False, True)] == [expected] * 2


class Own(torch.Tensor):
    """A subclass, which a fake tensor cannot become."""


ONLY_IN_A_RUN: dict[str, Any] = {
    "a subclass": lambda x: x.as_subclass(Own).sin().exp().as_subclass(Tensor),
    "split by a tensor": lambda x: torch.tensor_split(x, torch.tensor([3, 5]))[1].sin(),
    "elements where": lambda x: x[x > 0.5].sin(),
}


@pytest.mark.parametrize("what", ONLY_IN_A_RUN)
def test_what_fails_abstractly_says_how_to_run_it(what: str) -> None:
    x = torch.linspace(0, 1, 32).requires_grad_()
    with pytest.raises(UsageError, match=r"run it with --concrete( \(in Python is_concrete=True\))?$"):
        audit(ONLY_IN_A_RUN[what], x)
    assert audit(ONLY_IN_A_RUN[what], x, is_concrete=True).saved_bytes > 0


def test_what_the_user_raises_needs_no_other_run() -> None:
    def fn(x: Tensor) -> Tensor:
        raise ValueError("an even number of heads, please")

    for is_concrete in (False, True):
        with pytest.raises(UsageError, match=r"ValueError: an even number of heads, please$"):
            audit(fn, torch.ones(8, requires_grad=True), is_concrete=is_concrete)


def asking(name: str) -> Any:
    """A library with that name, which takes another path if a tensor is fake."""
    source = (
        "import torch\n"
        "def is_fake(t): return isinstance(t, torch._subclasses.FakeTensor)\n"
        "def warn_if_masked(at): return None if is_fake(at) else print('none is')\n"
        "def masked(x, at):\n"
        "    warn_if_masked(at)\n"
        "    return x.exp().sin() if is_fake(at) or not bool((at >= 0).all()) else x.sin()\n"
    )
    found: dict[str, Any] = {"__name__": name}
    exec(compile(source, f"{name}.py", "exec"), found)
    return found["masked"]


def test_a_library_that_asks_whether_tensors_are_fake() -> None:
    """Of those whose numbers are there it hears no, as in a run; of others its question is said."""
    masked, x = asking("library"), torch.ones(8, requires_grad=True)
    report = audit(lambda x: masked(x, torch.arange(8)), x)
    assert (report.new_bytes, dict(report.trace.unsure)) == (0, {})
    report = audit(lambda x: masked.__globals__["warn_if_masked"](x.detach()) or x.sin(), x)
    assert not report.trace.unsure, "whether it warns has no part in what is saved"
    report = audit(lambda x: masked(x, x.detach()), x)
    ((op, line),) = report.trace.unsure.items()
    assert (op, line) == ("library, which asks whether tensors are fake,", "library.py:6")
    assert f"Not exact: what {op} at {line} saves shows only in a real run" in str(report)
    assert isinstance(torch.ones(1), torch._subclasses.FakeTensor) is False
    assert torch._subclasses.FakeTensor is torch._subclasses.fake_tensor.FakeTensor


def test_an_argument_that_is_written_into_is_no_longer_there() -> None:
    """So a copy of it, made before, is no duplicate."""

    def fn(x: Tensor, state: Tensor, is_written: bool) -> Tensor:
        before = state.clone()
        if is_written:
            state.add_(1)
        return (x * before).sum()

    for is_written, what in ((True, []), (False, ["duplicate"])):
        args = torch.ones(8, requires_grad=True), torch.ones(8)
        found = frameworks.load("torch").trace(partial(fn, is_written=is_written), args, ["x", "state"])
        assert [f.what for f in waste(found)] == what


def test_operations_that_keep_something_else_in_a_run() -> None:
    lstm, x = torch.nn.LSTM(8, 16), torch.ones(5, 2, 8, requires_grad=True)
    unsure = frameworks.load("torch").trace(lambda x: lstm(x)[0], [x], ["x"], is_abstract=True).unsure
    assert [(op, ":" in line) for op, line in unsure.items()] == [("mkldnn_rnn_layer", True)]
    assert frameworks.load("torch").trace(lambda x: lstm(x)[0], [x], ["x"]).unsure == {}


def test_what_is_closed_over_is_somebody_elses() -> None:
    assert held(lambda x: (SHARED * x).sum()) == [("closed over", "parameter", 32)]


def test_no_operation_is_passed_over() -> None:
    """One that is in no class counts as costly; cheap ones are told if asked for."""
    again = trace(recomputing(lambda x: (torch.erfinv(x) * torch.special.i0(x)).sum()))
    assert again.repeats() == ["erfinv", "i0"]
    assert "mul" in trace(recomputing(lambda x: (x * 2).sin().cos().sum())).repeats(cheap=True)


def test_two_draws_are_two_values() -> None:
    assert trace(lambda x: (x * torch.rand(8) * torch.rand(8)).sum()).repeats() == []


def test_a_checkpoint_draws_again_what_it_drew() -> None:
    """So what is made of it is recognized; and an attention that drops nothing draws nothing."""

    def dropped(x: Tensor) -> Tensor:
        return (F.dropout(x, 0.5).exp().sin() * 2).cos().sum()

    assert trace(recomputing(dropped)).repeats() == ["exp", "random", "sin"]
    reentrant = trace(lambda x: checkpoint(dropped, x, use_reentrant=True))
    assert reentrant.repeats() == ["cos", "exp", "random", "sin", "sum"], "which runs to the end"
    fresh = trace(lambda x: checkpoint(dropped, x, use_reentrant=False, preserve_rng_state=False))
    assert fresh.repeats() == [], "another draw, as PyTorch warns"

    def attending(x: Tensor) -> Tensor:
        q = x.view(1, 1, 2, 4)
        return F.scaled_dot_product_attention(q, q, q).exp().sin().sum()

    fresh = trace(lambda x: checkpoint(attending, x, use_reentrant=False, preserve_rng_state=False))
    assert fresh.repeats() == ["attention", "exp"]


def test_a_number_that_is_spelled_out_is_the_same_again() -> None:
    assert trace(recomputing(lambda x: (x * torch.tensor(2.0)).exp().sin().sum())).repeats() == ["exp"]
    assert held(recomputing(lambda x: (x * torch.tensor(2.0)).exp().sin().sum())) == [("x", "input", 32)]
    assert held(lambda x: (x * torch.tensor([2.0] * 8)).sum()) == [("constant", "new", 32)], "the call makes it"


def test_a_graph_that_nothing_leads_to_is_not_held() -> None:
    """That of a teacher, or of a metric: its memory is free before the backward begins."""

    def student(x: Tensor) -> Tensor:
        assert x.sigmoid().argmax() >= 0
        return (x * x.exp().tanh().detach()).sum()

    assert held(student) == [("tanh", "new", 32)]


@pytest.mark.parametrize("is_abstract", [True, False])
def test_an_audit_leaves_no_trace(is_abstract: bool) -> None:
    """No gradient on what only a reentrant checkpoint reaches, no draw, no count, no other buffer."""
    module = torch.nn.Sequential(torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(8, 8)))
    before = {name: t.clone() for name, t in module.state_dict().items()}
    x, state = torch.ones(2, 8, requires_grad=True), torch.get_rng_state()
    weight = torch.ones(8, 8, requires_grad=True)

    def fn(x: Tensor) -> Tensor:
        y = F.dropout(module(x), 0.5)
        return checkpoint(lambda y: (y @ weight).sin(), y, use_reentrant=True).sum()

    frameworks.load("torch").trace(fn, [x], ["x"], is_abstract=is_abstract)
    assert torch.equal(state, torch.get_rng_state())
    assert (weight.grad, x.grad, *(p.grad for p in module.parameters())) == (None,) * 4
    for name, t in module.state_dict().items():
        assert torch.equal(before[name], t), name


def test_weights_that_are_made_are_no_parameters() -> None:
    """As where `torch.func.functional_call` puts the sum of a weight and its adapter in the place of the weight."""
    linear, low = torch.nn.Linear(8, 8, bias=False), torch.ones(8, 8, requires_grad=True)

    def fn(x: Tensor) -> Tensor:
        return torch.func.functional_call(linear, {"weight": linear.weight + low}, (x.exp(),)).sum()

    for is_abstract in (True, False):
        x = torch.ones(8, requires_grad=True)
        assert frameworks.load("torch").trace(fn, [x], ["x"], is_abstract=is_abstract).new_bytes == 8 * 8 * 4 + 32
        assert type(linear.weight) is torch.nn.Parameter


def test_modules_of_one_class_are_told_apart() -> None:
    first, second = torch.nn.Tanh(), torch.nn.Tanh()
    assert [r.module for r in trace(lambda x: second(first(first(x))).sum()).residuals] == ["Tanh", "Tanh", "Tanh_1"]


def test_an_infinite_exponent() -> None:
    assert [name for name, _, _ in held(lambda x: (x ** float("inf")).sum())] == ["x"]


def test_what_is_raised_is_not_logged_as_well() -> None:
    """PyTorch's own log of a shape that does not fit has a traceback, in front of the one line that says it."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    logger.addHandler(handler)
    try:
        with pytest.raises(RuntimeError, match="same reduction dim"):
            frameworks.load("torch").trace(
                lambda x: x @ x, [torch.ones(4, 8, requires_grad=True)], ["x"], is_abstract=True
            )
    finally:
        logger.removeHandler(handler)
    assert (records, logger.disabled) == ([], False)


def test_what_is_written_over_gives_nothing_any_more() -> None:
    """A residual is derivable from an argument or a buffer only if that is still what it was."""

    def fn(x: Tensor, n: Tensor, then: Any) -> Tensor:
        y = (x * (n * 2)).sum()
        then(n)
        return y

    x, n = torch.ones(8, requires_grad=True), torch.ones(8)
    for then, found in ((lambda n: n.mul(3), ["derivable"]), (lambda n: n.mul_(3), []), (lambda n: n[:1].zero_(), [])):
        assert [f.what for f in audit(fn, x, n, then).findings] == found
        assert [f.what for f in audit(partial(fn, n=n, then=then), x).findings] == found


def test_checkpoints_in_a_checkpoint_read_parameters() -> None:
    """Which no rule has hidden; and two modules with a weight each have two weights."""
    first, second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
    again = partial(checkpoint, use_reentrant=True)

    def fn(x: Tensor) -> Tensor:
        return again(lambda y: again(lambda z: second(first(z)).sin(), y).cos(), x)

    report = audit(fn, torch.ones(8, 8, requires_grad=True))
    names = ["x", "weight", "bias", "Linear_1.weight", "Linear_1.bias"]
    assert [(r.name, r.kind) for r in report.residuals[1:]] == [(name, "parameter") for name in names[1:]]
    assert report.findings == []


def test_what_is_drawn_where_nobody_says_so_is_not_the_same_twice() -> None:
    report = audit(lambda x: F.rrelu(x, training=True) * F.rrelu(x, training=True), torch.ones(8, requires_grad=True))
    assert report.findings == []


def test_a_write_past_autograd_makes_another_value() -> None:
    def fn(x: Tensor) -> Tensor:
        y = x.softmax(0)
        z = y * x
        y.data.mul_(2)
        return (z * y).sum()

    report = audit(fn, torch.ones(8, requires_grad=True))
    assert (report.new_bytes, report.findings) == (64, [])


def test_what_needs_numbers_is_run_with_some() -> None:
    x = torch.ones(8, requires_grad=True)
    with pytest.raises(UsageError, match=r"numpy\(\) is not supported .*; run it with --concrete"):
        audit(lambda x: x * torch.from_numpy(x.detach().numpy()), x)
    with pytest.raises(UsageError, match="SystemExit: 3"):
        audit(lambda _: sys.exit(3), x)


@pytest.mark.parametrize("norm", [torch.nn.LayerNorm(8), torch.nn.GroupNorm(2, 4), torch.nn.BatchNorm1d(4)])
def test_statistics_in_two_precisions(norm: torch.nn.Module) -> None:
    """On fake tensors they are what they are in a run: of the parameters' dtype."""
    x = torch.ones(4, 4, 8, dtype=torch.bfloat16, requires_grad=True)
    shapes = [(r.value.shape, r.value.dtype) for r in audit(norm, x).residuals]
    assert shapes == [(r.value.shape, r.value.dtype) for r in audit(norm, x, is_concrete=True).residuals]


def test_a_view_of_what_is_derivable() -> None:
    """Such as the transposed copy of a weight that autocast makes."""

    def fn(x: Tensor, w: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return F.linear(x, w)

    found = audit(fn, torch.ones(4, 8, requires_grad=True), torch.ones(16, 8, requires_grad=True)).findings
    assert {(f.what, f.nbytes) for f in found} == {("derivable", 2 * (4 * 8 + 16 * 8))}


def test_modules_of_other_classes_are_not_alike() -> None:
    layers = [torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8), torch.nn.Softmax(-1)]
    trace = audit(torch.nn.Sequential(*layers, torch.nn.Linear(8, 8)), torch.ones(4, 8, requires_grad=True)).trace
    (inside,) = tree(trace).branches.values()
    assert {b.title: len(b.paths) for b in inside.branches.values()} == {"Tanh 1": 1, "Softmax 3": 1}
    assert [g.label for g in by(trace, "module")][:2] == ["Sequential/1", "Sequential/3"]
    trace = audit(torch.nn.Sequential(*layers, torch.nn.Tanh()), torch.ones(4, 8, requires_grad=True)).trace
    (inside,) = tree(trace).branches.values()
    assert {b.title: len(b.paths) for b in inside.branches.values()} == {"Tanh *": 2, "Softmax 3": 1}
    assert {"Sequential/Tanh *", "Sequential/3"} <= {g.label for g in by(trace, "module")}


def test_where_a_backward_is_though_no_line_of_the_users_is() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.Linear(8, 8))
    found = audit(model, torch.ones(4, 8, requires_grad=True)).trace
    assert {step.module for step in found.steps[found.boundary :]} == {f"Sequential/{i}" for i in range(3)}


DTYPES = sorted({a for a in vars(torch).values() if isinstance(a, torch.dtype)}, key=str)


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if ".q" not in str(dtype)], ids=str)  # not quantized ones
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_the_bytes_of_every_dtype(dtype: torch.dtype) -> None:
    """Not the digits of its name: a tensor of int4 has a byte for each element, one of float4_e2m1fn_x2 for two."""
    x, a = torch.ones(2, requires_grad=True), torch.empty(8, dtype=dtype)
    found = frameworks.load("torch").trace(lambda x, _: x.sum(), [x, a], ["x", "a"])
    (value,) = (v for v in found.values.values() if v.shape == (8,))
    assert (value.nbytes, str(value)) == (a.nbytes, f"{str(dtype).removeprefix('torch.')}[8]")


def test_a_rule_within_a_checkpoint_keeps_nothing() -> None:
    """Not even what its forward looks at through a view."""

    class Rule(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(q: Tensor, k: Tensor) -> Tensor:
            return q @ k.mT

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
            q, k = ctx.saved_tensors
            return g @ k, g.mT @ q

    def fn(x: Tensor) -> Tensor:
        return checkpoint(lambda x: Rule.apply(x, x.cos()), x, use_reentrant=False).sum()

    for is_concrete in (True, False):
        assert audit(fn, torch.ones(4, 8, requires_grad=True), is_concrete=is_concrete).new_bytes == 0


def test_an_audit_that_is_the_first_to_import_the_compiler_leaves_it_whole() -> None:
    program = """
import torch
from residuals_lab.audit import audit

def cube(x):
    return (x**3).sum()

x = torch.ones(4, requires_grad=True)
audit(cube, x, is_concrete=True)
assert torch.compile(torch.func.grad(cube), fullgraph=True, backend="eager")(x.detach()).tolist() == [3.0] * 4
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert not done.returncode, done.stderr

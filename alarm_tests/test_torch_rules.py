"""Right rules in PyTorch are left alone: those that its documentation teaches, written anew, and unusual ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from alarms import ALL, passes, right


class Exp(Function):
    """A saved output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return g * y


class Linear(Function):
    """Each gradient only where it is asked for; a bias that may be None."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = x @ weight.mT
        return y if bias is None else y + bias

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dx = dweight = dbias = None
        if ctx.needs_input_grad[0]:
            dx = g.to(weight.dtype) @ weight  # under autocast the two are not alike
        if ctx.needs_input_grad[1]:
            dweight = g.to(x.dtype).flatten(0, -2).mT @ x.flatten(0, -2)
        if ctx.needs_input_grad[2]:
            dbias = g.flatten(0, -2).sum(0)
        return dx, dweight, dbias


class MulConstant(Function):
    @staticmethod
    def forward(x: Tensor, constant: float) -> Tensor:
        return x * constant

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.set_materialize_grads(False)
        ctx.constant = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, None]:
        return (None if g is None else g * ctx.constant), None


class Cube(Function):
    """A saved intermediate, returned so that the second derivative sees it."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return x**3, 3 * x**2

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0], output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor, g_slope: Tensor) -> Tensor:
        x, slope = ctx.saved_tensors
        return g * slope + g_slope * 6 * x


class Sinh(Function):
    """Intermediates as outputs, as the tutorial on double backward has it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        up, down = torch.exp(x), torch.exp(-x)
        ctx.save_for_backward(up, down)
        return (up - down) / 2, up, down

    @staticmethod
    def backward(ctx: Any, g: Tensor, g_up: Tensor, g_down: Tensor) -> Tensor:
        up, down = ctx.saved_tensors
        return g * (up + down) / 2 + g_up * up - g_down * down


class SortThenTake(Function):
    """NumPy inside, an output that has no gradient, and a rule for vmap."""

    @staticmethod
    def forward(x: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
        order = torch.argsort(x.detach(), axis)
        return torch.take_along_dim(x, order, axis), order, torch.argsort(order, axis)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, order, back = output
        ctx.mark_non_differentiable(order, back)
        ctx.save_for_backward(back)
        ctx.axis = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Any) -> tuple[Tensor, None]:
        (back,) = ctx.saved_tensors
        return torch.take_along_dim(g, back, ctx.axis), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, axis: int) -> Any:
        moved = x.movedim(in_dims[0], 0)
        return SortThenTake.apply(moved, axis if axis < 0 else axis + 1), (0, 0, 0)


class ReLUBits(Function):
    """The mask in bits, eight to a byte."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        flat = torch.nn.functional.pad((x > 0).flatten(), (0, -x.numel() % 8)).view(-1, 8)
        ctx.save_for_backward((flat * 2 ** torch.arange(8)).sum(1).to(torch.uint8))
        return x.clamp(min=0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (bits,) = ctx.saved_tensors
        mask = bits[:, None].bitwise_and(2 ** torch.arange(8)).ne(0).flatten()[: g.numel()]
        return g * mask.view(g.shape)


class SiLU(Function):
    """Recomputed on purpose."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return g * s * (1 + x * (1 - s))


class RMSNorm(Function):
    """Statistics in float32 for what is narrower."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        wide = x.float() if x.element_size() < 4 else x
        rstd = torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
        ctx.save_for_backward(x, weight, rstd)
        return (wide * rstd).to(x.dtype) * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, rstd = ctx.saved_tensors
        normed, wide = x.to(rstd.dtype) * rstd, g.to(rstd.dtype)
        scaled = wide * weight.to(rstd.dtype)
        dx = rstd * (scaled - normed * (scaled * normed).mean(-1, keepdim=True))
        return dx.to(x.dtype), (wide * normed).sum_to_size(weight.shape).to(weight.dtype)


class StraightThrough(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class ClippedGradient(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g.clamp(-0.1, 0.1)


class Dropout(Function):
    """The mask drawn once and saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        mask = torch.rand_like(x) < 0.7
        ctx.save_for_backward(mask)
        return x * mask / 0.7

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (mask,) = ctx.saved_tensors
        return g * mask / 0.7


class DropoutBySeed(Function):
    """The state of the generator saved, and put back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.state = torch.get_rng_state()
        return x * (torch.rand(x.shape, dtype=x.dtype) < 0.7) / 0.7

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        with torch.random.fork_rng([]):
            torch.set_rng_state(ctx.state)
            return g * (torch.rand(g.shape, dtype=g.dtype) < 0.7) / 0.7


class AddInPlace(Function):
    """In place, and says so."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.add_(1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class Square(Function):
    """Of complex numbers too."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z * z

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return g * (2 * z).conj()


class FixedPoint(Function):
    """y = cos(x·y), by iteration forwards and by the implicit function theorem backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.ones_like(x)
        for _ in range(100):
            y = torch.cos(0.3 * torch.tanh(x) * y)
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        x, y = ctx.saved_tensors
        a = 0.3 * torch.tanh(x)
        sin = torch.sin(a * y)
        da = -sin * y / (1 + a * sin)
        return g * da * 0.3 / torch.cosh(x) ** 2


class Embedding(Function):
    """Labels among the arguments."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.rows = len(weight)
        return weight[ids]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (ids,) = ctx.saved_tensors
        return g.new_zeros(ctx.rows, g.shape[-1]).index_add(0, ids.flatten(), g.flatten(0, -2)), None


class GradientInForward(Function):
    """A loss whose gradient is made in the forward, as fused losses do; scaled by the cotangent in a new array."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            given = x.detach().requires_grad_()
            loss = given.logsumexp(-1).mean()
            (d,) = torch.autograd.grad(loss, given)
        ctx.save_for_backward(d)
        return loss.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (d,) = ctx.saved_tensors
        return g * d


class AnyOutput(Function):
    """Cotangents that may be None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        return x.sin(), x.cos()

    @staticmethod
    def backward(ctx: Any, g_sin: Tensor | None, g_cos: Tensor | None) -> Tensor:
        (x,) = ctx.saved_tensors
        dx = torch.zeros_like(x)
        dx = dx if g_sin is None else dx + g_sin * x.cos()
        return dx if g_cos is None else dx - g_cos * x.sin()


class MatmulAMP(Function):
    """Casts by the decorators that autocast has for it."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return g.to(x.dtype) @ weight.mT, x.mT @ g.to(x.dtype)


class Checkpointed(Function):
    """The forward again in the backward, with autograd inside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        with torch.no_grad():
            return torch.tanh(x * y).cumsum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        given = [a.detach().requires_grad_() for a in ctx.saved_tensors]
        with torch.enable_grad():
            out = torch.tanh(given[0] * given[1]).cumsum(-1)
        return torch.autograd.grad(out, given, g)


class MaxPool(Function):
    """Indices as residuals."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y, at = x.max(-1)
        ctx.save_for_backward(at)
        ctx.size = x.shape[-1]
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (at,) = ctx.saved_tensors
        return torch.zeros(*g.shape, ctx.size, dtype=g.dtype).scatter(-1, at[..., None], g[..., None])


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(6, 6)
        self.norm = torch.nn.LayerNorm(6)
        self.drop = torch.nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(SiLU.apply(self.norm(self.linear(x))))


class Both(torch.nn.Module):
    """A module with a rule, a buffer that it writes, and a dictionary as its result."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5, 3.0]))
        self.frozen = torch.nn.Parameter(torch.ones(6), requires_grad=False)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        return {"y": RMSNorm.apply(x, self.scale) * self.frozen, "count": self.calls.long()}


def ste(args: Any, g: Tensor) -> tuple[Tensor]:
    return (g,)


def of(rule: Any, *more: Any) -> Callable[..., Any]:
    return lambda *arrays: rule.apply(*arrays, *more)


RULES = {
    "exp": right(of(Exp)),
    "linear": right(of(Linear), (4, 6), (3, 6), (3,)),
    "linear_no_bias": right(of(Linear, None), (4, 6), (3, 6)),
    "linear_frozen": right(lambda x: Linear.apply(x, torch.ones(3, 6, dtype=x.dtype), None)),
    "mul_constant": right(of(MulConstant, 2.5)),
    "cube": right(lambda x: Cube.apply(x)[0]),
    "sinh": right(lambda x: Sinh.apply(x)[0]),
    "sort": right(lambda x: SortThenTake.apply(x, -1)[0]),
    "relu_bits": right(of(ReLUBits)),
    "silu": right(of(SiLU)),
    "silu_0d": right(of(SiLU), ()),
    "silu_1d": right(of(SiLU), (1,)),
    "silu_reference": right(of(SiLU), reference=torch.nn.functional.silu),
    "rms_norm": right(of(RMSNorm), (4, 6), (6,)),
    "rms_norm_reference": right(
        of(RMSNorm), (4, 6), (6,), reference=lambda x, w: torch.nn.functional.rms_norm(x, (6,), w, 1e-6)
    ),
    "straight_through": right(of(StraightThrough), vjp_reference=ste),
    "clipped_gradient": right(of(ClippedGradient), vjp_reference=lambda args, g: (g.clamp(-0.1, 0.1),)),
    "dropout": right(of(Dropout)),
    "dropout_by_seed": right(of(DropoutBySeed)),
    "in_place": right(lambda x: AddInPlace.apply(x * 2)),
    "square": right(of(Square)),
    "fixed_point": right(of(FixedPoint)),
    "embedding": right(lambda w: Embedding.apply(w, torch.tensor([[0, 2], [2, 1]])), (4, 3)),
    "gradient_in_forward": right(of(GradientInForward)),
    "any_output": right(of(AnyOutput)),
    "one_of_two_outputs": right(lambda x: AnyOutput.apply(x)[1]),
    "matmul_amp": right(of(MatmulAMP), (4, 6), (6, 3)),
    "checkpointed": right(of(Checkpointed), (4, 6), (4, 6)),
    "checkpoint": right(lambda x: checkpoint(torch.tanh, x, use_reentrant=False)),
    "checkpoint_reentrant": right(lambda x: checkpoint(torch.tanh, x, use_reentrant=True)),
    "max_pool": right(of(MaxPool)),
    "complex": right(lambda x, y: Square.apply(torch.complex(x, y)), (5,), (5,)),
    "tree": right(lambda x, y: {"a": [SiLU.apply(x), (y.sin(),)], "n": 3, "b": None}, (4, 6), ()),
    "composed": right(lambda x, w: RMSNorm.apply(SiLU.apply(x), w).sum(-1), (4, 6), (6,)),
    "residual": right(lambda x: x + Exp.apply(x.sin())),
    "tied": right(lambda x: Linear.apply(x, x, None), (5, 5)),
    "module": right(Block()),
    "module_with_rule": right(Both()),
}


@pytest.mark.parametrize("name", RULES)
@ALL
def test_a_right_rule_is_left_alone(name: str, dtype: str, seed: int) -> None:
    passes("torch", RULES[name], dtype, seed)

"""Small programs for PyTorch, as people write them: a list for `run.py`."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call, grad, hessian, jacrev, jvp, vjp, vmap
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from torch_measure import measured_program

SEED, DRAWN = 20261130, 50
ENTRIES: dict[str, tuple[bool, Callable[..., Any], tuple[str, ...]]] = {}  # name → is it made first, what, its inputs


def program(*inputs: str) -> Callable[..., Any]:
    """A function of these inputs, the floating ones of which are differentiated."""

    def listed(fn: Callable[..., Any]) -> Callable[..., Any]:
        ENTRIES[fn.__name__] = False, fn, inputs
        return fn

    return listed


def made(*inputs: str) -> Callable[..., Any]:
    """A function that makes a module, or another function, of these inputs."""

    def listed(fn: Callable[..., Any]) -> Callable[..., Any]:
        ENTRIES[fn.__name__] = True, fn, inputs
        return fn

    return listed


def measure(name: str) -> dict[str, Any]:
    """The bytes of one program, counted and by each audit."""
    return measured_program(*ENTRIES[name])


# Rules of one's own


class Swish(Function):
    @staticmethod
    def forward(ctx, x):
        s = torch.sigmoid(x)
        ctx.save_for_backward(x, s)
        return x * s

    @staticmethod
    def backward(ctx, g):
        x, s = ctx.saved_tensors
        return g * (s + x * s * (1 - s))


@program("f32[8,16]")
def swish_rule(x):
    return Swish.apply(x).sum()


class StraightThrough(Function):
    @staticmethod
    def forward(ctx, x, levels):
        return (x * levels).round() / levels

    @staticmethod
    def backward(ctx, g):
        return g, None


@program("f32[8,16]", "f32[16,4]")
def quantised_linear(x, w):
    return StraightThrough.apply(x, 15) @ StraightThrough.apply(w, 7)


class GradientReversal(Function):
    @staticmethod
    def forward(ctx, x, alpha):
        ctx.alpha = alpha
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return -ctx.alpha * g, None


@made("f32[8,16]")
def gradient_reversal():
    feature, domain = nn.Linear(16, 16), nn.Linear(16, 2)
    return lambda x: domain(GradientReversal.apply(feature(x).relu(), 0.5)).log_softmax(-1)


class ClampedLog(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mask = x > 1e-6
        ctx.shape = x.shape
        ctx.save_for_backward(x)
        return x.clamp_min(1e-6).log()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return torch.where(ctx.mask, g / x, torch.zeros_like(g)).reshape(ctx.shape)


@program("f32[8,16]")
def mask_on_the_context(x):
    return ClampedLog.apply(x.abs()).mean()


class TwoOutputs(Function):
    @staticmethod
    def forward(ctx, x):
        values, indices = x.max(dim=-1)
        ctx.save_for_backward(indices)
        ctx.mark_non_differentiable(indices)
        ctx.size = x.shape
        return values, indices

    @staticmethod
    def backward(ctx, g, _):
        (indices,) = ctx.saved_tensors
        return torch.zeros(ctx.size).scatter(-1, indices[..., None], g[..., None])


@program("f32[8,16]")
def max_with_its_place(x):
    values, places = TwoOutputs.apply(x * 2)
    return values.exp(), places


class InPlaceScale(Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        ctx.mark_dirty(x)
        return x.mul_(factor)

    @staticmethod
    def backward(ctx, g):
        return g * ctx.factor, None


@program("f32[8,16]")
def rule_in_place(x):
    y = x.tanh() + 0
    return InPlaceScale.apply(y, 3.0).sin()


class Cube(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**3, x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, g, _):
        (square,) = ctx.saved_tensors
        return 3 * square * g


@program("f32[8,16]")
def cube_under_vmap(x):
    return vmap(lambda row: Cube.apply(row)[0].sum())(x)


class Recompute(Function):
    @staticmethod
    def forward(ctx, fn, x, w):
        ctx.fn = fn
        ctx.save_for_backward(x, w)
        with torch.no_grad():
            return fn(x, w)

    @staticmethod
    def backward(ctx, g):
        with torch.enable_grad():
            x, w = (t.detach().requires_grad_() for t in ctx.saved_tensors)
            y = ctx.fn(x, w)
        return None, *torch.autograd.grad(y, (x, w), g)


@program("f32[8,16]", "f32[16,16]")
def hand_made_checkpoint(x, w):
    def block(x, w):
        return F.gelu(x @ w) @ w

    return Recompute.apply(block, Recompute.apply(block, x, w), w)


class Offloaded(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.half = x.to(torch.bfloat16)
        return x.square()

    @staticmethod
    def backward(ctx, g):
        return 2 * g * ctx.half.to(g.dtype)


@program("f32[8,16]")
def compressed_residual(x):
    return Offloaded.apply(x.exp()).sum()


# Checkpoints


@made("f32[4,16]")
def checkpointed_stack():
    layers = nn.ModuleList(nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)) for _ in range(3))

    def run(x):
        for layer in layers:
            x = x + checkpoint(layer, x, use_reentrant=False)
        return x

    return run


@made("f32[4,16]")
def reentrant_stack():
    layers = nn.ModuleList(nn.Sequential(nn.Linear(16, 32), nn.Dropout(0.1), nn.Linear(32, 16)) for _ in range(3))

    def run(x):
        for layer in layers:
            x = checkpoint(layer, x, use_reentrant=True)
        return x

    return run


@made("f32[4,16]")
def checkpoint_in_checkpoint():
    inner, outer = nn.Linear(16, 16), nn.Linear(16, 16)

    def block(x):
        return outer(checkpoint(lambda y: inner(y).tanh(), x.sin(), use_reentrant=False)).cos()

    return lambda x: checkpoint(block, x, use_reentrant=False).exp()


@made("f32[4,16]")
def sequential_in_segments():
    model = nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.SiLU()) for _ in range(4)))
    return lambda x: checkpoint_sequential(model, 2, x, use_reentrant=False)


@made("f32[4,16]", "frozen f32[4,16]")
def checkpoint_with_a_mask_closed_over():
    layer = nn.Linear(16, 16)

    def run(x, noise):
        mask = noise > 0
        return checkpoint(lambda y: layer(y).masked_fill(mask, 0.0).softmax(-1), x, use_reentrant=False)

    return run


@program("f32[4,16]", "f32[16,16]")
def selective_checkpoint(x, w):
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    def policy(ctx, op, *args, **kwargs):
        is_product = op == torch.ops.aten.mm.default
        return CheckpointPolicy.MUST_SAVE if is_product else CheckpointPolicy.PREFER_RECOMPUTE

    def block(x):
        return ((x @ w).sigmoid() @ w).sigmoid().sum()

    contexts = partial(create_selective_checkpoint_contexts, policy)
    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


# Hooks


@made("f32[4,16]")
def activations_kept_by_a_hook():
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    kept = {}
    model[1].register_forward_hook(lambda m, i, o: kept.update(relu=o.detach()))
    return model


@made("f32[4,16]")
def hook_that_replaces_the_output():
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
    model[0].register_forward_hook(lambda m, i, o: o * 2)
    model[2].register_forward_pre_hook(lambda m, i: (i[0].clamp(-0.5, 0.5),))
    return model


@program("f32[4,16]", "f32[16,16]")
def gradient_clipped_by_a_hook(x, w):
    h = (x @ w).relu()
    h.register_hook(lambda g: g.clamp(-1, 1) * h.detach().sign())
    return h.square().sum()


@program("f32[4,16]")
def packed_to_half(x):
    def pack(t):
        return t.to(torch.float16) if t.dtype == torch.float32 else t

    def unpack(t):
        return t.to(torch.float32) if t.dtype == torch.float16 else t

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return (x.exp() * x.sin()).sum()


@program("f32[4,16]")
def saved_on_the_cpu(x):
    with torch.autograd.graph.save_on_cpu():
        return (x.exp() * x.sin()).tanh().sum()


# In place, views, indexing


@program("f32[4,16]")
def residual_added_in_place(x):
    h = x.sin()
    h += x
    return h.tanh().mul_(2).sum()


@program("f32[6,8]")
def rows_written_one_by_one(x):
    out = torch.zeros(6, 8)
    for i in range(6):
        out[i] = x[i].cumsum(0) * i
    return out.exp()


@program("f32[4,16]")
def halves_of_a_chunk(x):
    a, b = torch.chunk(x * 1.5, 2, dim=-1)
    return a.tanh() * b.sigmoid()


@program("f32[4,4,8]")
def transposed_and_flattened(x):
    return (x.transpose(1, 2).reshape(4, -1) * x.flatten(1)).square()


@program("f32[4,16]")
def split_and_stacked(x):
    parts = x.exp().split([4, 8, 4], dim=1)
    return torch.stack([p.sum(1) * p.std(1) for p in parts])


@program("f32[20]")
def sliding_windows(x):
    return (x.unfold(0, 5, 2) * torch.hann_window(5)).square().sum(-1).sqrt()


@program("f32[4,6,6]")
def flipped_and_rolled(x):
    return (x.flip(-1) * x.roll(1, dims=-2)).diagonal(dim1=-2, dim2=-1).prod(-1)


@program("f32[4,16]")
def masked_out_in_place(x):
    y = x * 3
    y[y < 0] = 0
    return y.sqrt().sum()


@program("f32[10,4]", "i64[6]<10")
def gathered_rows(table, places):
    return F.normalize(table[places], dim=-1) @ table.t()


@program("f32[6,4]", "i64[6]<3")
def scattered_mean(values, group):
    total = torch.zeros(3, 4).index_add(0, group, values.exp())
    count = torch.zeros(3).index_add(0, group, torch.ones(6))
    return total / count.clamp(min=1)[:, None]


@program("f32[4,9]")
def boolean_selection(x):
    return x[x > 0].log().sum()


@program("f32[8,5]")
def best_of_each_row(x):
    values, places = x.softmax(-1).topk(2, dim=-1)
    return (values * x.gather(-1, places)).sum(-1)


@program("f32[7,5]")
def sorted_and_ranked(x):
    ordered, _ = x.sort(dim=0, descending=True)
    return (ordered.cumsum(0) * torch.arange(1, 8)[:, None]).logsumexp(0)


@program("f32[3,8]")
def expanded_pairs(x):
    return (x[:, None] - x[None]).pow(2).sum(-1).add(1e-6).sqrt()


@program("f32[3,4,5]", "f32[3,5,6]")
def einsum_of_two(a, b):
    return torch.einsum("bij,bjk->bik", a, b).relu() + torch.einsum("bij,bjk->ik", a.sin(), b)


@program("f32[2,4,5]", "f32[5,3,7]", "f32[7]")
def einsum_of_three(x, w, v):
    return torch.einsum("bsd,dhk,k->bsh", x, w, v).tanh()


# Networks of recurrence


@made("f32[5,3,8]")
def gru_of_two_layers():
    return nn.GRU(8, 6, num_layers=2, dropout=0.2)


@made("f32[5,3,8]")
def elman_both_ways():
    rnn = nn.RNN(8, 6, bidirectional=True, nonlinearity="relu")
    return lambda x: rnn(x)[0].mean(0)


@made("f32[3,6,8]", "i64[3]=6")
def packed_sequence():
    rnn, head = nn.GRU(8, 6, batch_first=True), nn.Linear(6, 2)

    def run(x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, [6, 4, 2], batch_first=True)
        out, _ = nn.utils.rnn.pad_packed_sequence(rnn(packed)[0], batch_first=True)
        return head(out[:, -1])

    return run


@made("f32[6,3,8]")
def cell_in_a_loop():
    cell = nn.LSTMCell(8, 6)

    def run(x):
        h, c = torch.zeros(3, 6), torch.zeros(3, 6)
        out = []
        for step in x:
            h, c = cell(step, (h, c))
            out.append(h)
        return torch.stack(out)

    return run


@program("f32[12,4]", "f32[4]")
def linear_recurrence(x, decay):
    a, h, out = torch.sigmoid(decay), torch.zeros(4), []
    for step in x.unbind(0):
        h = a * h + (1 - a) * step
        out.append(h)
    return torch.stack(out).square().mean()


# Transforms, complex numbers, linear algebra


@program("f32[4,32]")
def filtered_in_frequency(x):
    spectrum = torch.fft.rfft(x)
    keep = torch.arange(17) < 5
    return torch.fft.irfft(spectrum * keep, n=32).tanh()


@program("f32[2,64]")
def spectrogram(x):
    stft = torch.stft(x, n_fft=16, hop_length=8, window=torch.hann_window(16), return_complex=True)
    return stft.abs().clamp(min=1e-5).log()


@program("f32[3,16]", "f32[3,16]")
def convolution_by_fft(x, kernel):
    return torch.fft.ifft(torch.fft.fft(x) * torch.fft.fft(kernel)).real


@program("f32[4,8,2]", "frozen f32[8,2]")
def rotary_by_complex(x, angles):
    q = torch.view_as_complex(x)
    turned = q * torch.polar(torch.ones(8), angles[:, 0])
    return torch.view_as_real(turned).flatten(-2)


@program("f32[5,5]", "f32[5,3]")
def solved_system(a, b):
    return torch.linalg.solve(a @ a.T + torch.eye(5), b).square().sum()


@program("f32[3,4,4]")
def cholesky_log_likelihood(a):
    cov = a @ a.mT + 0.1 * torch.eye(4)
    factor = torch.linalg.cholesky(cov)
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + torch.logdet(cov)


@program("f32[6,4]")
def singular_values(a):
    u, s, vh = torch.linalg.svd(a, full_matrices=False)
    return (u * s.relu()) @ vh


@program("f32[4,4]")
def symmetric_eigenvalues(a):
    values, vectors = torch.linalg.eigh(a + a.T)
    return vectors @ torch.diag(values.exp()) @ vectors.T


@program("f32[5,3]")
def orthogonal_by_qr(a):
    q, r = torch.linalg.qr(a)
    return q.sum() + r.diagonal().abs().log().sum()


@program("f32[3,3]")
def matrix_exponential(a):
    return torch.linalg.matrix_exp(a - a.T).trace() + torch.linalg.det(a) + torch.linalg.norm(a)


# Losses, distributions, embeddings


@program("f32[8,5]", "i64[8]<5")
def focal_loss(logits, labels):
    ce = F.cross_entropy(logits, labels, reduction="none")
    return ((1 - torch.exp(-ce)) ** 2 * ce).mean()


@program("f32[6,8]", "f32[6,8]")
def contrastive_loss(a, b):
    logits = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T / 0.07
    labels = torch.arange(6)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


@program("f32[12,2,5]", "i64[2,4]<4")
def ctc(logits, labels):
    return F.ctc_loss(logits.log_softmax(-1), labels + 1, torch.tensor([12, 12]), torch.tensor([4, 3]))


@program("f32[4,8]", "f32[4,8]")
def distillation(student, teacher):
    target = F.softmax(teacher.detach() / 2, dim=-1)
    return F.kl_div(F.log_softmax(student / 2, dim=-1), target, reduction="batchmean") + F.huber_loss(student, teacher)


@program("f32[4,6]", "f32[4,6]")
def variational_sample(mean, log_variance):
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    prior = torch.distributions.Normal(torch.zeros(4, 6), torch.ones(4, 6))
    return torch.distributions.kl_divergence(q, prior).sum() - q.rsample().square().sum()


@program("f32[5,3]")
def policy_gradient(logits):
    policy = torch.distributions.Categorical(logits=logits)
    action = policy.sample()
    return -(policy.log_prob(action) * 0.7).mean() - 0.01 * policy.entropy().mean()


@program("f32[4,3]")
def beta_and_gamma(x):
    a, b = F.softplus(x[..., 0]), F.softplus(x[..., 1])
    return torch.distributions.Beta(a, b).rsample() + torch.distributions.Gamma(a, b).rsample()


@program("f32[4,6]")
def gumbel(x):
    return F.gumbel_softmax(x, tau=0.5, hard=True).cumsum(-1)


@made("i64[4,6]<20")
def tied_embedding():
    table, mix = nn.Embedding(20, 8, padding_idx=0), nn.Linear(8, 8)
    return lambda ids: mix(table(ids)).relu() @ table.weight.t()


@made("i64[4,6]<20")
def bags_of_words():
    bag, head = nn.EmbeddingBag(20, 8, mode="mean"), nn.Linear(8, 3)
    return lambda ids: head(bag(ids)).sigmoid()


@made("i64[4,6]<20")
def embedding_with_sparse_gradient():
    table = nn.Embedding(20, 8, sparse=True)
    return lambda ids: table(ids).mean(1).square().sum()


# Weights that are made of others, buffers


@made("f32[4,8]")
def weight_normed():
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 8)), nn.ELU(), nn.Linear(8, 2))


@made("f32[2,3,8,8]")
def spectral_normed():
    return nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), nn.LeakyReLU(0.2), nn.Flatten())


@made("f32[4,6]")
def orthogonal_weight():
    return parametrizations.orthogonal(nn.Linear(6, 6, bias=False))


class Symmetric(nn.Module):
    def forward(self, w):
        return w.triu() + w.triu(1).mT


@made("f32[4,6]")
def symmetric_weight():
    layer = nn.Linear(6, 6)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return lambda x: layer(layer(x).sin())


@made("f32[4,6]")
def cached_parametrization():
    layer = nn.Linear(6, 6)
    parametrize.register_parametrization(layer, "weight", Symmetric())

    def run(x):
        with parametrize.cached():
            return layer(layer(x).sin())

    return run


class MovingAverage(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x):
        with torch.no_grad():
            self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return (x - self.mean) * self.scale


@made("f32[4,8]")
def buffer_written_each_time():
    return nn.Sequential(MovingAverage(), nn.Softplus())


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        at = torch.arange(10)[:, None] * torch.exp(torch.arange(0, 8, 2) * (-math.log(10000.0) / 8))
        self.register_buffer("table", torch.cat([at.sin(), at.cos()], -1), persistent=False)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        return self.drop(x * math.sqrt(8) + self.table[: x.shape[1]])


@made("f32[2,6,8]")
def positions_and_attention():
    return nn.Sequential(Positions(), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))


@made("f32[2,5,8]", "f32[2,6,8]")
def transformer_with_a_mask():
    model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True, norm_first=True)
    return lambda x, y: model(x, y, tgt_mask=nn.Transformer.generate_square_subsequent_mask(6))


@made("f32[2,5,8]")
def attention_with_its_weights():
    attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
    return lambda x: attention(x, x, x, need_weights=True)


@made("f32[2,4,8,8]")
def convolutions():
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.GroupNorm(2, 8), nn.Hardswish(), nn.MaxPool2d(2),
        nn.ConvTranspose2d(8, 4, 2, stride=2), nn.InstanceNorm2d(4, affine=True), nn.PReLU(), nn.Dropout2d(0.2),
        nn.AdaptiveAvgPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Flatten(),
    )  # fmt: skip


@program("f32[2,3,8,8]", "frozen f32[2,5,5,2]")
def sampled_on_a_grid(image, grid):
    return F.grid_sample(image, grid.tanh(), align_corners=False).relu()


@program("f32[2,4,6,6]")
def unfolded_patches(x):
    patches = F.unfold(x, 3, padding=1).softmax(1)
    return F.fold(patches, (6, 6), 3, padding=1) * F.pad(x, (0, 0, 0, 0), mode="constant")


@program("f32[2,4,6,6]")
def pixel_shuffled(x):
    y = F.interpolate(F.pixel_shuffle(x, 2), scale_factor=0.5, mode="nearest")
    return F.local_response_norm(y, 1) + F.avg_pool2d(x[:, :1].sin(), 3, 1, 1)


# Functions of functions


@made("f32[8,3]", "frozen f32[8,1]")
def per_sample_gradients():
    model = nn.Linear(3, 1)
    parameters = dict(model.named_parameters())

    def run(x, y):
        def loss(p, x, y):
            return (functional_call(model, p, (x,)) - y).square().mean()

        grads = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
        return sum(g.square().sum() for g in grads.values())

    return run


@program("f32[4]")
def hessian_inside(x):
    return hessian(lambda y: (y.sin() * y.prod()).sum())(x).square().sum()


@program("f32[4]", "f32[4,4]")
def jacobian_inside(x, w):
    return jacrev(lambda y: (w @ y).tanh())(x).logdet()


@program("f32[5]", "f32[5]")
def jvp_inside(x, v):
    out, tangent = jvp(lambda y: y.exp() * y, (x,), (v,))
    return out + tangent


@program("f32[5]", "f32[5]")
def vjp_inside(x, g):
    out, pull = vjp(lambda y: y.sigmoid() ** 2, x)
    return out * pull(g)[0]


@made("f32[6,4]")
def gradient_penalty():
    critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def run(x):
        (d,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        return ((d.norm(dim=1) - 1) ** 2).mean()

    return run


@made("frozen f32[6,4]", "frozen f32[6,1]")
def inner_step_of_maml():
    w = nn.Parameter(torch.randn(4, 1))

    def run(x, y):
        inner = w
        for _ in range(2):
            loss = ((x @ inner).tanh() - y).square().mean()
            (d,) = torch.autograd.grad(loss, inner, create_graph=True)
            inner = inner - 0.1 * d
        return (x @ inner - y).abs().mean()

    return run


@program("f32[7,4]", "f32[4]")
def nested_closures(x, w):
    def outer(scale):
        def inner(row):
            return (row * w).sum().exp() * scale

        return inner

    return torch.stack([outer(i + 1.0)(row) for i, row in enumerate(x)])


# Other tensors, other dtypes


class Tagged(Tensor):
    pass


@program("f32[4,8]")
def subclass_of_a_tensor(x):
    y = x.as_subclass(Tagged)
    return (y.exp() * y).as_subclass(Tensor).sum()


class Pair(NamedTuple):
    mean: Tensor
    spread: Tensor


@program("f32[4,8]")
def named_tuple_of_results(x):
    return Pair(x.mean(0).exp(), x.std(0).log())


@program("f32[4,8]", "f32[8,8]")
def mixed_precision_by_hand(x, w):
    h = (x.to(torch.bfloat16) @ w.to(torch.bfloat16)).float()
    return F.rms_norm(h, (8,)).softmax(-1).to(torch.float16).float().sum()


@program("f32[4,8]", "f32[8,8]")
def autocast_with_an_island(x, w):
    with torch.autocast("cpu", torch.bfloat16):
        h = F.layer_norm(x @ w, (8,))
        with torch.autocast("cpu", enabled=False):
            h = h.float().exp()
        return (h @ w).relu()


@program("f64[4,8]", "f64[8]")
def double_precision(x, w):
    return torch.where(x > 0, x * w, torch.expm1(x)).logcumsumexp(-1)


@made("frozen f32[6,6]", "f32[6,3]")
def sparse_adjacency():
    def run(a, x):
        adjacency = (a > 0.3).float().to_sparse()
        return torch.sparse.mm(adjacency, x).relu()

    return run


@program("f32[9,4]", "f32[4,4]")
def no_grad_in_the_middle(x, w):
    with torch.no_grad():
        centre = (x @ w).mean(0).softmax(-1)
    return ((x - centre) @ w).square().sum(-1).sqrt()


@program("f32[6,4]")
def detached_target(x):
    momentum = x.detach().clone()
    for _ in range(3):
        momentum = 0.9 * momentum + 0.1 * x.detach()
    return F.smooth_l1_loss(x.tanh(), momentum.tanh())


@program("f32[6,4]")
def fixed_point(x):
    z = torch.zeros_like(x)
    with torch.no_grad():
        for _ in range(5):
            z = torch.tanh(0.5 * z + x)
    return torch.tanh(0.5 * z + x)


@program("f32[8,8]")
def early_exit(x):
    for _ in range(4):
        x = x @ x.tanh()
        if x.norm() > 1e3:
            x = x / x.norm()
    return x


@program("f32[4,8]")
def dropouts_of_all_kinds(x):
    h = F.dropout(x, 0.3)
    h = F.alpha_dropout(F.selu(h), 0.1)
    h = F.feature_alpha_dropout(h, 0.1)
    return F.dropout(h, 0.0) * F.dropout(h, 0.5, training=False)

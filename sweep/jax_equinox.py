"""Models and losses in Equinox, as its users write them: filtered, vmapped over a batch, stateful."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jax_linen import KEY, Program, tokens


class Block(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    norms: tuple[eqx.nn.LayerNorm, eqx.nn.LayerNorm]
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __init__(self, width, heads, key):
        a, b, c = jr.split(key, 3)
        self.attention = eqx.nn.MultiheadAttention(heads, width, dropout_p=0.1, key=a)
        self.norms = eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)
        self.up, self.down = eqx.nn.Linear(width, 4 * width, key=b), eqx.nn.Linear(4 * width, width, key=c)
        self.dropout = eqx.nn.Dropout(0.1)

    def __call__(self, x, key):
        a, b = jr.split(key)
        h = jax.vmap(self.norms[0])(x)
        mask = jnp.tril(jnp.ones((len(x), len(x)), bool))
        x = x + self.attention(h, h, h, mask=mask, key=a)
        h = jax.vmap(lambda row: self.down(jax.nn.gelu(self.up(self.norms[1](row)))))(x)
        return x + self.dropout(h, key=b)


class GPT(eqx.Module):
    embedding: eqx.nn.Embedding
    positions: jax.Array
    blocks: list[Block]
    norm: eqx.nn.LayerNorm

    def __init__(self, key):
        a, b, *keys = jr.split(key, 4)
        self.embedding, self.positions = eqx.nn.Embedding(50, 16, key=a), 0.02 * jr.normal(b, (12, 16))
        self.blocks, self.norm = [Block(16, 2, k) for k in keys], eqx.nn.LayerNorm(16)

    def __call__(self, ids, key):
        x = jax.vmap(self.embedding)(ids) + self.positions
        for block, k in zip(self.blocks, jr.split(key, len(self.blocks)), strict=True):
            x = block(x, k)
        return jax.vmap(self.norm)(x) @ self.embedding.weight.T


def gpt() -> Program:
    model = GPT(KEY)

    def loss_fn(model, ids, key):
        logits = jax.vmap(model)(ids, jr.split(key, len(ids)))
        return optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], ids[:, 1:]).mean()

    return loss_fn, (model, tokens(), KEY), "parameter frozen frozen"


class CNN(eqx.Module):
    layers: list

    def __init__(self, key):
        a, b, c = jr.split(key, 3)
        self.layers = [
            eqx.nn.Conv2d(1, 3, kernel_size=4, key=a),
            eqx.nn.MaxPool2d(kernel_size=2),
            jax.nn.relu,
            jnp.ravel,
            eqx.nn.Linear(3 * 12 * 12, 16, key=b),
            jax.nn.sigmoid,
            eqx.nn.Linear(16, 10, key=c),
            jax.nn.log_softmax,
        ]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def digits_cnn() -> Program:
    params, static = eqx.partition(CNN(KEY), eqx.is_array)
    x, y = jr.normal(KEY, (4, 1, 16, 16)), jnp.arange(4)

    def loss(params, x, y):
        pred_y = jax.vmap(eqx.combine(params, static))(x)
        pred_y = jnp.take_along_axis(pred_y, jnp.expand_dims(y, 1), axis=1)
        return -jnp.mean(pred_y)

    return loss, (params, x, y), "parameter frozen frozen"


class RNN(eqx.Module):
    cell: eqx.nn.GRUCell
    linear: eqx.nn.Linear
    bias: jax.Array

    def __init__(self, key):
        a, b = jr.split(key)
        self.cell, self.linear = eqx.nn.GRUCell(2, 8, key=a), eqx.nn.Linear(8, 1, use_bias=False, key=b)
        self.bias = jnp.zeros(1)

    def __call__(self, inputs):
        def f(carry, x):
            return self.cell(x, carry), None

        out, _ = jax.lax.scan(f, jnp.zeros((8,)), inputs)
        return jax.nn.sigmoid(self.linear(out) + self.bias)


def spirals() -> Program:
    model, x, y = RNN(KEY), jr.normal(KEY, (6, 15, 2)), jnp.array([0.0, 1, 1, 0, 1, 0])

    def compute_loss(model, x, y):
        pred_y = jax.vmap(model)(x)[:, 0]
        return -jnp.mean(y * jnp.log(pred_y) + (1 - y) * jnp.log(1 - pred_y))

    return compute_loss, (model, x, y), "parameter frozen frozen"


def neural_ode() -> Program:
    field = eqx.nn.MLP(3, 2, 16, 2, activation=jax.nn.softplus, final_activation=jnp.tanh, key=KEY)
    ts, y0 = jnp.linspace(0.0, 1.0, 9), jr.normal(KEY, (5, 2))

    def solve(field, y0):
        def f(t, y):
            return field(jnp.append(y, t))

        def step(y, interval):
            t0, t1 = interval
            h = t1 - t0
            k1 = f(t0, y)
            k2 = f(t0 + h / 2, y + h / 2 * k1)
            k3 = f(t0 + h / 2, y + h / 2 * k2)
            k4 = f(t1, y + h * k3)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            return y, y

        _, ys = jax.lax.scan(step, y0, (ts[:-1], ts[1:]))
        return jnp.concatenate([y0[None], ys])

    def loss(field, y0, target):
        return jnp.mean((jax.vmap(solve, in_axes=(None, 0))(field, y0) - target) ** 2)

    return loss, (field, y0, jnp.ones((5, 9, 2))), "parameter frozen frozen"


class Coupling(eqx.Module):
    net: eqx.nn.MLP
    flip: bool = eqx.field(static=True)

    def __call__(self, x):
        a, b = jnp.split(x, 2)
        a, b = (b, a) if self.flip else (a, b)
        shift, log_scale = jnp.split(self.net(a), 2)
        log_scale = jnp.tanh(log_scale)
        b = b * jnp.exp(log_scale) + shift
        return jnp.concatenate([b, a] if self.flip else [a, b]), log_scale.sum()


def real_nvp() -> Program:
    keys = jr.split(KEY, 4)
    flow = [Coupling(eqx.nn.MLP(2, 4, 12, 2, key=k), bool(i % 2)) for i, k in enumerate(keys)]

    def log_prob(flow, x):
        total = 0.0
        for layer in flow:
            x, log_det = layer(x)
            total += log_det
        return total + jax.scipy.stats.norm.logpdf(x).sum()

    def nll(flow, x):
        return -jnp.mean(jax.vmap(log_prob, in_axes=(None, 0))(flow, x))

    return nll, (flow, jr.normal(KEY, (10, 4))), "parameter frozen"


class Normed(eqx.Module):
    first: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    second: eqx.nn.Linear

    def __init__(self, key):
        a, b = jr.split(key)
        self.first, self.second = eqx.nn.Conv2d(3, 4, 3, stride=2, key=a), eqx.nn.Linear(4, 5, key=b)
        self.norm = eqx.nn.BatchNorm(input_size=4, axis_name="batch", mode="batch")

    def __call__(self, x, state):
        x, state = self.norm(self.first(x), state)
        return self.second(jax.nn.relu(x).mean((1, 2))), state


def stateful_batch_norm() -> Program:
    model, state = eqx.nn.make_with_state(Normed)(KEY)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    x, y = jr.normal(KEY, (4, 3, 8, 8)), jnp.arange(4)

    def compute_loss(params, state, xs, ys):
        model = eqx.combine(params, static)
        batched = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        pred, state = batched(xs, state)
        return optax.softmax_cross_entropy(pred, jax.nn.one_hot(ys, 5)).mean(), state

    return compute_loss, (params, state, x, y), "parameter frozen frozen frozen"


class MixerBlock(eqx.Module):
    patch: eqx.nn.MLP
    hidden: eqx.nn.MLP
    norm1: eqx.nn.LayerNorm
    norm2: eqx.nn.LayerNorm

    def __init__(self, patches, hidden, key):
        a, b = jr.split(key)
        self.patch = eqx.nn.MLP(patches, patches, 12, depth=1, key=a)
        self.hidden = eqx.nn.MLP(hidden, hidden, 12, depth=1, key=b)
        self.norm1, self.norm2 = eqx.nn.LayerNorm((hidden, patches)), eqx.nn.LayerNorm((patches, hidden))

    def __call__(self, y):
        y = y + jax.vmap(self.patch)(self.norm1(y))
        y = y.T
        y = y + jax.vmap(self.hidden)(self.norm2(y))
        return y.T


class Score(eqx.Module):
    conv_in: eqx.nn.Conv2d
    conv_out: eqx.nn.ConvTranspose2d
    blocks: list[MixerBlock]

    def __init__(self, key):
        a, b, *keys = jr.split(key, 4)
        self.conv_in = eqx.nn.Conv2d(2, 8, 4, stride=4, key=a)
        self.conv_out = eqx.nn.ConvTranspose2d(8, 1, 4, stride=4, key=b)
        self.blocks = [MixerBlock(4, 8, k) for k in keys]

    def __call__(self, t, y):
        y = jnp.concatenate([y, jnp.full((1, 8, 8), t / 10.0)])
        y = self.conv_in(y)
        y = y.reshape(8, 4)
        for block in self.blocks:
            y = block(y)
        return self.conv_out(y.reshape(8, 2, 2))


def score_based_diffusion() -> Program:
    model, data = Score(KEY), jr.normal(KEY, (3, 1, 8, 8))

    def single(model, data, t, key):
        mean = data * jnp.exp(-0.5 * t)
        std = jnp.sqrt(jnp.maximum(1 - jnp.exp(-t), 1e-5))
        noise = jr.normal(key, data.shape)
        pred = model(t, mean + std * noise)
        return (1 - jnp.exp(-t)) * jnp.mean((pred + noise / std) ** 2)

    def batch_loss(model, data, key):
        tkey, losskey = jr.split(key)
        t = jr.uniform(tkey, (3,), minval=0, maxval=10 / 3) + (10 / 3) * jnp.arange(3)
        return jnp.mean(jax.vmap(single, in_axes=(None, 0, 0, 0))(model, data, t, jr.split(losskey, 3)))

    return batch_loss, (model, data, KEY), "parameter frozen frozen"


def gradient_penalty() -> Program:
    critic = eqx.nn.MLP(4, "scalar", 16, 2, activation=jax.nn.silu, key=KEY)
    real, fake = jr.normal(KEY, (6, 4)), jr.normal(jr.key(5), (6, 4))

    def critic_loss(critic, real, fake, key):
        alpha = jr.uniform(key, (real.shape[0], 1))
        between = alpha * real + (1 - alpha) * fake
        norms = jax.vmap(lambda x: jnp.linalg.norm(jax.grad(critic)(x)))(between)
        penalty = jnp.mean((norms - 1.0) ** 2)
        return jax.vmap(critic)(fake).mean() - jax.vmap(critic)(real).mean() + 10.0 * penalty

    return critic_loss, (critic, real, fake, KEY), "parameter frozen frozen frozen"


def filter_checkpointed() -> Program:
    layers = [eqx.nn.Linear(12, 12, key=k) for k in jr.split(KEY, 3)]
    norm = eqx.nn.RMSNorm(12)

    def loss(model, x):
        layers, norm = model

        @eqx.filter_checkpoint
        def block(layer, norm, h):
            return h + jax.nn.swish(jax.vmap(layer)(jax.vmap(norm)(h)))

        for layer in layers:
            x = block(layer, norm, x)
        return jnp.sum(jnp.abs(x) ** 1.5)

    return loss, ((layers, norm), jr.normal(KEY, (7, 12))), "parameter input"


def hypernetwork() -> Program:
    hyper = eqx.nn.MLP(3, 2 * 8 + 8 + 8 + 1, 16, 1, activation=jnp.sin, key=KEY)

    def functional(code, weights, x):
        w1, b1, w2, b2 = jnp.split(weights, [16, 24, 32])
        return jnp.dot(w2, jnp.sin(30.0 * (w1.reshape(8, 2) @ x + b1))) + b2[0]

    def loss(hyper, codes, xs, ys):
        def one(code, x, y):
            weights = hyper(code)
            return (jax.vmap(lambda p: functional(code, weights, p))(x) - y) ** 2

        return jax.vmap(one)(codes, xs, ys).mean()

    arrays = jr.normal(KEY, (4, 3)), jr.normal(KEY, (4, 10, 2)), jr.normal(KEY, (4, 10))
    return loss, (hyper, *arrays), "parameter input frozen frozen"


class DeepSet(eqx.Module):
    phi: eqx.nn.MLP
    rho: eqx.nn.MLP
    attention: jax.Array

    def __call__(self, points, mask):
        h = jax.vmap(self.phi)(points)
        scores = jnp.where(mask, h @ self.attention, -jnp.inf)
        pooled = jax.nn.softmax(scores) @ h
        largest = jnp.max(jnp.where(mask[:, None], h, -1e9), axis=0)
        return self.rho(jnp.concatenate([pooled, largest, jnp.sum(h * mask[:, None], axis=0)]))


def deep_sets() -> Program:
    a, b, c = jr.split(KEY, 3)
    model = DeepSet(
        eqx.nn.MLP(3, 8, 16, 1, activation=jax.nn.elu, key=a), eqx.nn.MLP(24, 1, 16, 1, key=b), jr.normal(c, (8,))
    )
    points, mask = jr.normal(KEY, (4, 9, 3)), jnp.arange(9) < jnp.array([[9], [5], [3], [8]])

    def loss(model, points, mask, y):
        return jnp.mean(jnp.abs(jax.vmap(model)(points, mask)[:, 0] - y))

    return loss, (model, points, mask, jnp.arange(4.0)), "parameter frozen frozen frozen"


class LRU(eqx.Module):
    nu: jax.Array
    theta: jax.Array
    b: jax.Array
    c: jax.Array
    d: jax.Array
    gamma: jax.Array

    def __call__(self, u):
        lam = jnp.exp(-jnp.exp(self.nu) + 1j * jnp.exp(self.theta))
        b = (self.b[0] + 1j * self.b[1]) * jnp.exp(self.gamma)[:, None]
        elements = jnp.repeat(lam[None], len(u), axis=0), jax.vmap(lambda x: b @ x)(u)
        combine = lambda p, q: (q[0] * p[0], q[0] * p[1] + q[1])  # noqa: E731
        _, states = jax.lax.associative_scan(combine, elements)
        c = self.c[0] + 1j * self.c[1]
        return jax.vmap(lambda h, x: (c @ h).real + self.d * x)(states, u)


def linear_recurrent_unit() -> Program:
    shapes = {"nu": (6,), "theta": (6,), "b": (2, 6, 4), "c": (2, 4, 6), "d": (4,), "gamma": (6,)}
    keys = jr.split(KEY, len(shapes))
    model = LRU(**{name: 0.3 * jr.normal(k, shape) for k, (name, shape) in zip(keys, shapes.items(), strict=True)})

    def loss(model, u, y):
        out = jax.vmap(lambda s: jax.nn.gelu(model(s)) + s)(u)
        return jnp.mean((out - y) ** 2)

    return loss, (model, jr.normal(KEY, (3, 11, 4)), jnp.ones((3, 11, 4))), "parameter input frozen"


def dropout_mlp() -> Program:
    a, b, c = jr.split(KEY, 3)
    model = eqx.nn.Sequential(
        [
            eqx.nn.Linear(10, 24, key=a),
            eqx.nn.Lambda(jax.nn.leaky_relu),
            eqx.nn.Dropout(0.3),
            eqx.nn.LayerNorm(24),
            eqx.nn.Linear(24, 24, key=b),
            eqx.nn.Lambda(eqx.nn.PReLU()),
            eqx.nn.Dropout(0.3),
            eqx.nn.Linear(24, 1, key=c),
        ]
    )
    params, static = eqx.partition(model, eqx.is_inexact_array)
    x, y = jr.normal(KEY, (6, 10)), jnp.linspace(-1.0, 1.0, 6)

    def loss(params, x, y, key):
        model = eqx.combine(params, static)
        pred = jax.vmap(lambda x, k: model(x, key=k))(x, jr.split(key, len(x)))[:, 0]
        return jnp.mean(optax.losses.log_cosh(pred, y))

    return loss, (params, x, y, KEY), "parameter frozen frozen frozen"

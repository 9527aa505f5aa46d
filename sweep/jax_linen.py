"""Models and losses in Flax's linen, as its users write them: each gives a function, its arguments and their roles."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

Program = tuple[Callable[..., Any], tuple[Any, ...], str]
KEY = jax.random.key(0)


def images(n: int = 2, size: int = 16, channels: int = 3) -> jax.Array:
    return jax.random.normal(jax.random.key(1), (n, size, size, channels))


def tokens(n: int = 2, length: int = 12, vocabulary: int = 50) -> jax.Array:
    return jax.random.randint(jax.random.key(2), (n, length), 0, vocabulary)


class Encoder(nn.Module):
    heads: int = 2

    @nn.compact
    def __call__(self, x, *, train: bool):
        h = nn.LayerNorm()(x)
        h = nn.MultiHeadDotProductAttention(self.heads, dropout_rate=0.1, deterministic=not train)(h)
        x = x + nn.Dropout(0.1, deterministic=not train)(h)
        h = nn.LayerNorm()(x)
        h = nn.Dense(4 * x.shape[-1])(h)
        h = nn.gelu(h)
        h = nn.Dropout(0.1, deterministic=not train)(h)
        return x + nn.Dense(x.shape[-1])(h)


class ViT(nn.Module):
    width: int = 16
    depth: int = 2

    @nn.compact
    def __call__(self, x, *, train: bool):
        n = x.shape[0]
        x = nn.Conv(self.width, (4, 4), strides=(4, 4), padding="VALID")(x).reshape(n, -1, self.width)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, self.width))
        x = jnp.concatenate([jnp.tile(cls, (n, 1, 1)), x], axis=1)
        x = x + self.param("pos", nn.initializers.normal(0.02), (1, x.shape[1], self.width))
        for _ in range(self.depth):
            x = Encoder()(x, train=train)
        return nn.Dense(10)(nn.LayerNorm()(x)[:, 0])


def vit() -> Program:
    model, x, y = ViT(), images(), jnp.array([3, 7])
    params = model.init(KEY, x, train=False)

    def loss_fn(params, key, x, y):
        logits = model.apply(params, x, train=True, rngs={"dropout": key})
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return loss_fn, (params, KEY, x, y), "parameter frozen frozen frozen"


class ResNetBlock(nn.Module):
    filters: int
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x, train: bool):
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        y = nn.relu(norm()(nn.Conv(self.filters, (3, 3), self.strides, use_bias=False)(x)))
        y = norm(scale_init=nn.initializers.zeros)(nn.Conv(self.filters, (3, 3), use_bias=False)(y))
        if x.shape != y.shape:
            x = norm()(nn.Conv(self.filters, (1, 1), self.strides, use_bias=False)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = True):
        x = nn.Conv(8, (7, 7), (2, 2), padding=[(3, 3), (3, 3)], use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for i in range(2):
            x = ResNetBlock(8 * 2**i, (2, 2) if i else (1, 1))(x, train)
        return nn.Dense(10)(jnp.mean(x, axis=(1, 2)))


def resnet_batch_norm() -> Program:
    model, x, y = ResNet(), images(4), jnp.array([3, 7, 0, 1])
    variables = model.init(KEY, x)

    def loss_fn(params, batch_stats, x, y):
        logits, new = model.apply({"params": params, "batch_stats": batch_stats}, x, mutable=["batch_stats"])
        loss = optax.softmax_cross_entropy(logits, jax.nn.one_hot(y, 10)).mean()
        decay = 1e-4 * sum(jnp.sum(p**2) for p in jax.tree.leaves(params) if p.ndim > 1)
        return loss + decay, (new["batch_stats"], logits)

    return loss_fn, (variables["params"], variables["batch_stats"], x, y), "parameter frozen frozen frozen"


class Tagger(nn.Module):
    @nn.compact
    def __call__(self, ids, lengths):
        x = nn.Embed(50, 8)(ids)
        x = nn.RNN(nn.LSTMCell(12))(x, seq_lengths=lengths)
        return nn.Dense(5)(x)


def lstm_tagger() -> Program:
    model, ids, lengths = Tagger(), tokens(), jnp.array([12, 7])
    params = model.init(KEY, ids, lengths)

    def loss_fn(params, ids, lengths, tags):
        logits = model.apply(params, ids, lengths)
        mask = jnp.arange(ids.shape[1]) < lengths[:, None]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tags)
        return jnp.sum(losses * mask) / jnp.sum(mask)

    return loss_fn, (params, ids, lengths, ids % 5), "parameter frozen frozen frozen"


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x, t):
        emb = nn.silu(nn.Dense(16)(sinusoidal(t, 16)))
        skips = []
        x = nn.Conv(8, (3, 3))(x)
        for features in (8, 16):
            x = Residual(features)(x, emb)
            skips.append(x)
            x = nn.Conv(features, (3, 3), strides=(2, 2))(x)
        x = Residual(16)(x, emb)
        for features in (16, 8):
            n, h, w, c = x.shape
            x = jax.image.resize(x, (n, h * 2, w * 2, c), "nearest")
            x = Residual(features)(jnp.concatenate([x, skips.pop()], axis=-1), emb)
        return nn.Conv(3, (3, 3))(nn.silu(nn.GroupNorm(num_groups=4)(x)))


class Residual(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, emb):
        h = nn.Conv(self.features, (3, 3))(nn.silu(nn.GroupNorm(num_groups=4)(x)))
        scale, shift = jnp.split(nn.Dense(2 * self.features)(emb)[:, None, None], 2, axis=-1)
        h = nn.GroupNorm(num_groups=4)(h) * (1 + scale) + shift
        h = nn.Conv(self.features, (3, 3))(nn.silu(h))
        return h + (nn.Conv(self.features, (1, 1))(x) if x.shape[-1] != self.features else x)


def sinusoidal(t, width):
    frequencies = jnp.exp(-jnp.log(10000.0) * jnp.arange(width // 2) / (width // 2))
    angles = t[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def unet_diffusion() -> Program:
    model, x = UNet(), images()
    params = model.init(KEY, x, jnp.zeros(2))
    alphas = jnp.cumprod(1 - jnp.linspace(1e-4, 0.02, 100))

    def loss_fn(params, key, x):
        t_key, noise_key = jax.random.split(key)
        t = jax.random.randint(t_key, (x.shape[0],), 0, 100)
        noise = jax.random.normal(noise_key, x.shape)
        a = alphas[t][:, None, None, None]
        noisy = jnp.sqrt(a) * x + jnp.sqrt(1 - a) * noise
        return jnp.mean((model.apply(params, noisy, t.astype(jnp.float32)) - noise) ** 2)

    return loss_fn, (params, KEY, x), "parameter frozen frozen"


class VAE(nn.Module):
    latents: int = 4

    def setup(self):
        self.first, self.mean, self.logvar = nn.Dense(20), nn.Dense(self.latents), nn.Dense(self.latents)
        self.decode = nn.Sequential([nn.Dense(20), nn.relu, nn.Dense(36)])

    def __call__(self, x, key):
        h = nn.relu(self.first(x))
        mean, logvar = self.mean(h), self.logvar(h)
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, logvar.shape)
        return self.decode(z), mean, logvar


def vae() -> Program:
    model, x = VAE(), jax.random.uniform(KEY, (8, 36))
    params = model.init(KEY, x, KEY)["params"]

    @jax.vmap
    def kl_divergence(mean, logvar):
        return -0.5 * jnp.sum(1 + logvar - jnp.square(mean) - jnp.exp(logvar))

    @jax.vmap
    def binary_cross_entropy_with_logits(logits, labels):
        logits = nn.log_sigmoid(logits)
        return -jnp.sum(labels * logits + (1.0 - labels) * jnp.log(-jnp.expm1(logits)))

    def loss_fn(params, batch, z_rng):
        recon_x, mean, logvar = model.apply({"params": params}, batch, z_rng)
        return binary_cross_entropy_with_logits(recon_x, batch).mean() + kl_divergence(mean, logvar).mean()

    return loss_fn, (params, x, KEY), "parameter frozen frozen"


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        x = x + nn.SelfAttention(num_heads=2, use_bias=False)(nn.RMSNorm()(x), mask)
        return x + nn.Dense(16)(nn.silu(nn.Dense(32)(nn.RMSNorm()(x))))


class RematLM(nn.Module):
    @nn.compact
    def __call__(self, ids):
        embed = nn.Embed(50, 16)
        x, mask = embed(ids), nn.make_causal_mask(ids)
        for _ in range(3):
            x = nn.remat(Block)()(x, mask)
        return embed.attend(nn.RMSNorm()(x))


def remat_language_model() -> Program:
    model, ids = RematLM(), tokens()
    params = model.init(KEY, ids)

    def loss_fn(params, ids):
        logits = model.apply(params, ids)[:, :-1]
        targets = optax.smooth_labels(jax.nn.one_hot(ids[:, 1:], 50), 0.1)
        return optax.softmax_cross_entropy(logits, targets).mean()

    return loss_fn, (params, ids), "parameter frozen"


class ScannedLM(nn.Module):
    depth: int = 3

    @nn.compact
    def __call__(self, ids):
        x, mask = nn.Embed(50, 16)(ids), nn.make_causal_mask(ids)
        body = nn.remat(Carried, prevent_cse=False, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable)
        layers = nn.scan(body, {"params": 0}, {"params": True}, in_axes=nn.broadcast, length=self.depth)
        x, _ = layers(name="layers")(x, mask)
        return nn.Dense(50, use_bias=False)(nn.LayerNorm(use_bias=False)(x))


class Carried(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        return Block()(x, mask), None


def scanned_language_model() -> Program:
    model, ids = ScannedLM(), tokens()
    params = model.init(KEY, ids)

    def loss_fn(params, ids):
        logits = model.apply(params, ids[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]).mean()

    return loss_fn, (params, ids), "parameter frozen"


class HalfMLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        dense = partial(nn.Dense, dtype=jnp.bfloat16, param_dtype=jnp.float32)
        for width in (32, 32):
            x = nn.relu(dense(width)(x))
            x = nn.LayerNorm(dtype=jnp.bfloat16)(x)
        return dense(1)(x).astype(jnp.float32)


def bfloat16_regression() -> Program:
    model, x = HalfMLP(), jax.random.normal(KEY, (8, 12))
    params = model.init(KEY, x)

    def loss_fn(params, x, y, scale):
        return scale * optax.huber_loss(model.apply(params, x)[:, 0], y).mean()

    return loss_fn, (params, x, x.sum(-1), jnp.float32(1024.0)), "parameter frozen frozen frozen"


class MoE(nn.Module):
    experts: int = 4
    k: int = 2

    @nn.compact
    def __call__(self, x):
        gates = jax.nn.softmax(nn.Dense(self.experts, use_bias=False, name="router")(x))
        weights, chosen = jax.lax.top_k(gates, self.k)
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
        combine = jnp.einsum("bsk,bske->bse", weights, jax.nn.one_hot(chosen, self.experts))
        init = nn.initializers.lecun_normal(batch_axis=0)
        w1 = self.param("w1", init, (self.experts, x.shape[-1], 32))
        w2 = self.param("w2", init, (self.experts, 32, x.shape[-1]))
        h = jax.nn.gelu(jnp.einsum("bsd,edf->ebsf", x, w1))
        y = jnp.einsum("ebsf,efd,bse->bsd", h, w2, combine)
        load = jnp.mean(jax.nn.one_hot(chosen[..., 0], self.experts), axis=(0, 1))
        return y, self.experts * jnp.sum(load * jnp.mean(gates, axis=(0, 1)))


def mixture_of_experts() -> Program:
    model, x = MoE(), jax.random.normal(KEY, (2, 6, 16))
    params = model.init(KEY, x)

    def loss_fn(params, x):
        y, balance = model.apply(params, x)
        return jnp.mean((y - x) ** 2) + 0.01 * balance

    return loss_fn, (params, x), "parameter input"


class MixerBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm()(x).swapaxes(1, 2)
        y = nn.Dense(x.shape[1])(nn.gelu(nn.Dense(24)(y))).swapaxes(1, 2)
        x = x + y
        return x + nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(24)(nn.LayerNorm()(x))))


class Mixer(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(16, (4, 4), strides=(4, 4), name="stem")(x)
        x = x.reshape(x.shape[0], -1, 16)
        for _ in range(2):
            x = MixerBlock()(x)
        return nn.Dense(10, kernel_init=nn.initializers.zeros)(nn.LayerNorm()(x).mean(axis=1))


def mlp_mixer() -> Program:
    model, x = Mixer(), images()
    params = model.init(KEY, x)

    def loss_fn(params, x, y):
        return optax.sigmoid_binary_cross_entropy(model.apply(params, x), y).mean()

    return loss_fn, (params, x, jnp.eye(10)[:2]), "parameter frozen frozen"


class Discriminator(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        for features in (8, 16):
            conv = nn.Conv(features, (4, 4), strides=(2, 2))
            x = nn.leaky_relu(nn.SpectralNorm(conv)(x, update_stats=train), 0.2)
        return nn.Dense(1)(x.reshape(x.shape[0], -1))


def spectral_discriminator() -> Program:
    model, real, fake = Discriminator(), images(2), images(2) * 0.1
    variables = model.init(KEY, real, train=False)

    def loss_fn(params, stats, real, fake):
        variables = {"params": params, "batch_stats": stats}
        both = jnp.concatenate([real, fake])
        scores, new = model.apply(variables, both, train=True, mutable=["batch_stats"])
        on_real, on_fake = jnp.split(scores, 2)
        return jnp.mean(nn.relu(1.0 - on_real)) + jnp.mean(nn.relu(1.0 + on_fake)), new

    return loss_fn, (variables["params"], variables["batch_stats"], real, fake), "parameter frozen frozen frozen"


class Forecaster(nn.Module):
    @nn.compact
    def __call__(self, frames):
        cell = nn.ConvLSTMCell(4, (3, 3))
        y = nn.RNN(cell)(frames)
        return nn.Conv(1, (1, 1))(y[:, -1])


def conv_lstm() -> Program:
    model, frames = Forecaster(), jax.random.normal(KEY, (2, 5, 8, 8, 1))
    params = model.init(KEY, frames)

    def loss_fn(params, frames, target):
        return optax.l2_loss(model.apply(params, frames), target).mean()

    return loss_fn, (params, frames, frames[:, -1]), "parameter frozen frozen"


class Q(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(24)(x))
        value, advantage = nn.Dense(1)(x), nn.Dense(4)(x)
        return value + advantage - advantage.mean(axis=-1, keepdims=True)


def double_dqn() -> Program:
    model, obs = Q(), jax.random.normal(KEY, (8, 6))
    params, target = model.init(KEY, obs), model.init(jax.random.key(9), obs)
    batch = {"obs": obs, "next": obs + 1, "action": jnp.arange(8) % 4, "reward": obs[:, 0], "done": jnp.arange(8) > 6}

    def loss_fn(params, target, batch):
        q = jnp.take_along_axis(model.apply(params, batch["obs"]), batch["action"][:, None], axis=1)[:, 0]
        best = jnp.argmax(model.apply(params, batch["next"]), axis=-1)
        q_next = jax.vmap(lambda row, a: row[a])(model.apply(target, batch["next"]), best)
        goal = batch["reward"] + 0.99 * (1 - batch["done"]) * q_next
        error = q - jax.lax.stop_gradient(goal)
        return jnp.mean(jnp.where(jnp.abs(error) < 1, 0.5 * error**2, jnp.abs(error) - 0.5)), {"q": q.mean()}

    return loss_fn, (params, target, batch), "parameter frozen frozen"


class Sentiment(nn.Module):
    @nn.compact
    def __call__(self, ids, train: bool):
        x = nn.Embed(50, 8)(ids)
        keep = jax.random.bernoulli(self.make_rng("dropout"), 0.8, ids.shape) if train else jnp.ones(ids.shape, bool)
        x = x * keep[..., None]
        x = nn.Bidirectional(nn.RNN(nn.GRUCell(6)), nn.RNN(nn.GRUCell(6)))(x)
        scores = nn.Dense(1)(nn.tanh(nn.Dense(8)(x)))
        weights = nn.softmax(jnp.where((ids > 0)[..., None], scores, -1e9), axis=1)
        return nn.Dense(2)(jnp.sum(weights * x, axis=1))


def bidirectional_gru() -> Program:
    model, ids = Sentiment(), tokens()
    params = model.init(KEY, ids, train=False)

    def loss_fn(params, key, ids, y):
        logits = model.apply(params, ids, train=True, rngs={"dropout": key})
        return -jnp.mean(jnp.sum(nn.log_softmax(logits) * jax.nn.one_hot(y, 2), axis=-1))

    return loss_fn, (params, KEY, ids, jnp.array([0, 1])), "parameter frozen frozen frozen"


class RelativeAttention(nn.Module):
    heads: int = 2

    @nn.compact
    def __call__(self, x):
        _, length, width = x.shape
        q, k, v = (nn.DenseGeneral((self.heads, width // self.heads), use_bias=False)(x) for _ in range(3))
        table = self.param("relative", nn.initializers.normal(0.1), (self.heads, 8))
        distance = jnp.clip(jnp.arange(length)[None] - jnp.arange(length)[:, None], -4, 3) + 4
        scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) + table[:, distance]
        weights = jax.nn.softmax(scores, axis=-1)
        out = jnp.einsum("nhqk,nkhd->nqhd", weights, v)
        return nn.DenseGeneral(width, axis=(-2, -1), use_bias=False)(out)


class T5Layer(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x + RelativeAttention()(nn.RMSNorm()(x))
        h = nn.RMSNorm()(x)
        h = nn.gelu(nn.Dense(24, use_bias=False)(h)) * nn.Dense(24, use_bias=False)(h)
        return x + nn.Dense(x.shape[-1], use_bias=False)(h)


class T5(nn.Module):
    @nn.compact
    def __call__(self, ids):
        embed = nn.Embed(50, 16)
        x = embed(ids)
        for _ in range(2):
            x = T5Layer()(x)
        return embed.attend(nn.RMSNorm()(x) * 16**-0.5)


def relative_positions() -> Program:
    model, ids = T5(), tokens()
    params = model.init(KEY, ids)

    def loss_fn(params, ids, z_loss):
        logits = model.apply(params, ids)
        log_z = jax.scipy.special.logsumexp(logits, axis=-1)
        picked = jnp.take_along_axis(logits, jnp.roll(ids, -1, axis=1)[..., None], axis=-1)[..., 0]
        return jnp.mean(log_z - picked + z_loss * log_z**2)

    return loss_fn, (params, ids, 1e-4), "parameter frozen frozen"

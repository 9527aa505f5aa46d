"""Models and losses in Flax's nnx, as its users write them."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax_linen import KEY, Program, images, tokens


class MLP(nnx.Module):
    def __init__(self, din, dmid, dout, *, rngs: nnx.Rngs):
        self.linear1 = nnx.Linear(din, dmid, rngs=rngs)
        self.bn = nnx.BatchNorm(dmid, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.linear2 = nnx.Linear(dmid, dout, rngs=rngs)

    def __call__(self, x):
        return self.linear2(nnx.gelu(self.dropout(self.bn(self.linear1(x)))))


def batch_norm_and_dropout() -> Program:
    graphdef, params, rest = nnx.split(MLP(6, 24, 3, rngs=nnx.Rngs(0)), nnx.Param, ...)
    x = jax.random.normal(KEY, (8, 6))

    def loss_fn(params, rest, x, y):
        model = nnx.merge(graphdef, params, rest)
        loss = ((model(x) - y) ** 2).mean()
        return loss, nnx.state(model, nnx.BatchStat)

    return loss_fn, (params, rest, x, x[:, :3]), "parameter frozen frozen frozen"


class GPTBlock(nnx.Module):
    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, width, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x, mask):
        x = x + self.attention(self.norm1(x), mask=mask)
        return x + self.down(nnx.relu(self.up(self.norm2(x))) ** 2)


class MiniGPT(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.tokens, self.positions = nnx.Embed(50, 16, rngs=rngs), nnx.Embed(12, 16, rngs=rngs)
        self.blocks = nnx.List([GPTBlock(16, rngs=rngs) for _ in range(2)])
        self.head = nnx.Linear(16, 50, use_bias=False, rngs=rngs)

    def __call__(self, ids):
        x = self.tokens(ids) + self.positions(jnp.arange(ids.shape[1]))
        mask = jnp.tril(jnp.ones((ids.shape[1], ids.shape[1])))
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x)


def mini_gpt() -> Program:
    model = MiniGPT(rngs=nnx.Rngs(0))
    ids = tokens()

    def loss_fn(model, batch):
        logits = model(batch["x"])
        return optax.softmax_cross_entropy_with_integer_labels(logits=logits, labels=batch["y"]).mean(), logits

    return loss_fn, (model, {"x": ids, "y": jnp.roll(ids, -1, 1)}), "parameter frozen"


class CNN(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 4, kernel_size=(3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(4, 8, kernel_size=(3, 3), rngs=rngs)
        self.linear1 = nnx.Linear(128, 16, rngs=rngs)
        self.linear2 = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.avg_pool(nnx.relu(self.conv1(x)), window_shape=(2, 2), strides=(2, 2))
        x = nnx.avg_pool(nnx.relu(self.conv2(x)), window_shape=(2, 2), strides=(2, 2))
        x = nnx.relu(self.linear1(x.reshape(x.shape[0], -1)))
        return self.linear2(x)


def digits_cnn() -> Program:
    graphdef, state = nnx.split(CNN(rngs=nnx.Rngs(0)))

    @jax.jit
    def loss_fn(state, images, labels):
        logits = nnx.merge(graphdef, state)(images)
        one_hot = jax.nn.one_hot(labels, 10)
        focal = (1 - jnp.exp(-optax.softmax_cross_entropy(logits, one_hot))) ** 2
        return (focal * optax.softmax_cross_entropy(logits, one_hot)).mean()

    return loss_fn, (state, images(4, 16, 1), jnp.arange(4)), "parameter frozen frozen"


class Reader(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.rnn = nnx.RNN(nnx.GRUCell(6, 10, rngs=rngs), return_carry=True)
        self.out = nnx.Linear(10, 1, rngs=rngs)

    def __call__(self, x):
        carry, _ = self.rnn(x)
        return self.out(carry)


def gru_classifier() -> Program:
    graphdef, state = nnx.split(Reader(rngs=nnx.Rngs(0)))
    x = jax.random.normal(KEY, (3, 9, 6))

    def loss_fn(state, x, y):
        logits = nnx.merge(graphdef, state)(x)[:, 0]
        return optax.sigmoid_binary_cross_entropy(logits, y).mean()

    return loss_fn, (state, x, jnp.array([0.0, 1.0, 1.0])), "parameter frozen frozen"


class Autoencoder(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.down1 = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.down2 = nnx.Conv(8, 16, (3, 3), strides=2, rngs=rngs)
        self.up1 = nnx.ConvTranspose(16, 8, (3, 3), strides=(2, 2), rngs=rngs)
        self.up2 = nnx.ConvTranspose(8, 3, (3, 3), strides=(2, 2), rngs=rngs)
        self.norm = nnx.GroupNorm(16, num_groups=4, rngs=rngs)

    def __call__(self, x):
        z = self.norm(nnx.elu(self.down2(nnx.elu(self.down1(x)))))
        return nnx.sigmoid(self.up2(nnx.elu(self.up1(z))))


def convolutional_autoencoder() -> Program:
    model = Autoencoder(rngs=nnx.Rngs(0))

    def loss_fn(model, x, key):
        noisy = x + 0.1 * jax.random.normal(key, x.shape)
        difference = jnp.abs(model(noisy) - x)
        return difference.mean() + 0.1 * jnp.sqrt(jnp.mean(difference**2) + 1e-8)

    return loss_fn, (model, images(), KEY), "parameter frozen frozen"


class RMSNorm(nnx.Module):
    def __init__(self, width):
        self.scale = nnx.Param(jnp.ones(width))

    def __call__(self, x):
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + 1e-5)
        return (normed * self.scale).astype(x.dtype)


def rotate(x, positions, base=10000.0):
    half = x.shape[-1] // 2
    angles = positions[:, None] * base ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class LlamaLayer(nnx.Module):
    def __init__(self, width, heads, kv_heads, *, rngs):
        self.heads, self.kv_heads, self.size = heads, kv_heads, width // heads
        linear = lambda i, o: nnx.Linear(  # noqa: E731
            i, o, use_bias=False, rngs=rngs, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16
        )
        self.q, self.kv = linear(width, width), linear(width, 2 * kv_heads * self.size)
        self.o, self.gate, self.up, self.down = (
            linear(width, width),
            linear(width, 24),
            linear(width, 24),
            linear(24, width),
        )
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)

    def __call__(self, x):
        n, length, _ = x.shape
        h, positions = self.norm1(x), jnp.arange(length)
        q = self.q(h).reshape(n, length, self.heads, self.size)
        k, v = jnp.split(self.kv(h).reshape(n, length, 2 * self.kv_heads, self.size), 2, axis=2)
        q, k = rotate(q, positions), rotate(k, positions)
        out = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(out.reshape(n, length, -1))
        h = self.norm2(x)
        return x + self.down(nnx.silu(self.gate(h)) * self.up(h))


class Llama(nnx.Module):
    def __init__(self, *, rngs):
        self.embed = nnx.Embed(50, 16, rngs=rngs, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
        self.layers = nnx.List([LlamaLayer(16, 4, 2, rngs=rngs) for _ in range(2)])
        self.norm = RMSNorm(16)

    def __call__(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.embed.attend(self.norm(x)).astype(jnp.float32)


def llama() -> Program:
    graphdef, state = nnx.split(Llama(rngs=nnx.Rngs(0)))

    def loss_fn(state, ids):
        log_probs = jax.nn.log_softmax(nnx.merge(graphdef, state)(ids[:, :-1]), axis=-1)
        return -jnp.mean(jnp.take_along_axis(log_probs, ids[:, 1:, None], axis=-1))

    return loss_fn, (state, tokens()), "parameter frozen"


def lora_finetuning() -> Program:
    rngs = nnx.Rngs(0)
    base = nnx.Linear(12, 12, rngs=rngs)
    model = nnx.Sequential(nnx.LoRA(12, 2, 12, base_module=base, rngs=rngs), nnx.tanh, nnx.Linear(12, 4, rngs=rngs))
    graphdef, lora, rest = nnx.split(model, nnx.LoRAParam, ...)
    x = jax.random.normal(KEY, (8, 12))

    def loss_fn(lora, rest, x, y):
        logits = nnx.merge(graphdef, lora, rest)(x)
        student, teacher = jax.nn.log_softmax(logits / 2.0), jax.nn.softmax(y / 2.0)
        return 4.0 * optax.kl_divergence(student, teacher).mean()

    return loss_fn, (lora, rest, x, x[:, :4]), "parameter frozen frozen frozen"


class Denoiser(nnx.Module):
    def __init__(self, *, rngs):
        self.time = nnx.Linear(8, 24, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(i, o, rngs=rngs) for i, o in ((2, 24), (24, 24), (24, 2))])

    def __call__(self, x, t):
        angles = 2 * jnp.pi * t[:, None] * 2.0 ** jnp.arange(4)
        emb = self.time(jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1))
        for layer in self.layers[:-1]:
            x = nnx.swish(layer(x) + emb)
        return self.layers[-1](x)


def flow_matching() -> Program:
    model = Denoiser(rngs=nnx.Rngs(0))
    x = jax.random.normal(KEY, (16, 2))

    def loss_fn(model, x1, key):
        a, b = jax.random.split(key)
        x0, t = jax.random.normal(a, x1.shape), jax.random.uniform(b, x1.shape[:1])
        xt = (1 - t[:, None]) * x0 + t[:, None] * x1
        return jnp.mean(jnp.sum((model(xt, t) - (x1 - x0)) ** 2, axis=-1))

    return loss_fn, (model, x, KEY), "parameter frozen frozen"


class Deep(nnx.Module):
    def __init__(self, *, rngs):
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(key):
            return nnx.Linear(8, 8, rngs=nnx.Rngs(key))

        self.layers = make(jax.random.split(rngs.params(), 4))

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        @nnx.remat
        def forward(x, layer):
            return x + nnx.softplus(layer(x))

        return forward(x, self.layers)


def scan_over_layers() -> Program:
    graphdef, state = nnx.split(Deep(rngs=nnx.Rngs(0)))

    def loss_fn(state, x):
        y = nnx.merge(graphdef, state)(x)
        return -jnp.mean(optax.cosine_similarity(y, x))

    return loss_fn, (state, jax.random.normal(KEY, (5, 8))), "parameter input"

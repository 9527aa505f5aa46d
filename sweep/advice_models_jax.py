"""The JAX models of `sweep/advice.py`: a list that was written before any of them was audited."""

import math

import jax
import jax.numpy as jnp


def _random(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed + len(shape)), shape)


def _linear(n_in, n_out, seed=0):
    return {"w": _random(n_in, n_out, seed=seed) / math.sqrt(n_in), "b": jnp.zeros(n_out)}


def _apply(p, x):
    return x @ p["w"] + p["b"]


def _rms(x, w):
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * w


def _layer(x, p):
    b, t, d = x.shape
    h = _rms(x, p["n1"])
    q, k, v = (a.reshape(b, t, 4, d // 4).transpose(0, 2, 1, 3) for a in jnp.split(_apply(p["qkv"], h), 3, -1))
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(d // 4)
    mask = jnp.tril(jnp.ones((t, t), bool))
    weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), -1)
    x = x + _apply(p["out"], (weights @ v).transpose(0, 2, 1, 3).reshape(b, t, d))
    h = _apply(p["up"], _rms(x, p["n2"]))
    return x + _apply(p["down"], jax.nn.gelu(h))


def _layer_params(d=128):
    parts = {"qkv": (d, 3 * d), "out": (d, d), "up": (d, 4 * d), "down": (4 * d, d)}
    made = {name: _linear(*sizes) for name, sizes in parts.items()}
    return {**made, "n1": jnp.ones(d), "n2": jnp.ones(d)}


def _loss(params, tokens, labels):
    x = params["embed"][tokens]
    for p in params["layers"]:
        x = _layer(x, p)
    logits = x @ params["embed"].T
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1).mean()


def _tokens(n=4096, seed=1):
    return jax.random.randint(jax.random.key(seed), (2, 128), 0, n)


def _transformer():
    return _loss, ({"embed": _random(4096, 128), "layers": [_layer_params()] * 2}, _tokens(), _tokens(seed=2))


def _scanned():
    def loss(params, x):
        x, _ = jax.lax.scan(lambda x, p: (_layer(x, p), None), x, params)
        return (x**2).mean()

    return loss, (jax.tree.map(lambda *a: jnp.stack(a), *[_layer_params()] * 4), _random(2, 128, 128))


def _rnn():
    def loss(p, xs):
        def step(h, x):
            h = jnp.tanh(_apply(p["h"], h) + _apply(p["x"], x))
            return h, h

        return (jax.lax.scan(step, jnp.zeros((32, 128)), xs)[1] ** 2).mean()

    return loss, ({"h": _linear(128, 128), "x": _linear(128, 128)}, _random(50, 32, 128))


def _ode():
    def loss(p, x):
        def step(x, _):
            return x + 0.02 * _apply(p["b"], jnp.tanh(_apply(p["a"], x))), None

        return (jax.lax.scan(step, x, length=50)[0] ** 2).mean()

    return loss, ({"a": _linear(64, 256), "b": _linear(256, 64)}, _random(256, 64))


def _mlp():
    def gelu(x):
        return 0.5 * x * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def loss(ps, x):
        for p in ps:
            x = x + _apply(p["b"], gelu(_apply(p["a"], x)))
        return (x**2).mean()

    return loss, ([{"a": _linear(128, 512), "b": _linear(512, 128)}] * 3, _random(256, 128))


def _norms():
    def norm(x, g, b):
        mean = x.mean(-1, keepdims=True)
        var = jnp.square(x - mean).mean(-1, keepdims=True)
        return (x - mean) / jnp.sqrt(var + 1e-5) * g + b

    def loss(ps, x):
        for p in ps:
            x = x + _apply(p["l"], norm(x, p["g"], p["b"]))
        return (x**2).mean()

    return loss, ([{"l": _linear(256, 256), "g": jnp.ones(256), "b": jnp.zeros(256)}] * 4, _random(512, 256))


def _optax_loss():
    import optax

    def loss(w, x, labels):
        return optax.softmax_cross_entropy_with_integer_labels(x @ w, labels).mean()

    return loss, (_random(128, 8192), _random(256, 128), jax.random.randint(jax.random.key(3), (256,), 0, 8192))


def _flax_attention():
    import flax.linen as nn

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
            return x + nn.Dense(128)(nn.gelu(nn.Dense(512)(nn.LayerNorm()(x))))

    x = _random(2, 128, 128)
    params = Block().init(jax.random.key(0), x)
    return lambda params, x: (Block().apply(params, x) ** 2).mean(), (params, x)


def _equinox():
    import equinox

    model = equinox.nn.MLP(128, 128, 512, 3, activation=jax.nn.silu, key=jax.random.key(0))
    return lambda model, x: (jax.vmap(model)(x) ** 2).mean(), (model, _random(256, 128))


def _gated():
    def loss(ps, x):
        for p in ps:
            h = _rms(x, p["n"])
            x = x + _apply(p["c"], jax.nn.silu(_apply(p["a"], h)) * _apply(p["b"], h))
        return (x**2).mean()

    p = {"a": _linear(128, 352), "b": _linear(128, 352), "c": _linear(352, 128), "n": jnp.ones(128)}
    return loss, ([p] * 3, _random(256, 128))


MODELS = {
    "jax transformer": _transformer,
    "jax scanned transformer": _scanned,
    "jax rnn": _rnn,
    "jax ode": _ode,
    "jax mlp gelu by hand": _mlp,
    "jax layer norm by hand": _norms,
    "jax optax loss": _optax_loss,
    "flax attention": _flax_attention,
    "equinox mlp": _equinox,
    "jax gated mlp": _gated,
}

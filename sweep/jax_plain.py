"""Programs in plain JAX, as its users write them: graphs, loops, solvers, rules of their own, reinforcement."""

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import sparse
from jax_linen import KEY, Program


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> jax.Array:
    return scale * jax.random.normal(jax.random.key(seed + 100), shape)


def dense(*widths: int, seed: int = 0) -> list[dict[str, jax.Array]]:
    return [
        {"w": normal(i, o, seed=seed + n, scale=i**-0.5), "b": 0.1 * normal(o, seed=seed + n + 50)}
        for n, (i, o) in enumerate(pairwise(widths))
    ]


def mlp(params, x, act=jnp.tanh):
    for layer in params[:-1]:
        x = act(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


SENDERS = jnp.array([0, 1, 2, 3, 4, 5, 6, 7, 0, 2, 4, 6])
RECEIVERS = jnp.array([1, 2, 3, 4, 5, 6, 7, 0, 4, 6, 0, 2])


def graph_convolution() -> Program:
    def gcn(params, nodes):
        n = nodes.shape[0]
        degree = jax.ops.segment_sum(jnp.ones_like(RECEIVERS, jnp.float32), RECEIVERS, n)
        norm = lax.rsqrt(jnp.maximum(degree, 1.0))
        for i, layer in enumerate(params):
            h = nodes @ layer["w"]
            messages = (h * norm[:, None])[SENDERS]
            nodes = jax.ops.segment_sum(messages, RECEIVERS, n) * norm[:, None] + layer["b"]
            if i < len(params) - 1:
                nodes = jax.nn.relu(nodes)
        return nodes

    def loss(params, nodes, labels, mask):
        logp = jax.nn.log_softmax(gcn(params, nodes))
        return -jnp.sum(mask * logp[jnp.arange(len(labels)), labels]) / mask.sum()

    return loss, (dense(6, 8, 3), normal(8, 6), jnp.arange(8) % 3, jnp.arange(8) < 5), "parameter frozen frozen frozen"


def graph_attention() -> Program:
    def layer(params, nodes):
        h = jnp.einsum("nd,hdk->nhk", nodes, params["w"])
        scores = jax.nn.leaky_relu(
            (h * params["a"]).sum(-1)[SENDERS] + (h * params["b"]).sum(-1)[RECEIVERS], negative_slope=0.2
        )
        n = len(nodes)
        top = jax.ops.segment_max(scores, RECEIVERS, n)
        weights = jnp.exp(scores - lax.stop_gradient(top)[RECEIVERS])
        weights = weights / jax.ops.segment_sum(weights, RECEIVERS, n)[RECEIVERS]
        return jax.ops.segment_sum(weights[..., None] * h[SENDERS], RECEIVERS, n).reshape(n, -1)

    def loss(params, nodes):
        for p in params:
            nodes = jax.nn.elu(layer(p, nodes))
        pooled = nodes.mean(axis=0)
        return jnp.sum(pooled**2)

    params = [{"w": normal(2, 6, 3, seed=i), "a": normal(2, 3, seed=i), "b": normal(2, 3, seed=i + 9)} for i in (0, 1)]
    return loss, (params, normal(8, 6)), "parameter input"


def selective_state_space() -> Program:
    """A block like Mamba's: the recurrence is an associative scan over time."""

    def block(p, x):
        h, z = jnp.split(x @ p["in"], 2, axis=-1)
        padded = jnp.pad(h, ((3, 0), (0, 0)))
        h = jax.nn.silu(sum(padded[i : i + len(x)] * p["conv"][i] for i in range(4)))
        delta, b, c = jnp.split(h @ p["x"], [8, 12], axis=-1)
        delta = jax.nn.softplus(delta + p["dt"])
        a = jnp.exp(delta[..., None] * -jnp.exp(p["log_a"]))
        bx = (delta * h)[..., None] * b[:, None, :]

        def combine(left, right):
            return left[0] * right[0], right[0] * left[1] + right[1]

        _, states = lax.associative_scan(combine, (a, bx), axis=0)
        y = jnp.einsum("tdn,tn->td", states, c) + p["d"] * h
        return (y * jax.nn.silu(z)) @ p["out"]

    shapes = {"in": (6, 16), "conv": (4, 8), "x": (8, 16), "dt": (8,), "log_a": (8, 4), "d": (8,), "out": (8, 6)}
    params = {name: 0.3 * normal(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}

    def loss(params, x):
        return jnp.mean(jax.vmap(lambda s: (s + block(params, s)) ** 2)(x))

    return loss, (params, normal(2, 10, 6)), "parameter input"


def maml() -> Program:
    def net_loss(params, x, y):
        return jnp.mean((mlp(params, x, jax.nn.relu) - y) ** 2)

    def maml_loss(params, x1, y1, x2, y2):
        def task(x1, y1, x2, y2):
            inner = params
            for _ in range(2):
                grads = jax.grad(net_loss)(inner, x1, y1)
                inner = jax.tree.map(lambda p, g: p - 0.1 * g, inner, grads)
            return net_loss(inner, x2, y2)

        return jnp.mean(jax.vmap(task)(x1, y1, x2, y2))

    batch = [normal(3, 5, 1, seed=i) for i in range(4)]
    return maml_loss, (dense(1, 12, 12, 1), *batch), "parameter frozen frozen frozen frozen"


def physics_informed() -> Program:
    def u(params, t, x):
        return mlp(params, jnp.stack([t, x]))[0]

    def residual(params, t, x):
        u_t = jax.grad(u, 1)(params, t, x)
        u_x, u_xx = jax.jvp(lambda x: jax.grad(u, 2)(params, t, x), (x,), (1.0,))
        return u_t + u(params, t, x) * u_x - 0.01 / jnp.pi * u_xx

    def loss(params, t, x):
        inside = jnp.mean(jax.vmap(residual, (None, 0, 0))(params, t, x) ** 2)
        start = jax.vmap(u, (None, None, 0))(params, 0.0, x)
        return inside + jnp.mean((start + jnp.sin(jnp.pi * x)) ** 2)

    return loss, (dense(2, 10, 10, 1), normal(7), normal(7, seed=1)), "parameter frozen frozen"


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def fixed_point(f, params, x):
    def cond(state):
        before, now, i = state
        return (jnp.max(jnp.abs(before - now)) > 1e-5) & (i < 50)

    def body(state):
        _, now, i = state
        return now, f(params, x, now), i + 1

    return lax.while_loop(cond, body, (jnp.zeros_like(x) + 1.0, jnp.zeros_like(x), 0))[1]


def fixed_point_fwd(f, params, x):
    z = fixed_point(f, params, x)
    return z, (params, x, z)


def fixed_point_bwd(f, kept, g):
    params, x, z = kept
    _, vjp_z = jax.vjp(lambda z: f(params, x, z), z)
    w = fixed_point(lambda _, g, w: g + vjp_z(w)[0], None, g)
    _, vjp_rest = jax.vjp(lambda params, x: f(params, x, z), params, x)
    return vjp_rest(w)


fixed_point.defvjp(fixed_point_fwd, fixed_point_bwd)


def deep_equilibrium() -> Program:
    def cell(p, x, z):
        return jnp.tanh(0.3 * z @ p["w"] + x @ p["u"] + p["b"])

    def loss(params, x, y):
        z = fixed_point(cell, params["cell"], x @ params["in"])
        return jnp.mean((z @ params["out"] - y) ** 2)

    cell_params = {"w": normal(8, 8, scale=0.3), "u": normal(8, 8, seed=1), "b": normal(8)}
    params = {"cell": cell_params, "in": normal(5, 8, seed=2), "out": normal(8, 1, seed=3)}
    return loss, (params, normal(6, 5), normal(6, 1)), "parameter frozen frozen"


def fourier_operator() -> Program:
    def layer(p, x, modes=5):
        spectrum = jnp.fft.rfft(x, axis=0)
        kept = jnp.einsum("ki,kio->ko", spectrum[:modes], p["re"] + 1j * p["im"])
        spectrum = jnp.zeros((spectrum.shape[0], kept.shape[-1]), spectrum.dtype).at[:modes].set(kept)
        return jax.nn.gelu(jnp.fft.irfft(spectrum, n=x.shape[0], axis=0) + x @ p["skip"])

    def loss(params, x, y):
        def one(x):
            for p in params:
                x = layer(p, x)
            return x

        out = jax.vmap(one)(x)
        return jnp.linalg.norm(out - y) / jnp.linalg.norm(y)

    params = [
        {"re": normal(5, 4, 4, seed=i), "im": normal(5, 4, 4, seed=i + 5), "skip": normal(4, 4, seed=i + 9)}
        for i in (0, 1)
    ]
    return loss, (params, normal(2, 16, 4), normal(2, 16, 4, seed=3)), "parameter frozen frozen"


def gaussian_process() -> Program:
    def kernel(p, a, b):
        d = (a[:, None] - b[None]) / jax.nn.softplus(p["length"])
        return jax.nn.softplus(p["amplitude"]) * jnp.exp(-0.5 * jnp.sum(d**2, axis=-1))

    def negative_log_likelihood(p, x, y):
        k = kernel(p, x, x) + (jax.nn.softplus(p["noise"]) + 1e-4) * jnp.eye(len(x))
        chol = jnp.linalg.cholesky(k)
        alpha = jax.scipy.linalg.cho_solve((chol, True), y)
        return 0.5 * y @ alpha + jnp.sum(jnp.log(jnp.diag(chol))) + 0.5 * len(x) * jnp.log(2 * jnp.pi)

    p = {"length": jnp.zeros(2), "amplitude": jnp.array(0.5), "noise": jnp.array(-1.0)}
    return negative_log_likelihood, (p, normal(10, 2), normal(10)), "parameter frozen frozen"


def contrastive_pairs() -> Program:
    def nt_xent(params, a, b, temperature):
        z = jnp.concatenate([mlp(params, a, jax.nn.relu), mlp(params, b, jax.nn.relu)])
        z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
        sims = z @ z.T / temperature
        n = len(a)
        sims = sims - 1e9 * jnp.eye(2 * n)
        labels = jnp.concatenate([jnp.arange(n) + n, jnp.arange(n)])
        return -jnp.mean(jax.nn.log_softmax(sims, axis=-1)[jnp.arange(2 * n), labels])

    return nt_xent, (dense(6, 12, 4), normal(5, 6), normal(5, 6, seed=1), 0.1), "parameter frozen frozen frozen"


def clip_loss() -> Program:
    def loss(params, images, texts):
        def embed(p, x):
            h = mlp(p, x, jax.nn.gelu)
            return h * lax.rsqrt(jnp.sum(h**2, -1, keepdims=True) + 1e-8)

        a, b = embed(params["image"], images), embed(params["text"], texts)
        logits = jnp.exp(params["scale"]) * jnp.einsum("id,jd->ij", a, b)
        labels = jnp.arange(len(a))
        ce = optax.softmax_cross_entropy_with_integer_labels
        return (ce(logits, labels).mean() + ce(logits.T, labels).mean()) / 2

    params = {"image": dense(8, 12, 4), "text": dense(6, 12, 4, seed=7), "scale": jnp.array(1.0)}
    return loss, (params, normal(5, 8), normal(5, 6)), "parameter input input"


class Batch(NamedTuple):
    obs: jax.Array
    actions: jax.Array
    old_log_probs: jax.Array
    advantages: jax.Array
    returns: jax.Array


def proximal_policy() -> Program:
    def loss(params, batch, clip=0.2):
        h = jnp.tanh(mlp(params["body"], batch.obs))
        logits, values = mlp(params["actor"], h), mlp(params["critic"], h)[:, 0]
        log_probs = jax.nn.log_softmax(logits)
        chosen = jnp.take_along_axis(log_probs, batch.actions[:, None], 1)[:, 0]
        ratio = jnp.exp(chosen - batch.old_log_probs)
        adv = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
        policy = -jnp.minimum(ratio * adv, jnp.clip(ratio, 1 - clip, 1 + clip) * adv).mean()
        value = 0.5 * jnp.square(values - batch.returns).mean()
        entropy = -(jnp.exp(log_probs) * log_probs).sum(-1).mean()
        return policy + 0.5 * value - 0.01 * entropy, {"entropy": entropy, "kl": (batch.old_log_probs - chosen).mean()}

    params = {"body": dense(5, 10, 8), "actor": dense(8, 3, seed=5), "critic": dense(8, 1, seed=6)}
    batch = Batch(normal(9, 5), jnp.arange(9) % 3, normal(9, seed=2) - 2, normal(9, seed=3), normal(9, seed=4))
    return loss, (params, batch), "parameter frozen"


def actor_critic_returns() -> Program:
    def loss(params, obs, actions, rewards, dones):
        values = mlp(params["critic"], obs)[..., 0]

        def step(carry, transition):
            reward, done, value, next_value = transition
            delta = reward + 0.99 * next_value * (1 - done) - value
            carry = delta + 0.99 * 0.95 * (1 - done) * carry
            return carry, carry

        fixed = lax.stop_gradient(values)
        _, advantages = lax.scan(step, 0.0, (rewards, dones, fixed[:-1], fixed[1:]), reverse=True)
        log_probs = jax.nn.log_softmax(mlp(params["actor"], obs[:-1]))
        policy = -(jnp.take_along_axis(log_probs, actions[:, None], 1)[:, 0] * advantages).mean()
        return policy + 0.5 * ((values[:-1] - (advantages + fixed[:-1])) ** 2).mean()

    params = {"actor": dense(4, 8, 2), "critic": dense(4, 8, 1, seed=5)}
    args = params, normal(13, 4), jnp.arange(12) % 2, normal(12), (jnp.arange(12) == 6).astype(jnp.float32)
    return loss, args, "parameter frozen frozen frozen frozen"


def checkpoint_by_names() -> Program:
    def layer(p, x):
        q, k, v = jnp.split(x @ p["qkv"], 3, axis=-1)
        q, k, v = (checkpoint_name(a, "qkv") for a in (q, k, v))
        weights = jax.nn.softmax(q @ k.T / jnp.sqrt(q.shape[-1]))
        x = x + checkpoint_name(weights @ v, "context") @ p["out"]
        return x + checkpoint_name(jax.nn.silu(x @ p["up"]), "mlp") @ p["down"]

    policy = jax.checkpoint_policies.save_only_these_names("qkv", "context")

    def loss(params, x):
        for p in params:
            x = jax.checkpoint(layer, policy=policy)(p, x)
        return jnp.var(x)

    shapes = {"qkv": (8, 24), "out": (8, 8), "up": (8, 16), "down": (16, 8)}
    params = [{n: normal(*s, seed=i, scale=0.3) for n, s in shapes.items()} for i in (0, 1)]
    return loss, (params, normal(9, 8)), "parameter input"


def switch_of_experts() -> Program:
    def loss(params, x, routes):
        acts = (jnp.tanh, jax.nn.relu, jnp.sin)
        branches = [lambda x, p=p, act=act: mlp(p, x, act) for p, act in zip(params, acts, strict=True)]
        y = lax.map(lambda pair: lax.switch(pair[0], branches, pair[1]), (routes, x))
        return jnp.mean(y**2)

    params = [dense(5, 7, 2, seed=i) for i in range(3)]
    return loss, (params, normal(6, 5), jnp.array([0, 1, 2, 0, 2, 1])), "parameter input frozen"


def kalman_filter() -> Program:
    def loss(p, observations):
        a, c = p["a"], p["c"]
        q, r = jnp.diag(jnp.exp(p["q"])), jnp.diag(jnp.exp(p["r"]))

        def step(state, y):
            mean, cov = state
            mean, cov = a @ mean, a @ cov @ a.T + q
            s = c @ cov @ c.T + r
            error = y - c @ mean
            gain = jnp.linalg.solve(s, c @ cov).T
            log_likelihood = -0.5 * (error @ jnp.linalg.solve(s, error) + jnp.linalg.slogdet(s)[1])
            return (mean + gain @ error, cov - gain @ c @ cov), log_likelihood

        _, found = lax.scan(step, (jnp.zeros(3), jnp.eye(3)), observations)
        return -found.sum()

    p = {"a": 0.5 * jnp.eye(3) + 0.1 * normal(3, 3), "c": normal(2, 3), "q": jnp.zeros(3), "r": jnp.zeros(2)}
    return loss, (p, normal(8, 2)), "parameter frozen"


def radiance_field() -> Program:
    def render(params, origin, direction):
        ts = jnp.linspace(2.0, 6.0, 12)
        points = origin + ts[:, None] * direction
        frequencies = 2.0 ** jnp.arange(4)
        angles = (points[:, None] * frequencies[:, None]).reshape(len(ts), -1)
        raw = mlp(params, jnp.concatenate([points, jnp.sin(angles), jnp.cos(angles)], -1), jax.nn.relu)
        rgb, sigma = jax.nn.sigmoid(raw[:, :3]), jax.nn.relu(raw[:, 3])
        gaps = jnp.append(ts[1:] - ts[:-1], 1e10)
        alpha = 1 - jnp.exp(-sigma * gaps)
        passed = jnp.cumprod(jnp.append(1.0, 1 - alpha[:-1] + 1e-10))
        return (alpha * passed) @ rgb

    def loss(params, origins, directions, colours):
        found = jax.vmap(partial(render, params))(origins, directions)
        return jnp.mean((found - colours) ** 2)

    args = dense(27, 16, 16, 4), normal(5, 3), normal(5, 3, seed=1), jax.nn.sigmoid(normal(5, 3, seed=2))
    return loss, args, "parameter frozen frozen frozen"


def causal_linear_attention() -> Program:
    def loss(p, x):
        feature = lambda a: jax.nn.elu(a) + 1  # noqa: E731
        q, k, v = (jnp.einsum("btd,dhk->bthk", x, p[n]) for n in ("q", "k", "v"))
        q, k = feature(q), feature(k)
        kv = jnp.cumsum(jnp.einsum("bthk,bthv->bthkv", k, v), axis=1)
        norm = jnp.einsum("bthk,bthk->bth", q, jnp.cumsum(k, axis=1))
        out = jnp.einsum("bthk,bthkv->bthv", q, kv) / (norm[..., None] + 1e-6)
        return jnp.mean(jnp.square(jnp.einsum("bthv,hvd->btd", out, p["o"]) - x))

    p = {n: normal(8, 2, 4, seed=i) for i, n in enumerate(("q", "k", "v"))} | {"o": normal(2, 4, 8, seed=4)}
    return loss, (p, normal(2, 7, 8)), "parameter input"


def sparse_layer() -> Program:
    dense_matrix = jnp.where(normal(12, 10, seed=3) > 0.8, normal(12, 10), 0)
    matrix = sparse.BCOO.fromdense(dense_matrix)

    def loss(data, x, y):
        a = sparse.BCOO((data, matrix.indices), shape=matrix.shape)
        return jnp.sum((jax.nn.relu(a @ x) - y) ** 2)

    return loss, (matrix.data, normal(10, 3), normal(12, 3)), "parameter input frozen"


def data_parallel() -> Program:
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec

    @partial(jax.shard_map, mesh=mesh, in_specs=(spec(), spec("data"), spec("data")), out_specs=spec())
    def loss(params, x, y):
        logits = mlp(params, x, jax.nn.relu)
        local = optax.sigmoid_binary_cross_entropy(logits, y).mean()
        return lax.pmean(local, "data")

    return loss, (dense(6, 12, 1), normal(8, 6), (normal(8, 1) > 0).astype(jnp.float32)), "parameter frozen frozen"


@jax.custom_jvp
def safe_norm(x):
    return jnp.sqrt(jnp.sum(x**2, axis=-1))


@safe_norm.defjvp
def safe_norm_jvp(primals, tangents):
    (x,), (t,) = primals, tangents
    y = safe_norm(x)
    return y, jnp.sum(x * t, axis=-1) / jnp.where(y > 0, y, 1.0)


def equivariant_graph() -> Program:
    def layer(p, h, pos):
        difference = pos[SENDERS] - pos[RECEIVERS]
        distance = safe_norm(difference)[:, None]
        m = jax.nn.silu(mlp(p["edge"], jnp.concatenate([h[SENDERS], h[RECEIVERS], distance], -1), jax.nn.silu))
        pos = pos + jax.ops.segment_sum(difference * jnp.tanh(mlp(p["coord"], m)), RECEIVERS, len(h))
        h = h + mlp(p["node"], jnp.concatenate([h, jax.ops.segment_sum(m, RECEIVERS, len(h))], -1), jax.nn.silu)
        return h, pos

    def loss(params, h, pos):
        for p in params:
            h, pos = layer(p, h, pos)
        return jnp.sum(h.sum(0) ** 2) + jnp.mean(safe_norm(pos))

    params = [
        {
            "edge": dense(9, 8, 6, seed=i),
            "coord": dense(6, 1, seed=i + 3),
            "node": dense(10, 8, 4, seed=i + 6),
        }
        for i in (0, 20)
    ]
    return loss, (params, normal(8, 4), normal(8, 3)), "parameter input input"


def speech_ctc() -> Program:
    def loss(params, frames, padding, labels, label_padding):
        logits = mlp(params, frames, jax.nn.relu)
        return optax.ctc_loss(logits, padding, labels, label_padding).mean()

    padding = jnp.zeros((2, 9)).at[1, 7:].set(1.0)
    labels = jnp.array([[1, 2, 3], [4, 1, 0]])
    args = dense(6, 10, 5), normal(2, 9, 6), padding, labels, jnp.array([[0.0, 0, 0], [0, 0, 1]])
    return loss, args, "parameter frozen frozen frozen frozen"


def dilated_convolutions() -> Program:
    def conv(x, w, dilation):
        pad = (w.shape[0] - 1) * dilation
        return lax.conv_general_dilated(
            x, w, (1,), [(pad, 0)], rhs_dilation=(dilation,), dimension_numbers=("NWC", "WIO", "NWC")
        )

    def loss(params, signal):
        x, skips = conv(signal[:, :-1], params["in"], 1), 0.0
        for i, p in enumerate(params["layers"]):
            h = jnp.tanh(conv(x, p["filter"], 2**i)) * jax.nn.sigmoid(conv(x, p["gate"], 2**i))
            skips += conv(h, p["skip"], 1)
            x = x + conv(h, p["out"], 1)
        mean, log_scale = jnp.split(conv(jax.nn.relu(skips), params["head"], 1), 2, axis=-1)
        z = (signal[:, 1:] - mean) * jnp.exp(-log_scale)
        return jnp.mean(z + log_scale + 2 * jax.nn.softplus(-z))

    shapes = {"filter": (2, 4, 4), "gate": (2, 4, 4), "skip": (1, 4, 6), "out": (1, 4, 4)}
    layers = [{n: normal(*s, seed=i + 7 * j) for j, (n, s) in enumerate(shapes.items())} for i in range(3)]
    return (
        loss,
        ({"in": normal(2, 1, 4), "layers": layers, "head": normal(1, 6, 2)}, normal(2, 17, 1)),
        "parameter frozen",
    )


@jax.custom_vjp
def quantized(x, scale):
    return jnp.clip(jnp.round(x / scale), -8, 7) * scale


def quantized_fwd(x, scale):
    return quantized(x, scale), (x, scale)


def quantized_bwd(kept, g):
    x, scale = kept
    inside = (x >= -8 * scale) & (x <= 7 * scale)
    return jnp.where(inside, g, 0), jnp.sum(jnp.where(inside, 0, g * jnp.sign(x))) * 7


quantized.defvjp(quantized_fwd, quantized_bwd)


def quantization_aware() -> Program:
    def loss(params, x, y):
        for p in params:
            x = jax.nn.relu(quantized(x, p["sx"]) @ quantized(p["w"], p["sw"]) + p["b"])
        return jnp.mean((x - y) ** 2)

    params = [p | {"sx": jnp.array(0.2), "sw": jnp.array(0.1)} for p in dense(6, 8, 3)]
    return loss, (params, normal(7, 6), normal(7, 3)), "parameter input frozen"


def vector_quantized() -> Program:
    def loss(params, x, key):
        z = mlp(params["encoder"], x, jax.nn.relu)
        distances = jnp.sum(z**2, -1, keepdims=True) - 2 * z @ params["codes"].T + jnp.sum(params["codes"] ** 2, -1)
        ids = jnp.argmin(distances, axis=-1)
        q = params["codes"][ids]
        straight = z + lax.stop_gradient(q - z)
        soft = jax.nn.softmax((-distances + jax.random.gumbel(key, distances.shape)) / 0.5)
        rebuilt = mlp(params["decoder"], straight, jax.nn.relu)
        commit = jnp.mean((lax.stop_gradient(q) - z) ** 2) + jnp.mean((q - lax.stop_gradient(z)) ** 2)
        usage = jnp.mean(soft, axis=0)
        return jnp.mean((rebuilt - x) ** 2) + commit + jnp.sum(usage * jnp.log(usage + 1e-9)), ids

    params = {"encoder": dense(9, 12, 3), "decoder": dense(3, 12, 9, seed=4), "codes": normal(7, 3)}
    return loss, (params, normal(6, 9), KEY), "parameter frozen frozen"


def sinkhorn() -> Program:
    def loss(params, x, y):
        a, b = mlp(params, x), y
        cost = jnp.sum((a[:, None] - b[None]) ** 2, axis=-1)
        log_k = -cost / 0.5

        def body(_, duals):
            f, g = duals
            f = -jax.scipy.special.logsumexp(log_k + g[None], axis=1)
            return f, -jax.scipy.special.logsumexp(log_k + f[:, None], axis=0)

        f, g = lax.fori_loop(0, 10, body, (jnp.zeros(len(a)), jnp.zeros(len(b))))
        plan = jnp.exp(log_k + f[:, None] + g[None])
        return jnp.sum(plan * cost)

    return loss, (dense(3, 8, 2), normal(6, 3), normal(5, 2)), "parameter input frozen"


def time_mixing() -> Program:
    """A recurrence like RWKV's, with a running maximum so that the exponentials stay small."""

    def mix(p, x):
        before = jnp.pad(x, ((1, 0), (0, 0)))[:-1]
        k = (x * p["mk"] + before * (1 - p["mk"])) @ p["k"]
        v = (x * p["mv"] + before * (1 - p["mv"])) @ p["v"]
        r = jax.nn.sigmoid((x * p["mr"] + before * (1 - p["mr"])) @ p["r"])

        def step(state, kv):
            (num, den, top), (k, v) = state, kv
            high = jnp.maximum(top, k + p["first"])
            a, b = jnp.exp(top - high), jnp.exp(k + p["first"] - high)
            out = (a * num + b * v) / (a * den + b)
            high = jnp.maximum(top + p["decay"], k)
            a, b = jnp.exp(top + p["decay"] - high), jnp.exp(k - high)
            return (a * num + b * v, a * den + b, high), out

        zero = jnp.zeros(x.shape[-1])
        _, wkv = lax.scan(step, (zero, zero, zero - 1e30), (k, v))
        return (r * wkv) @ p["o"]

    def loss(params, x):
        for p in params:
            x = x + jax.vmap(partial(mix, p))(x)
        return jnp.mean(x**2)

    names = {**dict.fromkeys(("mk", "mv", "mr", "first", "decay"), (6,)), **dict.fromkeys("kvro", (6, 6))}
    params = [{n: 0.4 * normal(*s, seed=i + 3 * j) for j, (n, s) in enumerate(names.items())} for i in (0, 1)]
    return loss, (params, normal(2, 9, 6)), "parameter input"


@partial(jax.tree_util.register_dataclass, data_fields=["w", "b"], meta_fields=["act", "residual"])
class Layer:
    def __init__(self, w, b, act="relu", residual=False):
        self.w, self.b, self.act, self.residual = w, b, act, residual

    def __call__(self, x):
        with jax.named_scope(self.act):
            y = getattr(jax.nn, self.act)(x @ self.w + self.b)
            return x + y if self.residual else y


def dataclass_layers() -> Program:
    layers = [
        Layer(normal(6, 8), normal(8)),
        Layer(normal(8, 8, seed=1), normal(8, seed=1), "celu", True),
        Layer(normal(8, 8, seed=2), normal(8, seed=2), "softplus", True),
        Layer(normal(8, 1, seed=3), normal(1, seed=3), "hard_tanh"),
    ]

    @partial(jax.jit, static_argnames="reduction")
    def loss(layers, x, reduction="mean"):
        for layer in layers:
            x = layer(x)
        return getattr(jnp, reduction)(jnp.exp(-x))

    return loss, (layers, normal(5, 6)), "parameter input"


def conditional_random_field() -> Program:
    def loss(params, x, tags):
        scores, transitions = mlp(params["net"], x), params["transitions"]

        def log_partition(scores):
            def step(alpha, row):
                return jax.nn.logsumexp(alpha[:, None] + transitions, axis=0) + row, None

            alpha, _ = lax.scan(step, scores[0], scores[1:])
            return jax.nn.logsumexp(alpha)

        def gold(scores, tags):
            return scores[jnp.arange(len(tags)), tags].sum() + transitions[tags[:-1], tags[1:]].sum()

        return jnp.mean(jax.vmap(log_partition)(scores) - jax.vmap(gold)(scores, tags))

    params = {"net": dense(5, 8, 4), "transitions": normal(4, 4)}
    return loss, (params, normal(3, 7, 5), jnp.arange(21).reshape(3, 7) % 4), "parameter frozen frozen"


def attention_in_blocks() -> Program:
    """Attention with a running softmax over blocks of keys, its body checkpointed."""

    def attend(q, k, v, block=4):
        blocks = k.reshape(-1, block, k.shape[-1]), v.reshape(-1, block, v.shape[-1])

        @jax.checkpoint
        def body(carry, kv):
            out, top, total = carry
            scores = q @ kv[0].T * q.shape[-1] ** -0.5
            high = jnp.maximum(top, scores.max(-1))
            weights, old = jnp.exp(scores - high[:, None]), jnp.exp(top - high)
            return (out * old[:, None] + weights @ kv[1], high, total * old + weights.sum(-1)), None

        start = jnp.zeros_like(q), jnp.full(len(q), -jnp.inf), jnp.zeros(len(q))
        (out, _, total), _ = lax.scan(body, start, blocks)
        return out / total[:, None]

    def loss(w, x):
        q, k, v = jnp.split(x @ w, 3, axis=-1)
        return jnp.mean(attend(q, k, v) ** 2)

    return loss, (normal(6, 18), normal(12, 6)), "parameter input"


def learned_optimizer() -> Program:
    optimizer = optax.adam(1e-2)

    def objective(x):
        return jnp.sum((x - 1.0) ** 2 + 0.1 * jnp.cos(5 * x))

    def meta_loss(params, x0):
        def step(carry, _):
            x, state = carry
            grads = jax.grad(objective)(x)
            updates, state = optimizer.update(grads, state)
            correction = jax.vmap(lambda g, u: mlp(params, jnp.stack([g, u]))[0])(grads, updates)
            return (optax.apply_updates(x, updates + 0.01 * correction), state), objective(x)

        _, losses = lax.scan(step, (x0, optimizer.init(x0)), None, length=6)
        return losses.mean()

    return meta_loss, (dense(2, 6, 1), normal(5)), "parameter frozen"


def continuous_flow() -> Program:
    def field(params, x, t):
        return mlp(params, jnp.append(x, t))

    def log_prob(params, x, key):
        noise = jax.random.rademacher(key, x.shape, dtype=x.dtype)

        def step(i, state):
            x, log_det = state
            value, pushed = jax.jvp(lambda x: field(params, x, i / 8), (x,), (noise,))
            return x + value / 8, log_det + jnp.vdot(noise, pushed) / 8

        z, log_det = lax.fori_loop(0, 8, step, (x, 0.0))
        return log_det - 0.5 * jnp.sum(z**2)

    def loss(params, xs, key):
        return -jax.vmap(log_prob, (None, 0, 0))(params, xs, jax.random.split(key, len(xs))).mean()

    return loss, (dense(3, 10, 2), normal(6, 2), KEY), "parameter frozen frozen"


def hessian_regularized() -> Program:
    def loss(params, x, y, key):
        f = lambda p: jnp.mean((mlp(p, x) - y) ** 2)  # noqa: E731
        leaves, treedef = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        probe = treedef.unflatten([jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)])
        _, hvp = jax.jvp(jax.grad(f), (params,), (probe,))
        curvature = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, probe, hvp)))
        return f(params) + 0.1 * jnp.maximum(curvature, 0.0)

    return loss, (dense(4, 7, 1), normal(6, 4), normal(6, 1), KEY), "parameter frozen frozen frozen"


def spectral_complex() -> Program:
    """Phase retrieval: the arguments are complex."""

    def loss(image, mask, measured):
        field = jnp.fft.fft2(image * mask)
        error = jnp.abs(field) - measured
        smooth = jnp.sum(jnp.abs(jnp.diff(image, axis=0)) ** 2)
        return jnp.mean(error**2) + 0.01 * smooth

    image = normal(8, 8) + 1j * normal(8, 8, seed=1)
    return loss, (image, jnp.exp(1j * normal(8, 8, seed=2)), jnp.abs(normal(8, 8, seed=3))), "input frozen frozen"


def cellular_automaton() -> Program:
    """A differentiable cellular automaton: perception by fixed filters, a step under a random mask."""

    def loss(params, state, target, key):
        filters = jnp.stack([jnp.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]), jnp.eye(3)]) / 8

        def perceive(x):
            pads = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), mode="wrap")
            found = [sum(f[i, j] * pads[i : i + 8, j : j + 8] for i in range(3) for j in range(3)) for f in filters]
            return jnp.concatenate([x, *found], axis=-1)

        def step(x, key):
            dx = mlp(params, perceive(x), jax.nn.relu)
            alive = jax.random.uniform(key, (8, 8, 1)) < 0.5
            return jnp.clip(x + dx * alive, -2.0, 2.0), x[..., 0].mean()

        x, _ = lax.scan(step, state, jax.random.split(key, 5))
        return jnp.mean((x[..., :3] - target) ** 2)

    return loss, (dense(12, 10, 4), normal(8, 8, 4), normal(8, 8, 3), KEY), "parameter input frozen frozen"


def cond_in_scan() -> Program:
    """Scheduled sampling: each step takes the truth or what the model made, by a coin."""

    def loss(params, xs, coins):
        def step(carry, inputs):
            h, last = carry
            x, coin = inputs
            x = lax.cond(coin, lambda: x, lambda: lax.stop_gradient(last))
            h = jnp.tanh(x @ params["x"] + h @ params["h"])
            out = h @ params["out"]
            return (h, out), jnp.sum((out - inputs[0]) ** 2)

        start = jnp.zeros(8), jnp.zeros(3)
        return lax.scan(step, start, (xs, coins), unroll=2)[1].mean()

    params = {"x": normal(3, 8), "h": normal(8, 8), "out": normal(8, 3)}
    return loss, (params, normal(10, 3), jnp.arange(10) % 3 == 0), "parameter input frozen"


def shifted_windows() -> Program:
    """Attention inside of shifted windows, with a mask from the shift."""

    def windows(x, size=4):
        h, w, c = x.shape
        return x.reshape(h // size, size, w // size, size, c).transpose(0, 2, 1, 3, 4).reshape(-1, size * size, c)

    def loss(p, x):
        labels = jnp.arange(64).reshape(8, 8, 1) // 12
        mask = windows(jnp.roll(labels, (-2, -2), (0, 1)))
        same = mask == mask.transpose(0, 2, 1)

        def one(x):
            tokens = windows(jnp.roll(x, (-2, -2), (0, 1)))
            mean, var = tokens.mean(-1, keepdims=True), tokens.var(-1, keepdims=True)
            h = (tokens - mean) / jnp.sqrt(var + 1e-5) * p["scale"] + p["shift"]
            q, k, v = jnp.split(h @ p["qkv"], 3, -1)
            scores = jnp.einsum("wqc,wkc->wqk", q, k) * 8**-0.5 + p["bias"]
            weights = jax.nn.softmax(jnp.where(same, scores, jnp.finfo(scores.dtype).min), axis=-1)
            return tokens + jnp.einsum("wqk,wkc->wqc", weights, v) @ p["out"]

        return jnp.mean(jax.vmap(one)(x) ** 2)

    shapes = {"scale": (8,), "shift": (8,), "qkv": (8, 24), "bias": (16, 16), "out": (8, 8)}
    return (
        loss,
        ({n: normal(*s, seed=i) for i, (n, s) in enumerate(shapes.items())}, normal(2, 8, 8, 8)),
        "parameter input",
    )


def donated_steps() -> Program:
    """Unrolled gradient descent, each step a jit that is given its state."""

    @partial(jax.jit, donate_argnums=0)
    def step(w, rate, x, y):
        grad = jax.grad(lambda w: jnp.mean(jnp.square(jnp.tanh(x @ w) - y)))(w)
        return w - rate * grad

    def loss(log_rates, x, y):
        w = jnp.zeros((x.shape[1], y.shape[1]))
        for log_rate in log_rates:
            w = step(w + 0.0, jnp.exp(log_rate), x, y)
        return jnp.mean((jnp.tanh(x @ w) - y) ** 2)

    return loss, (jnp.array([-1.0, -2.0, -1.5]), normal(9, 4), normal(9, 2)), "parameter frozen frozen"

"""Small PyTorch models as people publish them, with what they write by hand."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class HandAttention(nn.Module):
    """nanoGPT's and minGPT's, without flash attention."""

    def __init__(self, dim, heads, block, dropout=0.0):
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.attn_dropout, self.resid_dropout = nn.Dropout(dropout), nn.Dropout(dropout)
        self.heads = heads
        self.register_buffer("bias", torch.tril(torch.ones(block, block)).view(1, 1, block, block))

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(C, dim=2)
        q, k, v = (a.view(B, T, self.heads, C // self.heads).transpose(1, 2) for a in (q, k, v))
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf"))
        att = F.softmax(att, dim=-1)
        att = self.attn_dropout(att)
        y = att @ v
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C)))


class NewGELU(nn.Module):
    def forward(self, x):
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


class GPTBlock(nn.Module):
    def __init__(self, dim, heads, block, act, dropout=0.0):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = HandAttention(dim, heads, block, dropout)
        self.c_fc, self.act, self.c_proj = nn.Linear(dim, 4 * dim), act, nn.Linear(4 * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.dropout(self.c_proj(self.act(self.c_fc(self.ln_2(x)))))


class GPT(nn.Module):
    def __init__(self, act, vocab=4096, block=128, layers=3, dim=128, heads=4, dropout=0.0):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, dim), nn.Embedding(block, dim)
        self.h = nn.ModuleList(GPTBlock(dim, heads, block, act, dropout) for _ in range(layers))
        self.ln_f, self.lm_head = nn.LayerNorm(dim), nn.Linear(dim, vocab, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, idx, targets):
        x = self.wte(idx) + self.wpe(torch.arange(idx.size(1), device=idx.device))
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)


class RMSNorm(nn.Module):
    """llama2.c's."""

    def __init__(self, dim, eps=1e-5):
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(dim))

    def _norm(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    def forward(self, x):
        return self._norm(x.float()).type_as(x) * self.weight


class LlamaBlock(nn.Module):
    def __init__(self, dim, heads, kv_heads, hidden):
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads, dim // heads
        self.wq, self.wo = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.wk = nn.Linear(dim, kv_heads * self.size, bias=False)
        self.wv = nn.Linear(dim, kv_heads * self.size, bias=False)
        self.w1, self.w3 = nn.Linear(dim, hidden, bias=False), nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)
        self.attention_norm, self.ffn_norm = RMSNorm(dim), RMSNorm(dim)

    def rotated(self, x, cos, sin):
        r, i = x.float().reshape((*x.shape[:-1], -1, 2)).unbind(-1)
        cos, sin = cos[None, :, None], sin[None, :, None]
        return torch.stack([r * cos - i * sin, r * sin + i * cos], dim=-1).flatten(3).type_as(x)

    def forward(self, x, cos, sin, mask):
        B, T, _ = x.shape
        h = self.attention_norm(x)
        q = self.rotated(self.wq(h).view(B, T, self.heads, self.size), cos, sin)
        k = self.rotated(self.wk(h).view(B, T, self.kv_heads, self.size), cos, sin)
        v = self.wv(h).view(B, T, self.kv_heads, self.size)
        n = self.heads // self.kv_heads
        k, v = (a[:, :, :, None].expand(B, T, self.kv_heads, n, self.size).reshape(B, T, -1, self.size) for a in (k, v))
        q, k, v = (a.transpose(1, 2) for a in (q, k, v))
        scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(self.size) + mask
        scores = F.softmax(scores.float(), dim=-1).type_as(q)
        y = torch.matmul(scores, v).transpose(1, 2).contiguous().view(B, T, -1)
        x = x + self.wo(y)
        h = self.ffn_norm(x)
        return x + self.w2(F.silu(self.w1(h)) * self.w3(h))


class Llama(nn.Module):
    """llama2.c, before flash attention."""

    def __init__(self, vocab=4096, dim=128, layers=3, heads=4, kv_heads=2, block=128):
        super().__init__()
        self.tok = nn.Embedding(vocab, dim)
        self.layers = nn.ModuleList(LlamaBlock(dim, heads, kv_heads, 344) for _ in range(layers))
        self.norm, self.output = RMSNorm(dim), nn.Linear(dim, vocab, bias=False)
        angles = torch.outer(torch.arange(block), 1.0 / 10000 ** (torch.arange(0, dim // heads, 2) / (dim // heads)))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        self.register_buffer("mask", torch.triu(torch.full((1, 1, block, block), float("-inf")), diagonal=1))

    def forward(self, tokens, targets):
        h, T = self.tok(tokens), tokens.shape[1]
        for layer in self.layers:
            h = layer(h, self.cos[:T], self.sin[:T], self.mask[:, :, :T, :T])
        logits = self.output(self.norm(h))
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))


class GemmaRMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (h * (1 + self.weight.float())).type_as(x)


class GemmaMLP(nn.Module):
    def __init__(self, dim=128, hidden=512, layers=3):
        super().__init__()
        self.norms = nn.ModuleList(GemmaRMSNorm(dim) for _ in range(layers))
        self.gates = nn.ModuleList(nn.Linear(dim, hidden) for _ in range(layers))
        self.ups = nn.ModuleList(nn.Linear(dim, hidden) for _ in range(layers))
        self.downs = nn.ModuleList(nn.Linear(hidden, dim) for _ in range(layers))

    def forward(self, x):
        for norm, gate, up, down in zip(self.norms, self.gates, self.ups, self.downs, strict=True):
            h = norm(x)
            x = x + down(F.gelu(gate(h), approximate="tanh") * up(h))
        return x.mean()


class GEGLU(nn.Module):
    """x-transformers'."""

    def __init__(self, dim, hidden):
        super().__init__()
        self.proj = nn.Linear(dim, hidden * 2)

    def forward(self, x):
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class ViTAttention(nn.Module):
    """vit-pytorch's."""

    def __init__(self, dim, heads=4, dim_head=32, dropout=0.0):
        super().__init__()
        self.heads, self.scale = heads, dim_head**-0.5
        self.norm, self.attend, self.dropout = nn.LayerNorm(dim), nn.Softmax(dim=-1), nn.Dropout(dropout)
        self.to_qkv = nn.Linear(dim, heads * dim_head * 3, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim)

    def forward(self, x):
        x = self.norm(x)
        q, k, v = (a.unflatten(-1, (self.heads, -1)).transpose(1, 2) for a in self.to_qkv(x).chunk(3, dim=-1))
        attn = self.dropout(self.attend(torch.matmul(q, k.transpose(-1, -2)) * self.scale))
        return self.to_out(torch.matmul(attn, v).transpose(1, 2).flatten(2))


class ViT(nn.Module):
    def __init__(self, dim=128, depth=3, patch=8, image=64, ff=None, dropout=0.0):
        super().__init__()
        self.patch, n = patch, (image // patch) ** 2
        self.embed, self.pos = nn.Linear(3 * patch * patch, dim), nn.Parameter(torch.randn(1, n + 1, dim))
        self.cls = nn.Parameter(torch.randn(1, 1, dim))
        self.attn = nn.ModuleList(ViTAttention(dim, dropout=dropout) for _ in range(depth))
        ff = ff or (
            lambda: nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        )
        self.ff = nn.ModuleList(ff() for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)

    def forward(self, images, labels):
        p = self.patch
        x = images.unfold(2, p, p).unfold(3, p, p).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), self.embed(x)], 1) + self.pos
        for attn, ff in zip(self.attn, self.ff, strict=True):
            x = attn(x) + x
            x = ff(x) + x
        return F.cross_entropy(self.head(self.norm(x)[:, 0]), labels)


class ChannelRMSNorm(nn.Module):
    """denoising-diffusion-pytorch's."""

    def __init__(self, dim):
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, dim, 1, 1))

    def forward(self, x):
        return F.normalize(x, dim=1) * self.g * (x.shape[1] ** 0.5)


class UNetAttention(nn.Module):
    def __init__(self, dim, heads=4, dim_head=32):
        super().__init__()
        self.heads, self.scale, self.norm = heads, dim_head**-0.5, ChannelRMSNorm(dim)
        self.to_qkv = nn.Conv2d(dim, heads * dim_head * 3, 1, bias=False)
        self.to_out = nn.Conv2d(heads * dim_head, dim, 1)

    def forward(self, x):
        b, _, h, w = x.shape
        q, k, v = (a.reshape(b, self.heads, -1, h * w) for a in self.to_qkv(self.norm(x)).chunk(3, dim=1))
        sim = torch.einsum("b h d i, b h d j -> b h i j", q * self.scale, k)
        out = torch.einsum("b h i j, b h d j -> b h i d", sim.softmax(dim=-1), v)
        return self.to_out(out.transpose(-1, -2).reshape(b, -1, h, w))


class ResBlock(nn.Module):
    def __init__(self, dim_in, dim):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(dim_in, dim, 3, padding=1), nn.Conv2d(dim, dim, 3, padding=1)
        self.norm1, self.norm2, self.act = nn.GroupNorm(8, dim), nn.GroupNorm(8, dim), nn.SiLU()
        self.time, self.skip = nn.Linear(64, dim * 2), nn.Conv2d(dim_in, dim, 1)

    def forward(self, x, t):
        scale, shift = self.time(F.silu(t))[:, :, None, None].chunk(2, dim=1)
        h = self.act(self.norm1(self.conv1(x)) * (scale + 1) + shift)
        return self.act(self.norm2(self.conv2(h))) + self.skip(x)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.mid = ResBlock(3, 32), ResBlock(32, 64), ResBlock(64, 64)
        self.attn, self.up = UNetAttention(64), ResBlock(96, 32)
        self.out, self.time = nn.Conv2d(32, 3, 1), nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 64))

    def forward(self, x, t, noise):
        freqs = torch.exp(torch.arange(16) * (-math.log(10000) / 15))
        t = self.time(torch.cat([(t[:, None] * freqs).sin(), (t[:, None] * freqs).cos()], -1))
        a = self.down1(x, t)
        h = self.down2(F.avg_pool2d(a, 2), t)
        h = h + self.attn(h)
        h = F.interpolate(self.mid(h, t), scale_factor=2)
        return F.mse_loss(self.out(self.up(torch.cat([h, a], 1), t)), noise)


class AnnotatedLayerNorm(nn.Module):
    """The Annotated Transformer's."""

    def __init__(self, features, eps=1e-6):
        super().__init__()
        self.a_2, self.b_2, self.eps = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features)), eps

    def forward(self, x):
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return self.a_2 * (x - mean) / (std + self.eps) + self.b_2


class HandLayerNorm(nn.Module):
    """As in BERT's first ports: the epsilon is within the square root."""

    def __init__(self, dim, eps=1e-12):
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim)), eps

    def forward(self, x):
        u = x.mean(-1, keepdim=True)
        s = (x - u).pow(2).mean(-1, keepdim=True)
        x = (x - u) / torch.sqrt(s + self.eps)
        return self.weight * x + self.bias


def attention(query, key, value, mask=None, dropout=None):
    """The Annotated Transformer's."""
    scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(query.size(-1))
    if mask is not None:
        scores = scores.masked_fill(mask == 0, -1e9)
    p_attn = scores.softmax(dim=-1)
    if dropout is not None:
        p_attn = dropout(p_attn)
    return torch.matmul(p_attn, value)


class EncoderLayer(nn.Module):
    def __init__(self, dim, heads, norm, act, dropout=0.1):
        super().__init__()
        self.heads, self.q, self.k, self.v, self.o = heads, *(nn.Linear(dim, dim) for _ in range(4))
        self.norm1, self.norm2 = norm(dim), norm(dim)
        self.w_1, self.w_2, self.act, self.dropout = (
            nn.Linear(dim, 4 * dim),
            nn.Linear(4 * dim, dim),
            act,
            nn.Dropout(dropout),
        )

    def split(self, x):
        return x.view(x.size(0), -1, self.heads, x.size(-1) // self.heads).transpose(1, 2)

    def attend(self, x, memory, mask):
        q, k, v = self.split(self.q(x)), self.split(self.k(memory)), self.split(self.v(memory))
        y = attention(q, k, v, mask, None)
        return self.o(y.transpose(1, 2).contiguous().view(x.size(0), -1, x.size(-1)))

    def forward(self, x, mask):
        h = self.norm1(x)
        x = x + self.dropout(self.attend(h, h, mask))
        return x + self.dropout(self.w_2(self.dropout(self.act(self.w_1(self.norm2(x))))))


class Encoder(nn.Module):
    """An encoder with a head over the vocabulary; `loss` of log-probabilities and labels, or F.cross_entropy."""

    def __init__(self, norm, act, vocab=4096, dim=128, heads=4, layers=2, dropout=0.1, loss=None, block=128):
        super().__init__()
        self.embed, self.pos = nn.Embedding(vocab, dim), nn.Parameter(torch.zeros(block, dim))
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, norm, act, dropout) for _ in range(layers))
        self.norm, self.proj, self.loss = norm(dim), nn.Linear(dim, vocab), loss

    def forward(self, tokens, labels):
        mask = (tokens != 0).unsqueeze(1).unsqueeze(2)
        x = self.embed(tokens) + self.pos[: tokens.size(1)]
        for layer in self.layers:
            x = layer(x, mask)
        logits = self.proj(self.norm(x)).flatten(0, 1)
        return (self.loss or F.cross_entropy)(logits, labels.flatten())


def label_smoothing(logits, labels, smoothing=0.1):
    """timm's LabelSmoothingCrossEntropy."""
    logprobs = F.log_softmax(logits, dim=-1)
    nll_loss = -logprobs.gather(dim=-1, index=labels.unsqueeze(1)).squeeze(1)
    smooth_loss = -logprobs.mean(dim=-1)
    return ((1.0 - smoothing) * nll_loss + smoothing * smooth_loss).mean()


def kl_smoothing(logits, labels, smoothing=0.1):
    """The Annotated Transformer's."""
    x = F.log_softmax(logits, dim=-1)
    true = torch.full_like(x, smoothing / (x.size(1) - 2)).scatter(1, labels.unsqueeze(1), 1.0 - smoothing)
    return F.kl_div(x, true, reduction="sum") / x.size(0)


def hand_loss(logits, labels):
    """Log-sum-exp less the logit of the label."""
    return (torch.logsumexp(logits, -1) - logits.gather(1, labels[:, None])[:, 0]).mean()


def z_loss(logits, labels):
    z = torch.logsumexp(logits, -1)
    return F.cross_entropy(logits, labels) + 1e-4 * (z**2).mean()


def focal_loss(logits, labels, gamma=2.0):
    ce = F.cross_entropy(logits, labels, reduction="none")
    return ((1 - torch.exp(-ce)) ** gamma * ce).mean()


class WordLSTM(nn.Module):
    """PyTorch's word_language_model."""

    def __init__(self, vocab=10000, dim=128, layers=2):
        super().__init__()
        self.drop, self.encoder = nn.Dropout(0.5), nn.Embedding(vocab, dim)
        self.rnn, self.decoder = nn.LSTM(dim, dim, layers, dropout=0.5), nn.Linear(dim, vocab)

    def forward(self, tokens, targets):
        out, _ = self.rnn(self.drop(self.encoder(tokens)))
        decoded = self.decoder(self.drop(out))
        return F.nll_loss(F.log_softmax(decoded.flatten(0, 1), dim=1), targets.flatten())


class HandLSTM(nn.Module):
    """A cell by hand in a Python loop of 50 steps."""

    def __init__(self, dim=128):
        super().__init__()
        self.i, self.h = nn.Linear(dim, 4 * dim), nn.Linear(dim, 4 * dim)

    def forward(self, xs):
        h = c = torch.zeros(xs.shape[1], xs.shape[2])
        for x in xs:
            i, f, g, o = (self.i(x) + self.h(h)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return h.pow(2).mean()


class EulerODE(nn.Module):
    """x ← x + dt·f(x), 50 times."""

    def __init__(self, dim=64):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(dim, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, dim))

    def forward(self, x):
        for _ in range(50):
            x = x + 0.02 * self.f(x)
        return x.pow(2).mean()


class MLP(nn.Module):
    def __init__(self, act, dim=128, hidden=512, layers=4, dropout=0.0):
        super().__init__()
        self.ins = nn.ModuleList(nn.Linear(dim, hidden) for _ in range(layers))
        self.outs = nn.ModuleList(nn.Linear(hidden, dim) for _ in range(layers))
        self.act, self.dropout = act, nn.Dropout(dropout)

    def forward(self, x):
        for a, b in zip(self.ins, self.outs, strict=True):
            x = x + self.dropout(b(self.act(a(x))))
        return x.pow(2).mean()


class Normed(nn.Module):
    """A stack of norms and layers."""

    def __init__(self, norm, dim=256, layers=4):
        super().__init__()
        self.norms, self.layers = (
            nn.ModuleList(norm(dim) for _ in range(layers)),
            nn.ModuleList(nn.Linear(dim, dim) for _ in range(layers)),
        )

    def forward(self, x):
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x))
        return x.mean()


class CLIPLoss(nn.Module):
    def __init__(self, dim=64):
        super().__init__()
        self.image, self.text = nn.Linear(128, dim), nn.Linear(128, dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, images, texts):
        i, t = self.image(images), self.text(texts)
        i, t = i / i.norm(dim=1, keepdim=True), t / t.norm(dim=1, keepdim=True)
        logits = self.logit_scale.exp() * i @ t.t()
        labels = torch.arange(len(i))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2


class BiasedAttention(nn.Module):
    """Attention with ALiBi, or with T5's relative bias, which is learned."""

    def __init__(self, dim=128, heads=4, block=128, is_learned=False):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        distance = torch.arange(block)[:, None] - torch.arange(block)[None]
        if is_learned:
            self.table, self.register = nn.Embedding(32, heads), None
            self.register_buffer("buckets", distance.clamp(0, 31))
        else:
            self.table = None
            slopes = torch.tensor([2.0 ** -(8 * (i + 1) / heads) for i in range(heads)])
            self.register_buffer("alibi", -slopes[:, None, None] * distance.abs())
        self.register_buffer("causal", distance < 0)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (a.view(b, t, self.heads, -1).transpose(1, 2) for a in self.qkv(x).split(d, 2))
        bias = self.alibi if self.table is None else self.table(self.buckets).permute(2, 0, 1)
        scores = q @ k.mT / math.sqrt(d // self.heads) + bias
        weights = torch.softmax(scores.masked_fill(self.causal, -torch.inf), -1)
        return self.out((weights @ v).transpose(1, 2).reshape(b, t, d)).pow(2).mean()


class Perceiver(nn.Module):
    """Cross attention of 64 latents to 512 inputs, with a GEGLU behind it."""

    def __init__(self, dim=128, heads=4, latents=64):
        super().__init__()
        self.latents, self.heads = nn.Parameter(torch.randn(latents, dim)), heads
        self.to_q, self.to_kv, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.ff = nn.Sequential(nn.LayerNorm(dim), GEGLU(dim, 4 * dim), nn.Linear(4 * dim, dim))

    def forward(self, x):
        z = self.latents.expand(len(x), -1, -1)
        q, (k, v) = self.to_q(z), self.to_kv(x).chunk(2, -1)
        q, k, v = (a.unflatten(-1, (self.heads, -1)).transpose(1, 2).flatten(0, 1) for a in (q, k, v))
        sim = torch.einsum("b i d, b j d -> b i j", q, k) * (q.shape[-1] ** -0.5)
        y = torch.einsum("b i j, b j d -> b i d", sim.softmax(-1), v)
        z = z + self.out(y.unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2))
        return (z + self.ff(z)).pow(2).mean()


class Mish(nn.Module):
    def forward(self, x):
        return x * torch.tanh(F.softplus(x))


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class ErfGELU(nn.Module):
    """The first BERT ports'."""

    def forward(self, x):
        return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))

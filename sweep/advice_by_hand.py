"""Advice that is taken by hand: a model of `advice_models.py` is written over as a reader of the advice would, and
audited again. Prints what was said and what is freed.

    python sweep/advice_by_hand.py
"""

import math
import sys
import warnings
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F

import residuals_torch as ours
from residuals_lab.audit import audit

sys.path.insert(0, str(Path(__file__).parent))
import advice_models as models
import advice_written as written


def hand_attention(self, x):
    B, T, C = x.size()
    q, k, v = self.c_attn(x).split(C, dim=2)
    q, k, v = (a.view(B, T, self.heads, C // self.heads).transpose(1, 2) for a in (q, k, v))
    y = ours.flash_attention(q, k, v, is_causal=True)
    return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


def gpt(self, idx, targets):
    x = self.wte(idx) + self.wpe(torch.arange(idx.size(1), device=idx.device))
    for block in self.h:
        x = block(x)
    x = self.ln_f(x).flatten(0, 1)
    return ours.linear_cross_entropy(x, self.lm_head.weight, targets.view(-1), ignore_index=-1)


def vit_attention(self, x):
    x = self.norm(x)
    q, k, v = (a.unflatten(-1, (self.heads, -1)).transpose(1, 2) for a in self.to_qkv(x).chunk(3, dim=-1))
    return self.to_out(ours.flash_attention(q, k, v, scale=self.scale).transpose(1, 2).flatten(2))


def llama_block(self, x, cos, sin, mask):
    B, T, _ = x.shape
    h = self.attention_norm(x)
    q = self.rotated(self.wq(h).view(B, T, self.heads, self.size), cos, sin)
    k = self.rotated(self.wk(h).view(B, T, self.kv_heads, self.size), cos, sin)
    v = self.wv(h).view(B, T, self.kv_heads, self.size)
    n = self.heads // self.kv_heads
    k, v = (a[:, :, :, None].expand(B, T, self.kv_heads, n, self.size).reshape(B, T, -1, self.size) for a in (k, v))
    q, k, v = (a.transpose(1, 2) for a in (q, k, v))
    scores = F.softmax((torch.matmul(q, k.transpose(2, 3)) / math.sqrt(self.size) + mask).float(), dim=-1).type_as(q)
    x = x + self.wo(torch.matmul(scores, v).transpose(1, 2).contiguous().view(B, T, -1))
    h = self.ffn_norm(x)
    return x + self.w2(ours.swiglu(self.w1(h), self.w3(h)))


def perceiver(self, x):
    z = self.latents.expand(len(x), -1, -1)
    q, (k, v) = self.to_q(z), self.to_kv(x).chunk(2, -1)
    q, k, v = (a.unflatten(-1, (self.heads, -1)).transpose(1, 2) for a in (q, k, v))
    y = ours.flash_attention(q, k, v)
    z = z + self.out(y.transpose(1, 2).flatten(2))
    return (z + self.ff(z)).pow(2).mean()


def lstm(self, xs):
    def step(h, c, x):
        i, f, g, o = (self.i(x) + self.h(h)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    h = c = torch.zeros(xs.shape[1], xs.shape[2])
    for x in xs:
        h, c = torch.utils.checkpoint.checkpoint(step, h, c, x, use_reentrant=False)
    return h.pow(2).mean()


def euler(self, x):
    for _ in range(50):
        x = torch.utils.checkpoint.checkpoint(lambda x: x + 0.02 * self.f(x), x, use_reentrant=False)
    return x.pow(2).mean()


def word_lstm(self, tokens, targets):
    out, _ = self.rnn(self.drop(self.encoder(tokens)))
    x = self.drop(out).flatten(0, 1)
    return ours.linear_cross_entropy(x, self.decoder.weight, targets.flatten(), bias=self.decoder.bias)


def alibi(self, x):
    b, t, d = x.shape
    q, k, v = (a.view(b, t, self.heads, -1).transpose(1, 2) for a in self.qkv(x).split(d, 2))
    bias = self.alibi if self.table is None else self.table(self.buckets).permute(2, 0, 1)
    y = ours.flash_attention(q, k, v, bias=bias, is_causal=True)
    return self.out(y.transpose(1, 2).reshape(b, t, d)).pow(2).mean()


NORM = (written.RMSNorm, "forward", lambda self, x: ours.rms_norm(x, self.weight, eps=self.eps))
LAYER_NORM = (
    written.HandLayerNorm,
    "forward",
    lambda self, x: ours.layer_norm(x, self.weight, self.bias, eps=self.eps),
)
GELU = (written.NewGELU, "forward", lambda self, x: ours.gelu(x, approximate="tanh"))
DROPOUT = (torch.nn.Dropout, "forward", lambda self, x: ours.dropout(x, self.p if self.training else 0.0))
# Model, the op that is taken, and what is written over: a class, its method, and another method.
TAKEN = [
    ("nanogpt", "flash_attention", (written.HandAttention, "forward", hand_attention)),
    ("nanogpt", "linear_cross_entropy", (written.GPT, "forward", gpt)),
    ("mingpt", "gelu", GELU),
    ("llama2.c", "rms_norm", NORM),
    ("llama2.c", "swiglu", (written.LlamaBlock, "forward", llama_block)),
    ("vit-pytorch", "flash_attention", (written.ViTAttention, "forward", vit_attention)),
    ("perceiver", "flash_attention", (written.Perceiver, "forward", perceiver)),
    ("alibi by hand", "flash_attention", (written.BiasedAttention, "forward", alibi)),
    ("t5 bias by hand", "flash_attention", (written.BiasedAttention, "forward", alibi)),
    ("lstm lm", "linear_cross_entropy", (written.WordLSTM, "forward", word_lstm)),
    ("lstm by hand", "torch.utils.checkpoint.checkpoint", (written.HandLSTM, "forward", lstm)),
    ("euler ode", "torch.utils.checkpoint.checkpoint", (written.EulerODE, "forward", euler)),
    ("layer norm by hand", "layer_norm", LAYER_NORM),
    ("mlp dropout", "dropout", DROPOUT),
]


def main():
    """Take each, and print a table."""
    warnings.simplefilter("ignore")
    print("| model | op | said | freed by hand | off by |\n|---|---|---|---|---|")
    for name, op, (place, method, instead) in TAKEN:
        torch.manual_seed(0)
        fn, args = models.MODELS[name]()
        before = audit(fn, *args)
        said = sum(one.freed for one in before.advice if one.op == op)
        with patch.object(place, method, instead):
            freed = before.new_bytes - audit(fn, *args).new_bytes
        off = f"{abs(freed - said) / said:.1%}" if said else "–"
        print(f"| {name} | {op} | {said:,} | {freed:,} | {off} |", flush=True)


if __name__ == "__main__":
    main()

"""A decoder of four layers in PyTorch, as it is often written, and with up to four of its parts replaced."""

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import residuals_torch

LAYERS, WIDTH, HEADS, HIDDEN, CLASSES = 4, 1024, 16, 4096, 32000


class RMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH, dtype=torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        rstd = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * (wide * rstd).to(x.dtype)


class LeanRMSNorm(RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return residuals_torch.rms_norm(x, self.weight)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q @ k.mT * q.shape[-1] ** -0.5).float()
    mask = torch.ones_like(scores, dtype=torch.bool).tril()
    return torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=-1).to(v.dtype) @ v


def lean_attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return residuals_torch.flash_attention(q, k, v, is_causal=True)


def gate(a: Tensor, b: Tensor) -> Tensor:
    return F.silu(a) * b


def cross_entropy(x: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy((x @ head.T).float().flatten(0, 1), labels.flatten())


class Layer(nn.Module):
    def __init__(self, lean: Collection[str]) -> None:
        super().__init__()
        norm = LeanRMSNorm if "norm" in lean else RMSNorm
        self.norm1, self.norm2 = norm(), norm()
        self.attend = lean_attend if "attention" in lean else attend
        self.gate = residuals_torch.swiglu if "gate" in lean else gate
        self.qkv, self.out = linear(WIDTH, 3 * WIDTH), linear(WIDTH, WIDTH)
        self.up, self.down = linear(WIDTH, 2 * HIDDEN), linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(a) for a in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        x = x + self.out(self.attend(q, k, v).transpose(-2, -3).flatten(-2))
        return x + self.down(self.gate(*self.up(self.norm2(x)).chunk(2, dim=-1)))


class Decoder(nn.Module):
    def __init__(self, *lean: str) -> None:
        super().__init__()
        self.loss = residuals_torch.linear_cross_entropy if "loss" in lean else cross_entropy
        self.embedding = nn.Embedding(CLASSES, WIDTH, dtype=torch.bfloat16)
        self.layers = nn.ModuleList(Layer(lean) for _ in range(LAYERS))
        self.norm, self.head = LeanRMSNorm() if "norm" in lean else RMSNorm(), linear(WIDTH, CLASSES)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.loss(self.norm(x), self.head.weight, labels)


def linear(before: int, after: int) -> nn.Linear:
    return nn.Linear(before, after, bias=False, dtype=torch.bfloat16)


def heads(a: Tensor) -> Tensor:
    return a.unflatten(-1, (HEADS, -1)).transpose(-2, -3)


PARTS = ("attention", "loss", "norm", "gate")
usual, lean = Decoder(), Decoder(*PARTS)
